"""The record everything in the corpus is made of."""

import hashlib
from dataclasses import dataclass


@dataclass(frozen=True)
class Document:
    """One text and where it is from. `score` and `date` are of the link that led to it."""

    text: str
    source: str = ""
    url: str | None = None
    score: int | None = None
    date: str | None = None

    @property
    def id(self) -> str:
        """SHA-256 of the text, so that equal texts are one document wherever they come from."""
        return hashlib.sha256(self.text.encode("utf-8", "surrogatepass")).hexdigest()

    def held_out(self, fraction: float) -> bool:
        """Whether this document is in the held-out part: decided by its text alone.

        So the split does not depend on the order of documents, and equal texts fall on one side.
        """
        return int(self.id[:8], 16) < fraction * 2**32
