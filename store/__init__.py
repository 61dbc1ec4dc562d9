"""The engine: a transactional store of mailboxes and public folders, one LMDB and one stream a database."""
