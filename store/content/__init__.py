"""A message as bytes: its envelope, and its content taken apart into blocks and put together again.

A module belongs here when it turns the bytes of a message into others. It opens no file and knows no
transaction, so that it also runs in the processes that prepare messages for an import.
"""
