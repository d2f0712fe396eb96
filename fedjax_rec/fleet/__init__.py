"""Devices, cohorts, and the bytes and seconds that a round would cost."""
