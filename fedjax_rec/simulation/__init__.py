"""Rounds, populations, evaluation and the loop."""
