"""Run by torchrun: trains one recipe after another, as `gpt2lab train` would each.

many_runs.py start|crash|resume:RECIPE:OUT ...
"""

import contextlib
import sys
from pathlib import Path

import torch.distributed as dist

from gpt2lab.settings import read_recipe
from gpt2lab.training import run as runs
from gpt2lab.training.loop import Callback
from gpt2lab.training.recipe import Recipe


class Crash(Callback):
    """Ends a run after its fourth step, the third being saved."""

    def after_step(self, trainer, record):
        if record["step"] == 4:
            trainer._saver.wait()
            raise ZeroDivisionError


for word in sys.argv[1:]:
    what, recipe, out = word.split(":")
    settings = read_recipe(Path(recipe), Recipe)
    if what == "start":
        runs.start(settings, Path(out))
    elif what == "crash":
        with contextlib.suppress(ZeroDivisionError):
            runs.start(settings, Path(out), callbacks=[Crash()])
    else:
        runs.resume(Path(out), settings)
    assert not dist.is_initialized()
