"""Transports: they bring frames to another store, or lose them.

A module belongs here when it moves frames and understands none of what is in them.
"""
