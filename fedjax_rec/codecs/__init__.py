"""Codecs: message transforms that shrink a client's message, with its size in bits."""
