"""Contracts and arrays that every layer uses."""
