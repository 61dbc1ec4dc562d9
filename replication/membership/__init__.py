"""Membership: who belongs to a tree, and by which certificate others know it.

A module belongs here when it decides or makes something of keys, certificates, invitations and renewals, out
of bytes and times that are passed in. Files and connections are for others.
"""
