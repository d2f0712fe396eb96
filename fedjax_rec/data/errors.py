"""The one error that reading data raises."""


class DataError(ValueError):
    """A file, folder or option is not what a source needs.

    The message reads `FILE, line N: found X; expected Y. What to do.`, with the parts
    that apply.

    Args:
        found: what is there; alone, it is the whole message.
        file: the file's name, with the archive it lies in.
        line: the line's number in the file, from 1.
        expected: what should be there.
        fix: a sentence that says what to do.
    """

    def __init__(
        self,
        found: str,
        *,
        file: object = None,
        line: int | None = None,
        expected: str = "",
        fix: str = "",
    ):
        where = "" if file is None else f"{file}: "
        if file is not None and line is not None:
            where = f"{file}, line {line}: "
        message = where + ("found " if where and expected else "") + found
        if expected:
            message += f"; expected {expected}"
        if fix:
            message += f". {fix}"
        super().__init__(message)
        self.file = None if file is None else str(file)
        self.line = line
