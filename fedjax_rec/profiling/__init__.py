"""Profiles of a run: its stages, recorded traces, and their summaries."""
