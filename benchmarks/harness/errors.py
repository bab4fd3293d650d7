"""The one error users are meant to read."""


class UsageError(Exception):
    """Something the user can put right: shown as one line, exit code 2, no traceback."""
