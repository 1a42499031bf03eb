"""The configuration against its schema: defaults filled in, the first fault told in one line."""

import re
from collections.abc import Iterator, Mapping
from copy import deepcopy
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml
from jsonschema import Draft202012Validator, ValidationError

NUMBER = re.compile(r"-?\d+(\.\d+)?|true|false", re.IGNORECASE)


class ConfigError(ValueError):
    """The configuration does not fit; the message names the key, what it is and what is allowed."""


def checked(config: dict[str, Any], schema_path: str | Path) -> dict[str, Any]:
    """A copy of the configuration with every default of the schema filled in."""
    schema = _schema(Path(schema_path))
    full = deepcopy(dict(config))
    for error in sorted(Draft202012Validator(schema).iter_errors(full), key=_depth):
        raise ConfigError(f"configuration, {_place(error)}: {_complaint(error)}")
    _fill(full, schema, schema)
    return full


@lru_cache
def _schema(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def typed(value: Any) -> Any:
    """Numbers, true and false as such: inside {...}, Snakemake's --config leaves them text."""
    if isinstance(value, Mapping):
        return {name: typed(part) for name, part in value.items()}
    if isinstance(value, list):
        return [typed(part) for part in value]
    if not isinstance(value, str):
        return value
    read = yaml.safe_load(value) if NUMBER.fullmatch(value) else value
    return read if str(read).lower() == value.lower() else value


def _depth(error: ValidationError) -> tuple[int, str]:
    return len(error.absolute_path), str(error.message)


def _place(error: ValidationError) -> str:
    return ".".join(str(step) for step in error.absolute_path) or "top level"


def _complaint(error: ValidationError) -> str:
    if error.validator == "additionalProperties":
        schema = error.schema
        patterns = schema.get("patternProperties", {})
        names = sorted(schema.get("properties", {})) or [f"names like {p}" for p in patterns]
        found = [name for name in error.instance if name not in schema.get("properties", {})]
        return f"unknown key '{found[0]}'; there is {', '.join(names)}"
    if error.validator == "enum":
        return f"{error.instance!r} is not one of {', '.join(map(str, error.validator_value))}"
    if error.validator == "minLength" and error.absolute_path[-1] == "revision":
        return "a source 'hub' needs the 40 hexadecimal digits of a commit"
    return error.message


# --- defaults ---


def _fill(value: Any, schema: dict[str, Any], root: dict[str, Any]) -> None:
    if not isinstance(value, dict):
        return
    for name, part in _parts(value, schema):
        part = _resolved(part, root)
        if "default" in part:
            value.setdefault(name, deepcopy(part["default"]))
        if name in value:
            _fill(value[name], part, root)


def _parts(value: dict[str, Any], schema: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    yield from schema.get("properties", {}).items()
    for part in schema.get("patternProperties", {}).values():
        yield from ((name, part) for name in value if name not in schema.get("properties", {}))


def _resolved(part: dict[str, Any], root: dict[str, Any]) -> dict[str, Any]:
    if "$ref" not in part:
        return part
    target: Any = root
    for step in part["$ref"].removeprefix("#/").split("/"):
        target = target[step]
    return {**target, **part}
