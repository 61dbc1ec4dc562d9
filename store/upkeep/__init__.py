"""Work on a whole database: check, repair, maintenance, moves of mailboxes, and what is done each day.

A module belongs here when an administrator or a clock starts it, not a client.
"""
