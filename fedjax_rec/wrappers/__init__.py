"""Wrappers of a recipe: each turns a federated system into another one."""
