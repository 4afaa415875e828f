"""Texts that people wrote and every Python has: long documentation strings of its own modules."""

import ast
import sysconfig
from pathlib import Path

from gpt2lab.detection.collect import Setup

SETUP = Setup(samplers=("t1", "k40"), prompt=16, shortest=60, longest=160, passages=2, samples=120)


def docstrings() -> list[str]:
    """Long documentation texts of Python's own modules."""
    found = []
    for file in sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py")):
        tree = ast.parse(file.read_bytes())
        for node in ast.walk(tree):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
                text = ast.get_docstring(node) or ""
                if len(text) > 500:
                    found.append(text)
    return found
