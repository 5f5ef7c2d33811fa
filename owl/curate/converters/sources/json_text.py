# SPDX-License-Identifier: Apache-2.0
"""Strict json: what Python's parser would lose or accept silently is an error."""

import json
from typing import Any, NoReturn

from owl.errors import DataError


def parse_json(text: str | bytes) -> Any:
    """Parse one json value.

    Raises:
        DataError: E201 it is not UTF-8, not json, has a field twice (of which one would be lost),
            or has NaN or Infinity (which are not json).
    """
    try:
        decoded = text if isinstance(text, str) else text.decode("utf-8")
        return DECODER.decode(decoded)
    except (ValueError, RecursionError) as error:
        raise DataError("E201", f"this is not json: {error}.") from error


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not json")


def _refuse_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        names = [name for name, _ in pairs]
        twice = sorted({name for name in names if names.count(name) > 1})
        raise ValueError(f"the fields {twice} are there twice")
    return fields


DECODER = json.JSONDecoder(object_pairs_hook=_refuse_duplicates, parse_constant=_refuse_constant)
