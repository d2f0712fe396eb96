"""Sweeps: points of a grid or a sample, run together where they share shapes."""
