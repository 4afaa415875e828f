"""Guesses at the next tokens from the text itself: what followed the last few the time before."""

from collections.abc import Sequence

GRAM = 3


class Lookup:
    """An index of a growing text's runs of three tokens (prompt lookup; Saxena 2023)."""

    def __init__(self) -> None:
        self._after: dict[tuple[int, ...], int] = {}
        self._known = 0

    def guess(self, tokens: Sequence[int], count: int) -> list[int]:
        """At most `count` tokens that followed the text's last three when they last occurred.

        tokens: the same text as before, grown at its end.
        """
        for end in range(max(self._known, GRAM), len(tokens)):
            self._after[tuple(tokens[end - GRAM : end])] = end
        self._known = len(tokens)
        at = self._after.get(tuple(tokens[-GRAM:]))
        return [] if at is None else list(tokens[at : at + count])
