"""The errors that loading and fetching a backbone raise."""


class BackboneError(ValueError):
    """A folder, file or option is not what a backbone needs.

    The message reads `FILE: found X; expected Y. What to do.`, with the parts that
    apply.

    Args:
        found: what is there; alone, it is the whole message.
        file: the file or folder it is about.
        expected: what should be there.
        fix: a sentence that says what to do.
    """

    def __init__(
        self, found: str, *, file: object = None, expected: str = "", fix: str = ""
    ):
        where = "" if file is None else f"{file}: "
        message = where + ("found " if where and expected else "") + found
        if expected:
            message += f"; expected {expected}"
        if fix:
            message += f". {fix}"
        super().__init__(message)


class Unreachable(BackboneError):
    """A registry does not answer, or does not have what was asked for."""
