"""The protocol, metrics and baselines."""
