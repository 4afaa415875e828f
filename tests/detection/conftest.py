"""A small set of texts by the smallest reference model and by Python's authors, and detectors."""

from pathlib import Path

import pytest

import gpt2lab
from docstrings import SETUP, docstrings
from gpt2lab.detection import collect as room
from gpt2lab.detection.panel import Panel
from gpt2lab.detection.reading import Reader
from gpt2lab.detection.samples import Set
from gpt2lab.detection.train import train
from gpt2lab.evaluation.store import Store
from gpt2lab.evaluation.subject import Subject

MODELS = Path(__file__).parents[1] / "models"


@pytest.fixture(scope="session")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("detection")


@pytest.fixture(scope="session")
def human(work: Path) -> dict[str, Path]:
    """Two domains."""
    texts = docstrings()
    files = {}
    for name, part in (("early", texts[::2]), ("late", texts[1::2])):
        files[name] = work / f"{name}.txt"
        files[name].write_text("<|endoftext|>".join(part), "utf-8")
    return files


@pytest.fixture(scope="session")
def subject(work: Path):
    made = gpt2lab.load(str(MODELS / "reference-1M"))
    with Store(work / "answers.sqlite") as store:
        yield Subject(made.model, made.tokenizer, store=store)


@pytest.fixture(scope="session")
def texts(work: Path, human: dict[str, Path], subject: Subject) -> Set:
    sources = [room.Source(name, path) for name, path in human.items()]
    room.collect({"reference-1M": subject}, sources, work / "set", SETUP)
    return Set.load(work / "set")


@pytest.fixture(scope="session")
def panel(texts: Set, subject: Subject) -> Panel:
    source = {"reference-1M": str(MODELS / "reference-1M")}
    return train(texts, Reader({"reference-1M": subject}), sources=source)


@pytest.fixture(scope="session")
def detectors(panel: Panel, work: Path) -> Path:
    """The folder of the panel."""
    panel.save(work / "detectors")
    return work / "detectors"
