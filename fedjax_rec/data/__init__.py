"""Interactions, sources, splits, partitions, negatives, client arrays."""
