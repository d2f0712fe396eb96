"""Attacks: message transforms of clients that send false deltas."""
