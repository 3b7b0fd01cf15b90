"""The one exception for a user's mistake."""


class UserError(Exception):
    """Something the user can mend: shown as one line, without a traceback, with exit code 2.

    The message names what is wrong and how to mend it.
    """
