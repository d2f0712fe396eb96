"""Experiments as frozen dataclasses, and how they are built."""
