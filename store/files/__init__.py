"""Mail files in and out: mbox, Maildir and EML, import and export, and the processes that prepare an import.

A module belongs here when it knows a format of mail that is not ours.
"""
