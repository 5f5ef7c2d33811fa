# SPDX-License-Identifier: Apache-2.0
"""Every setting's name, type, default and description, read from RunConfig.

The page of `--help`, and messages such as "did you mean", are made from this.
"""

import ast
import dataclasses
import difflib
import inspect
import types
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from itertools import pairwise
from typing import Any, Union, get_args, get_origin, get_type_hints

from owl.config.run import RunConfig

ANY_NAME = "NAME"
"""Placeholder for the key of a free dictionary, as in data.sources.NAME.path."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """One leaf of the tree of settings."""

    name: str  # dotted, as typed on the command line
    annotation: Any  # resolved type, such as int or list[int] or float | None
    default: Any
    doc: str  # the docstring under the field, "" when it has none

    @property
    def expects(self) -> str:
        """Describe the values it takes."""
        return describe_type(self.annotation)


@cache
def all_settings() -> tuple[Setting, ...]:
    """Every leaf of RunConfig, in the order of the source."""
    return tuple(_leaves(RunConfig, ""))


def find_setting(name: str) -> Setting | None:
    """Find a leaf by its dotted name; keys of free dictionaries match anything."""
    parts = name.split(".")
    for setting in all_settings():
        pattern = setting.name.split(".")
        pairs = zip(pattern, parts, strict=False)
        if len(pattern) == len(parts) and all(p in (q, ANY_NAME) for p, q in pairs):
            return setting
    return None


def closest(name: str, choices: Iterable[str]) -> str | None:
    """Return the choice most similar to a misspelt name, None if none is similar."""
    found = difflib.get_close_matches(name, list(choices), n=1, cutoff=0.6)
    return found[0] if found else None


def closest_setting(name: str) -> str | None:
    """Return the setting that a misspelt name most likely means.

    The last part alone is tried too, so that `tensor=2` finds parallel.tensor.
    """
    names = [setting.name for setting in all_settings()]
    full = closest(name, names)
    if full:
        return full
    last_part = {n.rsplit(".", 1)[-1]: n for n in reversed(names)}
    alone = closest(name.rsplit(".", 1)[-1], last_part)
    return last_part[alone] if alone else None


def describe_type(annotation: Any) -> str:
    """Describe the values that a type admits, for example "a whole number or null"."""
    if _is_union(annotation):
        return " or ".join(describe_type(part) for part in get_args(annotation))
    if get_origin(annotation) is list:
        return f"a list such as [0, 8], each {describe_type(get_args(annotation)[0])}"
    if isinstance(annotation, type) and issubclass(annotation, StrEnum):
        return f"one of {', '.join(member.name for member in annotation)}"
    if dataclasses.is_dataclass(annotation) or get_origin(annotation) is dict:
        return "a group of settings"
    words = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
    return words.get(annotation, "null" if annotation is types.NoneType else str(annotation))


def enum_members(annotation: Any) -> Sequence[str]:
    """Return the names that an enum type (or an optional one) admits; empty for other types."""
    parts = get_args(annotation) if _is_union(annotation) else (annotation,)
    return [
        member.name
        for part in parts
        if isinstance(part, type) and issubclass(part, StrEnum)
        for member in part
    ]


def _leaves(node: Any, prefix: str) -> Iterator[Setting]:
    types_of, docs = get_type_hints(node), _field_docs(node)
    for field in dataclasses.fields(node):
        name, annotation = f"{prefix}{field.name}", types_of[field.name]
        inner = get_args(annotation)[1] if get_origin(annotation) is dict else None
        if inner is not None:
            yield from _leaves(inner, f"{name}.{ANY_NAME}.")
        elif dataclasses.is_dataclass(annotation):
            yield from _leaves(annotation, f"{name}.")
        else:
            doc = docs.get(field.name) or _enum_doc(annotation)
            yield Setting(name=name, annotation=annotation, default=_default(field), doc=doc)


def _enum_doc(annotation: Any) -> str:
    """Return an enum's docstring, for a field without one."""
    return inspect.getdoc(annotation) or "" if enum_members(annotation) else ""


def _default(field: "dataclasses.Field[Any]") -> Any:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return field.default


def _field_docs(node: type) -> dict[str, str]:
    """Map a node's fields to the string literal under each, which Python does not keep."""
    docs: dict[str, str] = {}
    for kind in filter(dataclasses.is_dataclass, reversed(node.__mro__)):
        for statement, after in pairwise(_class_body(kind)):
            if not (
                isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name)
            ):
                continue
            if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant):
                docs[statement.target.id] = " ".join(str(after.value.value).split())
    return docs


def _class_body(kind: type) -> list[ast.stmt]:
    (statement,) = ast.parse(inspect.getsource(kind)).body
    assert isinstance(statement, ast.ClassDef)
    return statement.body


def _is_union(annotation: Any) -> bool:
    return get_origin(annotation) in (Union, types.UnionType)
