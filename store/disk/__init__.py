"""Bytes that survive: the stream's segments, redo records, checkpoints, LMDB, and the rows of the tables.

A module belongs here when it reads or writes a file of a database, or says how a row or frame is laid out.
The rooms above decide what is written; nothing here knows of transactions, folders or messages as objects.
"""
