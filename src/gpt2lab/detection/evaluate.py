"""What detectors are worth, on texts of documents that they have not seen.

Every table is of the split `test`. Thresholds of true-positive rates are those of its own people's
texts; rates of false positives are those that the calibration's p-values really have.
"""

from collections.abc import Sequence

from gpt2lab.detection import strength, trust
from gpt2lab.detection.findings import Findings, Setup
from gpt2lab.detection.panel import Panel
from gpt2lab.detection.reading import Reader
from gpt2lab.detection.samples import Set
from gpt2lab.detection.study import Study
from gpt2lab.evaluation.subject import Step, silent


def evaluate(
    panel: Panel, reader: Reader, sets: Sequence[Set], setup: Setup, step: Step = silent
) -> Findings:
    """Measure detectors on the test splits of sets.

    The first set is the one that they were trained on: detectors are trained on parts of it anew
    where a table says so. Of the others the texts of documents that were not learned from are
    taken, their generators as unseen ones.
    Raises UserError if the detectors are of another set, or there are too few texts.
    """
    study = Study(panel, reader, sets, setup, step)
    for part in (
        strength.overall, strength.lengths, strength.samplers, strength.generators,
        strength.across_generators, strength.across_samplers, trust.false_positives,
        trust.false_positives_by_length, trust.found, trust.long_texts, trust.held_out,
        trust.attacks, trust.unseen,
    ):  # fmt: skip
        with step(part.__name__.replace("_", " ")):
            study.findings.tables += list(part(study))
    return study.findings
