"""Configuration: frozen dataclasses to YAML or JSON and back, and typed overrides such as
`stages.deep.steps=10`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from lingshu.core.errors import ConfigError, suggest_name
from lingshu.core.files import write_text

C = TypeVar("C")


def to_plain(config: object) -> dict[str, Any]:
    """A configuration as plain JSON values."""
    import pydantic

    return pydantic.TypeAdapter(type(config)).dump_python(config, mode="json")


def from_plain(kind: type[C], value: object) -> C:
    """Build a configuration from plain values, completely checked.

    Raises:
        ConfigError: a wrong type, a missing value, or an unknown key (the message names the
            nearest).
    """
    import pydantic

    adapter = pydantic.TypeAdapter(kind)
    try:
        config = adapter.validate_python(value)
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        location = (
            ".".join(str(part) for part in first["loc"] if not _is_type_name(part)) or kind.__name__
        )
        # What a whole section holds says nothing that its message does not, at great length.
        got = (
            "" if isinstance(first["input"], dict | list | tuple) else f" (got {first['input']!r})"
        )
        message = first["msg"].removeprefix("Value error, ").removesuffix(".")
        remedy = (
            "; write {key: value}"
            if first["type"] in ("dict_type", "mapping_type", "dataclass_type")
            else ""
        )
        raise ConfigError(f"{location}: {message}{got}{remedy}.") from error
    except (ValueError, TypeError) as error:
        raise ConfigError(str(error)) from error
    _check_unknown_keys(value, adapter.dump_python(config, mode="json"), "")
    return config


def _is_type_name(part: object) -> bool:
    # pydantic puts the name of the union member into the location; a person knows no such key.
    return isinstance(part, str) and (part in {"str", "int", "float"} or part[:1].isupper())


def _check_unknown_keys(raw: object, validated: object, prefix: str) -> None:
    """pydantic passes over keys that a standard dataclass lacks; here they are an error."""
    if isinstance(raw, dict) and isinstance(validated, dict):
        for key, value in raw.items():
            if key not in validated:
                raise ConfigError(
                    f"unknown key {prefix + str(key)!r}; {suggest_name(str(key), map(str, validated))}"
                )
            _check_unknown_keys(value, validated[key], f"{prefix}{key}.")
    elif isinstance(raw, list | tuple) and isinstance(validated, list):
        for index, (raw_item, validated_item) in enumerate(zip(raw, validated, strict=False)):
            _check_unknown_keys(raw_item, validated_item, f"{prefix}{index}.")


def override(config: C, changes: Sequence[str]) -> C:
    """Apply `a.b=v` changes; `v` is read as YAML, an item of a list is named by its `name` or its
    position.

    An item with a name of its own, such as a stage, is taken out with null: `stages.deep=null`.

    Raises:
        ConfigError: no `=`, an unknown key, or a value of the wrong type.
    """
    import yaml

    plain = to_plain(config)
    for change in changes:
        path, equals, text = change.partition("=")
        if not equals:
            raise ConfigError(f"{change!r} is no override; write key=value, such as seed=1.")
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise ConfigError(f"{change!r}: the value is no valid YAML ({error}).") from error
        _set_value(plain, path.split("."), value, path)
    return from_plain(type(config), plain)


def _set_value(node: Any, keys: list[str], value: object, path: str) -> None:
    key, *rest = keys
    if isinstance(node, list):
        labels = [
            item["name"] if isinstance(item, dict) and "name" in item else str(i)
            for i, item in enumerate(node)
        ]
        if key in labels:
            index: Any = labels.index(key)
        elif key.isdigit() and int(key) < len(node):
            index = int(key)
        else:
            raise ConfigError(f"unknown key {key!r} in {path!r}; {suggest_name(key, labels)}")
    elif isinstance(node, dict):
        if key not in node:
            matches = sorted(
                subpath
                for subpath in _paths(node)
                if subpath.rpartition(".")[2] == path.rpartition(".")[2]
            )
            suggestion = (
                f"did you mean {matches[0]!r}?" if len(matches) == 1 else suggest_name(key, node)
            )
            raise ConfigError(f"unknown key {key!r} in {path!r}; {suggestion}")
        index = key
    else:
        raise ConfigError(f"{path!r} goes below a plain value; {key!r} cannot be set there.")
    if rest:
        _set_value(node[index], rest, value, path)
    elif (
        value is None
        and isinstance(node, list)
        and isinstance(node[index], dict)
        and "name" in node[index]
    ):
        del node[index]
    else:
        node[index] = value


def _paths(node: Any) -> Iterator[str]:
    """Every key below a plain value, as an override would name it."""
    if isinstance(node, dict | list):
        items = (
            node.items()
            if isinstance(node, dict)
            else ((i.get("name", n) if isinstance(i, dict) else n, i) for n, i in enumerate(node))
        )
        for key, value in items:
            yield str(key)
            yield from (f"{key}.{subpath}" for subpath in _paths(value))


def read_plain(path: Path) -> dict[str, Any]:
    """The mapping in a YAML or JSON file.

    Raises:
        ConfigError: the file is missing, is no YAML, or holds no mapping.
    """
    import yaml

    try:
        value = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path} cannot be read ({error.strerror}); check the path.") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is no valid YAML: {error}") from error
    if not isinstance(value, dict):
        raise ConfigError(f"{path} holds no mapping of keys to values.")
    return value


def write(config: object, path: Path) -> None:
    """Write a configuration so that it can be run again."""
    import yaml

    if not dataclasses.is_dataclass(config):
        raise TypeError(f"{type(config).__name__} is no configuration")
    write_text(path, yaml.safe_dump(to_plain(config), sort_keys=False, allow_unicode=True))
