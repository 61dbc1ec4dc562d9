"""The organisation as replication sees it: servers in sites, what it costs to reach them, and whom to ask for
what. Values and pure functions."""
