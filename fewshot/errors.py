"""What ends a run with one line: a user's mistake, and numbers that are no longer finite."""


class UserError(Exception):
    """Something the user can mend: shown as one line, without a traceback, with exit code 2.

    The message names what is wrong and how to mend it.
    """


class Diverged(Exception):
    """A loss, a weight or a score is no longer finite."""
