"""Snapshots of a running store, the repository that keeps them, and recovery down to one mailbox."""
