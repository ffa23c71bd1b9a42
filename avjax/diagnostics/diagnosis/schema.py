"""A small validation of JSON against a JSON Schema: the words that ``report.schema.json`` uses, and no others."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

# What a schema may hold without asking anything of the value.
_SILENT = {"$schema", "$id", "$defs", "title", "description"}


class SchemaError(ValueError):
    """JSON that is not what its schema says; the message says where."""


@functools.cache
def report_schema() -> dict[str, Any]:
    """The schema of report.json, as it is shipped."""
    return json.loads((Path(__file__).parent / "report.schema.json").read_text(encoding="utf-8"))


def validate(value: Any, schema: Mapping[str, Any]) -> None:
    """Holds a value to a schema of draft 2020-12.

    Raises:
      SchemaError: with every fault, at most ten.
    """
    faults = [f"{where or 'the whole'}: {fault}" for where, fault in _faults(value, schema, schema, "")]
    if faults:
        more = f"; and {len(faults) - 10} more" if len(faults) > 10 else ""
        raise SchemaError("; ".join(faults[:10]) + more)


def _faults(value: Any, schema: Mapping[str, Any], root: Mapping[str, Any], where: str) -> Iterator[tuple[str, str]]:
    if "$ref" in schema:
        yield from _faults(value, root["$defs"][schema["$ref"].removeprefix("#/$defs/")], root, where)
        return
    wanted = schema.get("type", [])
    wanted = [wanted] if isinstance(wanted, str) else wanted
    if wanted and not any(_TYPES[name](value) for name in wanted):
        yield where, f"is {type(value).__name__}, must be {' or '.join(wanted)}"
        return
    for word, asked in schema.items():
        if word in _ASKS:
            fault = _ASKS[word](value, asked)
            if fault:
                yield where, fault
        elif word not in _SILENT | {"type", "properties", "additionalProperties", "items"}:
            raise KeyError(f"the schema's word {word!r} is not known here")
    yield from _inside(value, schema, root, where)


def _inside(value: Any, schema: Mapping[str, Any], root: Mapping[str, Any], where: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, list) and "items" in schema:
        for place, part in enumerate(value):
            yield from _faults(part, schema["items"], root, f"{where}[{place}]")
    if isinstance(value, dict):
        known = schema.get("properties", {})
        others = schema.get("additionalProperties", True)
        for name, part in value.items():
            inner = f"{where}.{name}" if where else name
            if name in known:
                yield from _faults(part, known[name], root, inner)
            elif others is False:
                yield inner, "is not part of it"
            elif others is not True:
                yield from _faults(part, others, root, inner)


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


_TYPES: dict[str, Callable[[Any], bool]] = {
    "object": lambda value: isinstance(value, dict),
    "array": lambda value: isinstance(value, list),
    "string": lambda value: isinstance(value, str),
    "boolean": lambda value: isinstance(value, bool),
    "null": lambda value: value is None,
    "number": _number,
    "integer": lambda value: _number(value) and float(value).is_integer(),
}


def _required(value: Any, names: list[str]) -> str:
    missing = [name for name in names if isinstance(value, dict) and name not in value]
    return f"has no {', '.join(missing)}" if missing else ""


_ASKS: dict[str, Callable[[Any, Any], str]] = {
    "required": _required,
    "const": lambda value, asked: "" if value == asked else f"is {value!r}, must be {asked!r}",
    "enum": lambda value, asked: "" if value in asked else f"is {value!r}, must be one of {asked}",
    "minimum": lambda value, asked: f"is {value}, must be {asked} at least" if _number(value) and value < asked else "",
    "minLength": lambda value, asked: "is too short" if isinstance(value, str) and len(value) < asked else "",
}
