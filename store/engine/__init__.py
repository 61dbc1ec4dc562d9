"""Transactions on one database: how they begin, commit, are replayed after a crash, and are followed.

A module belongs here when it is needed for a change to become durable or to be found again, whatever was
changed.
"""
