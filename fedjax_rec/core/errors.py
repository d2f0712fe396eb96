"""Errors that the command line shows without a traceback."""


class UserError(ValueError):
    """What the user can put right: shown as it is, without a traceback."""
