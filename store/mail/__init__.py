"""Mailboxes, folders and messages: the operations that a program calls, as functions over a transaction.

A module belongs here when it gives rows of the tables their meaning as mail. Work on a whole database or on
files outside of it is in the rooms above.
"""
