"""Detectors behind one interface; see `detector`."""

from typing import Any

from gpt2lab.detection.detectors.detector import Detector, Lesson
from gpt2lab.detection.detectors.ensemble import NAME as ENSEMBLE
from gpt2lab.detection.detectors.ensemble import Ensemble
from gpt2lab.detection.detectors.finetuned import Finetuned
from gpt2lab.detection.detectors.stats import Stats
from gpt2lab.detection.detectors.tfidf import Style, Tfidf
from gpt2lab.detection.detectors.trees import Trees
from gpt2lab.detection.detectors.zero_shot import Binoculars, Curvature

# Each has `fit(lesson)` beside what a Detector has.
KINDS: dict[str, Any] = {
    k.name: k for k in (Stats, Trees, Curvature, Binoculars, Tfidf, Style, Finetuned)
}

__all__ = ["ENSEMBLE", "KINDS", "Detector", "Ensemble", "Lesson"]
