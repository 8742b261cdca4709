"""Typed configurations: a frozen dataclass, and ``key=value`` words that change it."""

import ast
import dataclasses
import difflib
import types
import typing
from collections.abc import Sequence
from typing import Any, TypeVar

T = TypeVar("T")


class ConfigError(ValueError):
    """A field or a value that the configuration does not have; says what there is."""


def option(default: Any, doc: str) -> Any:
    """A field of a configuration with its default and one line on what it is."""
    return dataclasses.field(default=default, metadata={"doc": doc})


def nearest(word: str, known: Sequence[str], what: str) -> str:
    """Says that there is no such thing, and what there is that looks like it.

    >>> nearest("digit", ["digits", "bytes"], "workload")
    "there is no workload 'digit'; did you mean digits?"
    """
    near = difflib.get_close_matches(word, known, n=3, cutoff=0.4)
    hint = f"did you mean {', '.join(near)}?" if near else f"there are {', '.join(known)}"
    return f"there is no {what} '{word}'; {hint}"


def type_name(hint: Any) -> str:
    """``int``, ``tuple of int``, ``float or None`` …

    >>> type_name(tuple[int, ...]), type_name(float | None)
    ('tuple of int', 'float or None')
    """
    if hint is type(None):
        return "None"
    if typing.get_origin(hint) is tuple:
        return f"tuple of {type_name(typing.get_args(hint)[0])}"
    if typing.get_origin(hint) in (types.UnionType, typing.Union):
        return " or ".join(type_name(h) for h in typing.get_args(hint))
    return getattr(hint, "__name__", str(hint))


def _parse(text: str, hint: Any) -> Any:
    """The value that ``text`` stands for; raises ValueError where it is none of that type."""
    if typing.get_origin(hint) in (types.UnionType, typing.Union):
        for choice in typing.get_args(hint):
            try:
                return _parse(text, choice)
            except ValueError:
                continue
        raise ValueError
    if hint is type(None):
        if text.lower() == "none":
            return None
        raise ValueError
    if hint is bool:
        if text.lower() in ("true", "yes", "1"):
            return True
        if text.lower() in ("false", "no", "0"):
            return False
        raise ValueError
    if hint is int:
        number = float(text) if "e" in text.lower() else int(text)  # 1e4 is an honest way to write an int
        if number != int(number):
            raise ValueError
        return int(number)
    if hint is float:
        return float(text)
    if hint is str:
        return text
    if typing.get_origin(hint) is tuple:
        item = typing.get_args(hint)[0]
        words = text.strip("()[]").replace(",", " ").split()
        if item is int and len(words) == 1 and ".." in words[0]:  # 0..7
            low, high = words[0].split("..")
            return tuple(range(int(low), int(high) + 1))
        return tuple(_parse(word, item) for word in words)
    return ast.literal_eval(text)


def apply_settings(config: T, settings: Sequence[str]) -> T:
    """A copy of ``config`` with ``key=value`` words applied.

    Raises:
      ConfigError: no ``=``, an unknown field (the nearest names are given), or a value of another type.

    >>> @dataclasses.dataclass(frozen=True)
    ... class Config:
    ...     steps: int = option(100, "training steps")
    ...     seeds: tuple[int, ...] = option((0,), "one member for each")
    >>> apply_settings(Config(), ["steps=1e3", "seeds=0..2"])
    Config(steps=1000, seeds=(0, 1, 2))
    >>> apply_settings(Config(), ["step=3"])
    Traceback (most recent call last):
    jaxtrain.config.ConfigError: there is no field 'step'; did you mean steps?
    """
    hints = typing.get_type_hints(type(config))
    changes = {}
    for word in settings:
        key, equals, text = word.partition("=")
        if not equals:
            raise ConfigError(f"a setting is written key=value, got '{word}'")
        if key not in hints:
            near = difflib.get_close_matches(key, hints, n=3, cutoff=0.5)
            hint = f"did you mean {', '.join(near)}?" if near else f"the fields are {', '.join(hints)}"
            raise ConfigError(f"there is no field '{key}'; {hint}")
        try:
            changes[key] = _parse(text, hints[key])
        except (ValueError, SyntaxError):
            raise ConfigError(f"{key} is a field of type {type_name(hints[key])}, '{text}' is none") from None
    return dataclasses.replace(config, **changes)


def describe(config: Any) -> str:
    """Every field with its type, default and meaning, for ``--help``."""
    hints = typing.get_type_hints(type(config))
    lines = []
    for field in dataclasses.fields(config):
        default = getattr(config, field.name)
        shown = ",".join(map(str, default)) if isinstance(default, tuple) else default
        lines.append(
            f"  {field.name}={shown}".ljust(30) + f" {type_name(hints[field.name])}: {field.metadata.get('doc', '')}"
        )
    return "\n".join(lines)
