"""The replicator's decisions: what arrives is applied, what is missing is asked for, and when. No clock,
network, thread or randomness: calls say what time it is and give back what is to be done."""
