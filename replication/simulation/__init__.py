"""Whole organisations in virtual time: production code over stores made of dicts, a network that loses,
doubles and delays, machines that crash, clocks that lie, copies that are restored. A seed replays exactly.
"""
