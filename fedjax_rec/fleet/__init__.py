"""Devices, availability, sampling and costs."""
