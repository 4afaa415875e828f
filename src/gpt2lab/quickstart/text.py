"""Real English wherever gpt2lab is installed: the documentation inside the packages it needs.

Docstrings of the standard library, torch, numpy, sympy and networkx and the topics of pydoc make
some 16 MB in 25,000 documents. They are read from the source files with `ast`; nothing is imported
or run. Which text it is depends on the installed versions, so its digest is part of every result.
"""

import ast
import importlib.util
import inspect
import os
import sysconfig
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

from gpt2lab.corpus.document import Document

PACKAGES = ("torch", "numpy", "sympy", "networkx")
SKIPPED = {"site-packages", "dist-packages", "test", "tests", "idlelib", "lib2to3", "turtledemo"}
SHORTEST = 80
# Compiled functions have their documentation in calls to these.
DOC_CALLS = {"add_newdoc", "add_docstr", "add_docstr_all"}


def installed_documentation(
    on_progress: Callable[[float], None] = lambda fraction: None,
) -> list[Document]:
    """Every documentation text of at least 80 characters, once each, in a fixed order."""
    files = [
        (name, file) for name, root in _roots() for file in sorted(root.rglob("*.py"))
        if not SKIPPED & set(file.relative_to(root).parts)
    ]  # fmt: skip
    batches = [files[i : i + 64] for i in range(0, len(files), 64)]
    texts: dict[str, str] = {}
    # Spawned, not forked: torch's threads may be running by now.
    with ProcessPoolExecutor(os.cpu_count(), mp_context=get_context("spawn")) as pool:
        for number, found in enumerate(pool.map(_read_batch, batches), start=1):
            for name, text in found:
                texts.setdefault(text, name)
            on_progress(number / len(batches))
    return [Document(text, source=name) for text, name in texts.items()]


def _roots() -> Iterator[tuple[str, Path]]:
    yield "python", Path(sysconfig.get_paths()["stdlib"])
    for name in PACKAGES:
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.origin is not None:
            yield name, Path(spec.origin).parent


def _read_batch(files: list[tuple[str, Path]]) -> list[tuple[str, str]]:
    return [(name, text) for name, file in files for text in _read(file)]


def _read(file: Path) -> Iterator[str]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = ast.parse(file.read_bytes())
    except (SyntaxError, ValueError, OSError, RecursionError):
        return
    pydoc_topics = file.name == "topics.py" and file.parent.name == "pydoc_data"
    texts = _strings(tree) if pydoc_topics else _documentation(tree)
    for text in texts:
        clean = inspect.cleandoc(text).strip()
        if len(clean) >= SHORTEST and clean.isprintable() | ("\n" in clean) and _encodes(clean):
            yield clean


def _encodes(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:  # a docstring about surrogates
        return False
    return True


def _documentation(tree: ast.Module) -> Iterator[str]:
    """Docstrings of the module, classes and functions, and strings given to DOC_CALLS."""
    stack: list[ast.AST] = [tree]
    while stack:
        node = stack.pop()
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            text = ast.get_docstring(node, clean=False)
            if text:
                yield text
        elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
            if _called(node.value) in DOC_CALLS:
                yield from _strings(node.value)
            continue
        elif not isinstance(node, ast.If | ast.Try | ast.With | ast.For):
            continue
        stack.extend(reversed(list(ast.iter_child_nodes(node))))


def _called(call: ast.Call) -> str:
    function = call.func
    if isinstance(function, ast.Attribute):
        return function.attr
    return function.id if isinstance(function, ast.Name) else ""


def _strings(node: ast.AST) -> Iterator[str]:
    for inner in ast.walk(node):
        if isinstance(inner, ast.Constant) and isinstance(inner.value, str):
            yield inner.value
