"""The one exception a person using gpt2lab can cause."""


class UserError(Exception):
    """A mistake the user can mend: one sentence naming the field or file and the remedy.

    The command line prints it without a traceback and exits with status 2.
    """
