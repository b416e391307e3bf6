"""Errors that are the user's to mend: one clear sentence, no traceback."""


class UserError(ValueError):
    """A problem with an input, a setting or the machine; the message names the file or key and what to do."""
