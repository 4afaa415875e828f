from dataclasses import dataclass, field
from typing import Literal

import pytest

from gpt2lab import UserError
from gpt2lab.settings import from_table, read_recipe, to_toml
from gpt2lab.training.recipe import Recipe


@dataclass(frozen=True)
class Inner:
    rate: float = 1e-4
    name: Literal["adamw", "muon"] = "adamw"
    on: bool = True
    limit: int | None = None


@dataclass(frozen=True)
class Outer:
    width: int = 3
    tags: tuple[str, ...] = ()
    inner: Inner = field(default_factory=Inner)


def read(table):
    return from_table(Outer, table, where="r.toml")


def test_values_and_defaults():
    assert read({}) == Outer()
    assert read({"inner": {"rate": 1}}).inner.rate == 1.0
    assert read({"tags": ["a"], "inner": {"limit": 4}}) == Outer(tags=("a",), inner=Inner(limit=4))


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ({"widht": 3}, "unknown key 'widht'; did you mean 'width'"),
        ({"inner": {"rat": 3}}, "unknown key 'inner.rat'; did you mean 'rate'"),
        ({"zzz": 3}, "known keys: width, tags, inner"),
        ({"width": "3"}, "'width' must be a whole number, not '3'"),
        ({"width": 3.5}, "'width' must be a whole number"),
        ({"width": True}, "'width' must be a whole number"),
        ({"inner": {"rate": "fast"}}, "'inner.rate' must be a number"),
        ({"inner": {"on": 1}}, "'inner.on' must be true or false"),
        ({"inner": {"name": "sgd"}}, "'inner.name' must be one of 'adamw', 'muon'"),
        ({"inner": 3}, "'inner' must be a table"),
        ({"tags": "a"}, "'tags' must be a list"),
    ],
)
def test_mistakes_name_the_key(table, words):
    with pytest.raises(UserError, match=words.replace(".", r"\.")) as caught:
        read(table)
    assert str(caught.value).startswith("r.toml")


def test_resolved_recipes_read_back_equal(tmp_path):
    for value in (Outer(), Outer(5, ("x", 'q"uote'), Inner(3e-5, "muon", False, 7))):
        path = tmp_path / "r.toml"
        path.write_text(to_toml(value), "utf-8")
        assert read_recipe(path, Outer) == value
    path.write_text(to_toml(Recipe()), "utf-8")
    assert read_recipe(path, Recipe) == Recipe()


def test_files_that_are_no_recipe(tmp_path):
    path = tmp_path / "r.toml"
    with pytest.raises(UserError, match="does not exist"):
        read_recipe(path, Outer)
    path.write_text("width = ")
    with pytest.raises(UserError, match="not valid TOML"):
        read_recipe(path, Outer)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(UserError, match="not UTF-8"):
        read_recipe(path, Outer)


def test_shipped_recipes_are_valid(request):
    from gpt2lab.corpus.recipe import Recipe as Corpus

    recipes = sorted((request.config.rootpath / "recipes").glob("*.toml"))
    corpora = [path for path in recipes if "[source]" in path.read_text()]
    assert len(corpora) == 5
    assert len(recipes) >= 7
    for path in recipes:
        if path in corpora:
            read_recipe(path, Corpus).check()
        else:
            read_recipe(path, Recipe)
