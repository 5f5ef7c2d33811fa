# SPDX-License-Identifier: Apache-2.0
"""Typed access to the fields of a source record: a wrong type is an error, never converted."""

from collections.abc import Collection, Mapping
from typing import Any, TypeVar

from owl.errors import DataError

Value = TypeVar("Value")

JSON_NAMES: dict[type, str] = {
    str: "a string",
    int: "an integer",
    list: "a list",
    dict: "an object",
    bool: "true or false",
    float: "a number",
}


def typed(value: object, kind: type[Value], name: str) -> Value:
    """Return the value if it has the type; a bool is not a number. Raises DataError E203."""
    if not isinstance(value, kind) or (isinstance(value, bool) and kind not in (bool, object)):
        raise DataError("E203", f"{name}={value!r:.80} must be {JSON_NAMES[kind]}.")
    return value


def required(record: Mapping[str, Any], name: str, kind: type[Value], *, of: str = "") -> Value:
    """Return a required field. Raises DataError E203.

    Args:
        record: the object that has the field.
        name: of the field.
        kind: its type.
        of: path of the record, for the message: "conversations[2]".
    """
    path = f"{of}.{name}" if of else name
    if name not in record:
        raise DataError("E203", f"{path} is missing; the fields are {sorted(record)!r:.120}.")
    return typed(record[name], kind, path)


def string_list(value: object, name: str) -> list[str]:
    """Return a list of strings. Raises DataError E203."""
    items = typed(value, list, name)
    return [typed(item, str, f"{name}[{index}]") for index, item in enumerate(items)]


def leftovers(record: Mapping[str, Any], used: Collection[str]) -> dict[str, Any]:
    """Return the fields that the converter has not used."""
    return {name: value for name, value in record.items() if name not in used}


def number(value: object, name: str) -> float:
    """Return a number as a float. Raises DataError E203."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise DataError("E203", f"{name}={value!r:.80} must be a number.")
    return float(value)
