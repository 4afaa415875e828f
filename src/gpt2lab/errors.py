"""The exceptions a person using gpt2lab can cause."""


class UserError(Exception):
    """A mistake the user can mend: one sentence naming the field or file and the remedy.

    The command line prints it without a traceback and exits with `status`.
    """

    status = 2


class DamagedInput(UserError):
    """Input that is truncated or corrupt: part of it was read, and the rest is known to be lost."""

    status = 3
