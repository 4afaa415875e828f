"""Which sites a corpus comes from, beside those OpenAI published for WebText (`domains.txt`)."""

from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from gpt2lab.corpus import urls
from gpt2lab.errors import UserError


def count(addresses: Iterable[str]) -> Counter[str]:
    """Documents by the label of their registered domain, as `domains.txt` writes it."""
    hosts = Counter(urls.host(url) for url in addresses if url)
    labels: Counter[str] = Counter()
    for host, n in hosts.items():
        if host:
            labels[urls.domain_label(host)] += n
    return labels


def read_published(path: Path) -> dict[str, int]:
    """`count label` lines, as openai/gpt-2 publishes them."""
    try:
        rows = [line.split() for line in path.read_text("utf-8").splitlines()]
        # One line of the published file has a count and no label: addresses without a domain.
        table = {row[1]: int(row[0]) for row in rows if len(row) > 1}
        if not table:
            raise ValueError
        return table
    except FileNotFoundError:
        raise UserError(f"{path} does not exist; get domains.txt from openai/gpt-2") from None
    except (ValueError, OSError):
        raise UserError(
            f"{path} is no list of 'count label' lines; get it from openai/gpt-2"
        ) from None


def compare(ours: Mapping[str, int], published: Mapping[str, int], top: int = 50) -> dict[str, Any]:
    """Rank correlation over the labels both have, and what is missing and in excess.

    missing: published labels in order of their rank that we lack. excess: our most frequent labels
    that are not among the published ones.
    """
    both = sorted(set(ours) & set(published))
    ranked = sorted(ours, key=lambda label: (-ours[label], label))
    return {
        "labels": len(ours),
        "shared": len(both),
        "published": len(published),
        "rank_correlation": _spearman([ours[b] for b in both], [published[b] for b in both]),
        "missing": [label for label in published if label not in ours][:top],
        "excess": [label for label in ranked if label not in published][:top],
    }


def _spearman(a: list[int], b: list[int]) -> float | None:
    """Spearman's rank correlation, ties at their mean rank; None for fewer than three values."""
    if len(a) < 3 or len(set(a)) == 1 or len(set(b)) == 1:
        return None
    return round(float(np.corrcoef(_ranks(a), _ranks(b))[0, 1]), 4)


def _ranks(values: list[int]) -> npt.NDArray[np.float64]:
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    return (ends - (counts - 1) / 2)[inverse]


def shown(comparison: dict[str, Any], whole: bool) -> dict[str, Any]:
    """A comparison for a person: lists as text, cut to what a line holds."""
    if whole:
        return comparison
    lists = {name: ", ".join(comparison[name][:12]) for name in ("missing", "excess")}
    return comparison | lists
