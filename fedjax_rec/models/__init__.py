"""Recommenders, each written for one client."""
