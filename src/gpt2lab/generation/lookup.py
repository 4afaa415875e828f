"""Guesses at the next tokens from the text itself: what followed the last few the time before."""

from collections.abc import Sequence

# Of three lengths of what the text repeats, the longest that is found counts.
GRAMS = (5, 3, 2)


class Lookup:
    """An index of a growing text's runs of a few tokens (prompt lookup; Saxena 2023).

    It guesses two tokens, and two more for each of the last ones that it foretold in a row.
    """

    def __init__(self) -> None:
        self._after: dict[tuple[int, ...], int] = {}
        self._known = 0
        self._right = 0

    def guess(self, tokens: Sequence[int], most: int) -> list[int]:
        """At most so many tokens that followed the text's last few when these last occurred.

        tokens: the same text as before, grown at its end.
        """
        for end in range(self._known, len(tokens)):
            at = self._last(tokens, end)
            self._right = self._right + 1 if at and tokens[at] == tokens[end] else 0
            for size in GRAMS:
                if size <= end:
                    self._after[tuple(tokens[end - size : end])] = end
        self._known = len(tokens)
        at = self._last(tokens, len(tokens))
        return list(tokens[at : at + min(most, 2 + 2 * self._right)]) if at else []

    def _last(self, tokens: Sequence[int], end: int) -> int | None:
        """Where the text went on the last time that it was as it is before `end`."""
        for size in GRAMS:
            at = self._after.get(tuple(tokens[max(0, end - size) : end]))
            if at:
                return at
        return None
