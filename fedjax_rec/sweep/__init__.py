"""Sweeps: points of a grid or a sample, run together if they share shapes."""
