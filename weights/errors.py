"""The errors a user can do something about."""


class UserError(Exception):
    """Bad input or wrong usage: nothing was started, and the user can correct it.

    The message is three sentences: what was given, what is expected, what to do.
    """

    exit_code = 2

    def __init__(self, given: str, expected: str, remedy: str) -> None:
        self.given = given
        self.expected = expected
        self.remedy = remedy
        super().__init__(" ".join(part for part in (given, expected, remedy) if part))


class OperationError(UserError):
    """The input was fine and the work failed: a broken download, a digest that does not match."""

    exit_code = 1
