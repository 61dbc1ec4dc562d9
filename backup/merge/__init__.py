"""The merge of one mailbox into another: sources, targets, filters, matching, and the report.

A module belongs here when it decides or does a part of bringing recovered mail back.
"""
