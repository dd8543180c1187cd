"""Errors that are the user's to mend: one clear sentence, exit code 2, no traceback."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """Bad input. The message says what was given, what was expected and how to mend it."""


def near(word: str, known: Iterable[str], n: int = 3) -> str:
    """The names in ``known`` closest to a misspelt ``word``, or all of them, as 'a, b, c'."""
    names = sorted(known)
    return ", ".join(difflib.get_close_matches(word, names, n=n, cutoff=0.5) or names)
