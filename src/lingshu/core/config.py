"""Configuration: dataclasses to YAML or JSON and back; overrides such as `stages.deep.steps=10`."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

from lingshu.core.errors import ConfigError, LingshuError, suggest_name
from lingshu.core.files import write_text
from lingshu.core.registry import get_attribute

C = TypeVar("C")
_SCALARS: Mapping[object, tuple[str, str]] = {
    str: ("a text", "name"),
    int: ("an integer", "10"),
    float: ("a number", "0.5"),
    bool: ("true or false", "true"),
    Path: ("a path", "folder/file"),
}
_UNKNOWN = ("another value", "...")
# The errors of pydantic about a type; others are about a value: a bound, a length, a pattern.
_TYPE_ERRORS = ("_type", "_parsing", "_from_float", "literal_error")


def to_plain(config: object) -> dict[str, Any]:
    """A configuration as plain JSON values."""
    import pydantic

    return pydantic.TypeAdapter(type(config)).dump_python(config, mode="json")


def from_plain(kind: type[C], value: object) -> C:
    """Build and validate a configuration from plain values.

    Raises:
        ConfigError: a wrong type, a missing value, or an unknown key; says what is expected.
    """
    import pydantic

    adapter = pydantic.TypeAdapter(kind)
    try:
        config = adapter.validate_python(value)
    except pydantic.ValidationError as error:
        raise ConfigError(_explain(kind, error.errors()[0])) from error
    except LingshuError as error:  # of a __post_init__, which does not know where it is
        path = _path_of_error(kind, value)
        raise ConfigError(f"{path}: {error}" if path else str(error)) from error
    except (ValueError, TypeError) as error:
        raise ConfigError(str(error)) from error
    _check_unknown_keys(value, adapter.dump_python(config, mode="json"), "")
    return config


def check_value(kind: Any, value: object, key: str) -> Any:
    """A value converted to the type `kind`, such as the annotation of a parameter.

    Raises:
        ConfigError: it is of another type; the message names `key`.
    """
    import pydantic

    try:
        return pydantic.TypeAdapter(kind).validate_python(value)
    except pydantic.ValidationError as error:
        raise ConfigError(_explain(kind, error.errors()[0], key)) from error


def _children(value: object) -> Iterable[tuple[Any, Any]]:
    """The keys or indices of a plain value with what is there."""
    if isinstance(value, dict):
        return value.items()
    return enumerate(value if isinstance(value, list | tuple) else ())


def _path_of_error(kind: Any, value: object) -> str:
    """The keys of the innermost part of `value` that a check of ours refuses."""
    import pydantic

    for key, part in _children(value):
        part_kind = _type_at(kind, key)
        if part_kind is None or not isinstance(part, dict | list | tuple):
            continue
        try:
            pydantic.TypeAdapter(part_kind).validate_python(part)
        except LingshuError:
            return ".".join(filter(None, (str(key), _path_of_error(part_kind, part))))
        except ValueError:
            continue
    return ""


def _explain(kind: Any, error: Any, prefix: str = "") -> str:
    """What is expected at the place of a validation error, and a line that works."""
    keys = [prefix] if prefix else []
    for part in error["loc"]:
        deeper = _type_at(kind, part)
        if deeper is not None:  # else the name of a member of a union, which is not a key
            kind = deeper
            keys.append(str(part))
    path = ".".join(keys) or getattr(kind, "__name__", str(kind))
    if error["type"] == "missing":
        expected, example = _expectation(kind)
        return f"{path} is missing; expected {expected}, such as `{keys[-1]}: {example}`."
    if error["type"] in ("value_error", "assertion_error"):
        return f"{path}: {error['msg'].partition(', ')[2].removesuffix('.')}."
    expected, example = _expectation(kind)
    given = error["input"]
    if expected == _UNKNOWN[0] or not error["type"].endswith(_TYPE_ERRORS):
        got = "" if isinstance(given, dict | list | tuple) else f" (got {given!r})"
        return f"{path}: {error['msg'].removesuffix('.')}{got}."
    got = {dict: "a mapping", list: "a list", tuple: "a list"}.get(type(given), repr(given))
    key = keys[-1] if keys else path
    line = f"`- {example}`" if key.isdigit() else f"`{key}: {example}`"
    return f"{path}: expected {expected}, got {got}; write it as {line}."


def _type_at(kind: Any, key: str | int) -> Any:
    """The type of a field, item or value of `kind`; None if it has no such part."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        found = (_type_at(member, key) for member in arguments)
        return next((member for member in found if member is not None), None)
    if origin is typing.Annotated:
        return _type_at(arguments[0], key)
    if dataclasses.is_dataclass(kind):
        return typing.get_type_hints(kind).get(str(key))
    if isinstance(key, int) and origin in (tuple, list, Sequence):
        return arguments[0] if len(arguments) == 1 or ... in arguments else arguments[key]
    if arguments and origin in (dict, Mapping):
        return arguments[1]
    return None


