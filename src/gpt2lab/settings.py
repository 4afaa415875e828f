"""Recipes: TOML files read into frozen dataclasses, and written back with every default filled in.

The dataclass is the single source of names, types, defaults and help; a recipe only overrides.
A key that no field has, or a value of the wrong type, is refused with the nearest right one.
"""

import dataclasses
import difflib
import json
import tomllib
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

from gpt2lab.errors import UserError

T = TypeVar("T")

_MOST_BYTES = 2**20
_NAMES = {int: "a whole number", float: "a number", str: "a string", bool: "true or false"}


def read_recipe(path: Path, cls: type[T]) -> T:
    """Read the TOML file `path` into the dataclass `cls`."""
    try:
        if path.exists() and not path.is_file():
            raise UserError(f"recipe {path} is not a file; check the path")
        if path.stat().st_size > _MOST_BYTES:
            raise UserError(f"recipe {path} is {path.stat().st_size:,} bytes long; check the path")
        table = tomllib.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise UserError(f"recipe {path} does not exist; check the path") from None
    except UnicodeDecodeError:
        raise UserError(f"recipe {path} is not UTF-8 text; save it as UTF-8") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"recipe {path} is not valid TOML: {error}") from None
    except OSError as error:
        raise UserError(f"cannot read recipe {path}: {error.strerror}") from None
    return from_table(cls, table, where=str(path))


def from_table(cls: type[T], table: dict[str, Any], *, where: str, prefix: str = "") -> T:
    """Build the dataclass `cls` from a TOML table; `where` names the file in error messages."""
    hints = typing.get_type_hints(cls)
    fields = {f.name: f for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    for key in table:
        if key not in fields:
            near = difflib.get_close_matches(key, fields, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known keys: {', '.join(fields)}"
            raise UserError(f"{where}: unknown key {prefix + key!r}; {hint}")
    values = {
        key: _convert(hints[key], value, where=where, key=prefix + key)
        for key, value in table.items()
    }
    missing = [
        prefix + name
        for name, field in fields.items()
        if name not in values
        and field.default is dataclasses.MISSING
        and field.default_factory is dataclasses.MISSING
    ]
    if missing:
        raise UserError(f"{where}: {missing[0]!r} is missing; add it")
    try:
        return cls(**values)
    except UserError as error:  # a rule that spans fields, checked in __post_init__
        raise UserError(f"{where}: {error}") from None


def _convert(hint: Any, value: Any, *, where: str, key: str) -> Any:
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        if not isinstance(value, dict):
            raise _wrong(where, key, "a table", value)
        return from_table(hint, value, where=where, prefix=f"{key}.")
    origin = get_origin(hint)
    if origin is Literal:
        if value not in get_args(hint):
            raise _wrong(where, key, "one of " + ", ".join(map(repr, get_args(hint))), value)
        return value
    if origin in (Union, types.UnionType):
        if value is None and type(None) in get_args(hint):
            return None
        inner = [a for a in get_args(hint) if a is not type(None)]
        return _convert(inner[0], value, where=where, key=key)
    if origin in (tuple, Mapping):
        return _convert_many(origin, get_args(hint), value, where=where, key=key)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        try:
            return float(value)
        except OverflowError:
            raise _wrong(
                where, key, "a number below 1e308", "one with hundreds of digits"
            ) from None
    if hint is Path and isinstance(value, str):
        value = Path(value)
    if isinstance(value, str) and "\0" in value:
        raise _wrong(where, key, "a string without NUL characters", value)
    if not isinstance(value, hint) or (isinstance(value, bool) and hint is not bool):
        raise _wrong(where, key, _NAMES.get(hint, hint.__name__), value)
    return value


def _convert_many(
    origin: Any, hints: tuple[Any, ...], value: Any, *, where: str, key: str
) -> tuple[Any, ...] | dict[int, Any]:
    if origin is tuple:
        if not isinstance(value, list):
            raise _wrong(where, key, "a list", value)
        return tuple(_convert(hints[0], v, where=where, key=key) for v in value)
    # JSON and TOML write the keys, which are whole numbers here, as strings.
    if not isinstance(value, dict) or not all(k.isdecimal() and len(k) < 20 for k in value):
        raise _wrong(where, key, 'values by number, as in {"7": 1.5}', value)
    return {int(k): _convert(hints[1], v, where=where, key=f"{key}.{k}") for k, v in value.items()}


def _wrong(where: str, key: str, wanted: str, value: Any) -> UserError:
    return UserError(f"{where}: {key!r} must be {wanted}, not {value!r}")


def to_toml(value: Any) -> str:
    """Write a dataclass as TOML; None (a field left open) is left out, as TOML has no null."""
    lines: list[str] = []
    _write_table(value, "", lines)
    return "\n".join(lines) + "\n"


def _write_table(value: Any, name: str, lines: list[str]) -> None:
    scalars, tables = [], []
    for field in dataclasses.fields(value):
        item = getattr(value, field.name)
        if dataclasses.is_dataclass(item):
            tables.append((field.name, item))
        elif item is not None:
            scalars.append(f"{field.name} = {_scalar(item)}")
    if name and (scalars or not tables):
        lines.extend(["", f"[{name}]"] if lines else [f"[{name}]"])
    lines.extend(scalars)
    for key, item in tables:
        _write_table(item, f"{name}.{key}" if name else key, lines)


def _scalar(value: Any) -> str:
    if isinstance(value, tuple):
        return "[" + ", ".join(_scalar(v) for v in value) + "]"
    if isinstance(value, float):
        return repr(value)  # repr keeps every bit; TOML reads 1e-05, inf and nan as Python writes
    return json.dumps(value, ensure_ascii=False)
