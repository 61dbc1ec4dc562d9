"""The backup repository: backends, encryption, packs, indexes, locks, prune and check.

A module belongs here when it keeps pieces of backups, whatever they hold. Snapshots and their meaning are
above.
"""
