"""The error of files that hold variables."""


class VariableFileError(Exception):
    """A `--vars` file cannot be used; the message says what is in it and what was wanted, on one line."""
