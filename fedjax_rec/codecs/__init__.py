"""Codecs: what shrinks a client's message, with its exact size in bits."""
