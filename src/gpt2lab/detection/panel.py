"""Detectors that belong together: what they learned, the models they read with, their calibration.

On disk a folder: a manifest, and a folder of each detector's own files with its calibration.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from gpt2lab.detection.calibrate import FEWEST, Calibration
from gpt2lab.detection.detectors import ENSEMBLE, KINDS, Detector, Ensemble
from gpt2lab.detection.features import Floats
from gpt2lab.detection.reading import Reader, Reading
from gpt2lab.detection.samples import MANIFEST, read_manifest
from gpt2lab.errors import UserError
from gpt2lab.evaluation.subject import Subject
from gpt2lab.storage import atomic_folder, read_json, sha256, write_json

VERSION, KIND = 1, "detectors"
_CALIBRATION = "calibration.json"


@dataclass(frozen=True)
class Scorer:
    """A model that reads texts for detectors."""

    name: str
    source: str
    """Where it was when they were trained."""
    weights: str
    """Digest."""


@dataclass(frozen=True)
class Panel:
    """Detectors with their calibrations."""

    scorers: tuple[Scorer, ...]
    detectors: Mapping[str, Detector]
    ensemble: Ensemble | None
    calibrations: Mapping[str, Calibration]
    longest: int
    """Most tokens of the human texts that calibrate; longer texts are judged in windows."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """What they were trained on."""

    @property
    def names(self) -> list[str]:
        """The detectors; the one that decides unless another is named is first."""
        return [ENSEMBLE] * (self.ensemble is not None) + list(self.detectors)

    def require(self, name: str) -> str:
        """The name of a detector that is there; UserError if it is not."""
        if name not in self.names:
            raise UserError(f"no detector {name!r} was trained; there are {', '.join(self.names)}")
        return name

    def members(self, name: str) -> list[str]:
        """The detectors whose scores make up one's."""
        return list(self.ensemble.members) if self.ensemble and name == ENSEMBLE else [name]

    def cross(self, names: Sequence[str]) -> bool:
        """Whether what two models expect must be compared for some detectors."""
        return any(self.detectors[m].cross for name in names for m in self.members(name))

    def scores(self, readings: Sequence[Reading], names: Sequence[str]) -> dict[str, Floats]:
        """Scores [N] of texts by some detectors."""
        wanted = dict.fromkeys(m for name in names for m in self.members(name))
        found = {m: self.detectors[m].score(readings) for m in wanted}
        if self.ensemble and ENSEMBLE in names:
            found[ENSEMBLE] = self.ensemble.score(found)
        return {name: found[name] for name in names}

    def reader(self, subjects: Mapping[str, Subject]) -> Reader:
        """A reader with the models that the detectors were trained with.

        Raises UserError if one is missing or is another model.
        """
        for scorer in self.scorers:
            if scorer.name not in subjects:
                raise UserError(f"the detectors read with {scorer.name}; give that model, too")
            if subjects[scorer.name].digest != scorer.weights:
                raise UserError(
                    f"{scorer.name} is another model than the detectors were trained with (weights "
                    f"{subjects[scorer.name].digest[:12]}, not {scorer.weights[:12]}); give that "
                    "model in the same --dtype, or train them again"
                )
        return Reader({s.name: subjects[s.name] for s in self.scorers})

    def save(self, out: Path, *, overwrite: bool = False) -> None:
        """Write the folder `out` in one step."""
        with atomic_folder(out, overwrite=overwrite) as folder:
            every: dict[str, Any] = dict(self.detectors)
            if self.ensemble:
                every[ENSEMBLE] = self.ensemble
            for name, detector in every.items():
                (folder / name).mkdir()
                detector.save(folder / name)
                write_json(folder / name / _CALIBRATION, self.calibrations[name].table())
            files = sorted(file for file in folder.rglob("*") if file.is_file())
            write_json(
                folder / MANIFEST,
                {
                    "files": {str(file.relative_to(folder)): sha256(file) for file in files},
                    "kind": KIND,
                    "version": VERSION,
                    "detectors": list(self.detectors),
                    "ensemble": self.ensemble is not None,
                    "scorers": [vars(s) for s in self.scorers],
                    "longest": self.longest,
                    "facts": self.facts,
                },
            )

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read a folder; UserError naming what is missing or damaged."""
        table = read_manifest(folder, KIND, VERSION, "a folder of detectors", "train")
        where = f"{folder / MANIFEST}"
        try:
            names = [str(name) for name in table["detectors"]]
            kinds = {name: KINDS[name] for name in names}
            scorers = tuple(Scorer(**{k: str(v) for k, v in s.items()}) for s in table["scorers"])
            longest, facts = table["longest"], dict(table["facts"])
            digests = dict(table["files"])
            together = bool(table["ensemble"])
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError):
            raise UserError(f"{where} is damaged; train the detectors again") from None
        fine = names and scorers and isinstance(facts.get("generators", {}), dict)
        fine = fine and isinstance(longest, int) and longest >= FEWEST
        if not fine or any(k.models > len(scorers) for k in kinds.values()):
            raise UserError(f"{where} is damaged; train the detectors again")
        detectors = {
            name: kind.load(folder / name, [s.name for s in scorers])
            for name, kind in kinds.items()
        }
        ensemble = Ensemble.load(folder / ENSEMBLE) if together else None
        if ensemble and not set(ensemble.members) <= set(detectors):
            raise UserError(f"{folder / ENSEMBLE} is damaged; train the detectors again")
        calibrations = {
            name: Calibration.of_table(read_json(file), str(file))
            for name in [*names, *([ENSEMBLE] if ensemble else [])]
            for file in [folder / name / _CALIBRATION]
        }
        for file in (f for name in calibrations for f in sorted((folder / name).rglob("*"))):
            if file.is_file() and sha256(file) != digests.get(str(file.relative_to(folder))):
                raise UserError(f"{file} is not what {where} says; train the detectors again")
        return cls(scorers, detectors, ensemble, calibrations, longest, facts)
