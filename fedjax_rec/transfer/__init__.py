"""Ranking for another catalog than the one trained on."""
