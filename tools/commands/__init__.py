"""The commands of `pillarbox`: one module a group of commands, parser and action together.

A module belongs here when it holds commands. What several of them share is in `tools`.
"""
