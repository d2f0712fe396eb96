"""Aggregation rules: settings of folds over the clients' deltas."""