def _expectation(kind: Any) -> tuple[str, str]:
    """A type in words, and an example as YAML on one line."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if kind in _SCALARS:
        return _SCALARS[kind]
    if origin is typing.Annotated:
        return _expectation(arguments[0])
    if origin in (typing.Union, types.UnionType):
        members = [_expectation(member) for member in arguments if member is not type(None)]
        words = " or ".join(dict.fromkeys(words for words, _ in members))
        return words + (" or null" if type(None) in arguments else ""), members[0][1]
    if origin is Literal:
        return "one of " + ", ".join(map(repr, arguments)), str(arguments[0])
    if dataclasses.is_dataclass(kind):
        names = [field.name for field in dataclasses.fields(kind)]
        return f"a mapping with the keys {', '.join(names)}", f"{{{names[0]}: ...}}"
    if kind in (list, tuple) or origin in (tuple, list, Sequence):
        item = _expectation(arguments[0])[1] if arguments else "..."
        return "a list", f"[{item}]"
    if kind is dict or origin in (dict, Mapping):
        item = _expectation(arguments[1])[1] if arguments else "..."
        return "a mapping", f"{{key: {item}}}"
    return _UNKNOWN


def _check_unknown_keys(raw: object, validated: object, prefix: str) -> None:
    """Refuse keys that a dataclass lacks, which pydantic ignores."""
    if isinstance(raw, dict) and isinstance(validated, dict):
        for key, value in raw.items():
            if key not in validated:
                suggestion = suggest_name(str(key), map(str, validated))
                raise ConfigError(f"unknown key {prefix + str(key)!r}; {suggestion}")
            _check_unknown_keys(value, validated[key], f"{prefix}{key}.")
    elif isinstance(raw, list | tuple) and isinstance(validated, list):
        for index, (raw_item, item) in enumerate(zip(raw, validated, strict=False)):
            _check_unknown_keys(raw_item, item, f"{prefix}{index}.")


def override(config: C, changes: Sequence[str]) -> C:
    """Apply `a.b=v` changes: `v` is YAML, an item of a list is named by its `name` or index.

    An item with a name, such as a stage, is removed with null: `stages.deep=null`.

    Raises:
        ConfigError: no `=`, an unknown key, or a value of the wrong type.
    """
    import yaml

    plain = to_plain(config)
    for change in changes:
        path, equals, text = change.partition("=")
        if not equals:
            raise ConfigError(f"{change!r} is not an override; write key=value, such as seed=1.")
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise ConfigError(f"{change!r}: the value is not valid YAML ({error}).") from error
        _set_value(plain, path.split("."), value, path)
    return from_plain(type(config), plain)


def _set_value(node: Any, keys: list[str], value: object, path: str) -> None:
    key, *rest = keys
    index: Any = key
    if isinstance(node, list):
        labels = [_label(item) or str(i) for i, item in enumerate(node)]
        if key not in labels and not (key.isdigit() and int(key) < len(node)):
            raise ConfigError(f"unknown key {key!r} in {path!r}; {suggest_name(key, labels)}")
        index = labels.index(key) if key in labels else int(key)
    elif not isinstance(node, dict):
        raise ConfigError(f"{path!r} goes below a plain value; {key!r} cannot be set there.")
    elif key not in node:
        last = path.rpartition(".")[2]
        matches = sorted(p for p in _paths(node) if p.rpartition(".")[2] == last)
        hint = f"did you mean {matches[0]!r}?" if len(matches) == 1 else suggest_name(key, node)
        raise ConfigError(f"unknown key {key!r} in {path!r}; {hint}")
    if rest:
        _set_value(node[index], rest, value, path)
    elif value is None and isinstance(node, list) and _label(node[index]) is not None:
        del node[index]
    else:
        node[index] = value


def _label(item: Any) -> Any:
    """The name of an item of a list, such as a stage; None if it has none."""
    return item.get("name") if isinstance(item, dict) else None


def _paths(node: Any) -> Iterator[str]:
    """Every key below a plain value, as an override would name it."""
    for key, value in _children(node):
        key = key if isinstance(node, dict) else _label(value) or key
        yield str(key)
        yield from (f"{key}.{subpath}" for subpath in _paths(value))


def read_plain(path: Path) -> dict[str, Any]:
    """The mapping in a YAML or JSON file.

    Raises:
        ConfigError: the file is missing, is not YAML, or has no mapping.
    """
    import yaml

    try:
        value = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path} cannot be read ({error.strerror}); check the path.") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not valid YAML: {error}") from error
    if not isinstance(value, dict):
        problem = f"{path} has no mapping of keys to values"
        raise ConfigError(f"{problem}; write lines such as `seed: 0`.")
    return value


def read_recipe(recipe: str, kind: type[C], *, what: str) -> C:
    """The configuration of a recipe's name, a .py file, or a .yaml or .json file; `what` it must be.

    Raises:
        ConfigError, InputError, UnknownNameError: what is wrong, and the closest name.
    """
    if recipe.endswith((".yaml", ".yml", ".json")):
        return from_plain(kind, read_plain(Path(recipe)))
    factory = get_attribute("recipes", recipe, "recipe")
    config = factory() if callable(factory) else None
    if not isinstance(config, kind):
        raise ConfigError(f"{recipe!r} is not {what}; see `lingshu list recipes`.")
    return config


def write(config: object, path: Path) -> None:
    """Write a configuration so that it can be run again."""
    import yaml

    if not dataclasses.is_dataclass(config):
        raise TypeError(f"{type(config).__name__} is not a configuration")
    write_text(path, yaml.safe_dump(to_plain(config), sort_keys=False, allow_unicode=True))
