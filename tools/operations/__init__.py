"""Operations on a server that write: what a command, or another program, asks of whoever holds the databases.

A module belongs here when it holds operations: functions of a `Call`, which has the open server, and of plain
values, that return plain values. They run in the process of the command, or in the one that serves the
server.
"""
