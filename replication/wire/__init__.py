"""Messages between stores: their types, their bytes, and their seal."""
