"""The process that holds a server: `pillarbox serve`.

A module belongs here when only that process runs it, or when it speaks with that process. What is due is
decided by a pure function (`due`); the loop (`process`) starts it, waits, and looks again.
"""
