"""Pillarbox and its peers on one workload, in one run."""
