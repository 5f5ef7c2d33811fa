# SPDX-License-Identifier: Apache-2.0
"""Checks that many settings share; each yields a problem for the user."""

from collections.abc import Iterator


def too_small(name: str, value: float, minimum: float, why: str) -> Iterator[str]:
    """Yield a problem when a number is below its minimum."""
    if value < minimum:
        yield f"{name}={value} is below {minimum}: {why}. Use {minimum} or more."


def outside(name: str, value: float, low: float, high: float, why: str) -> Iterator[str]:
    """Yield a problem when a number is outside low <= value < high."""
    if not low <= value < high:
        yield f"{name}={value} is outside {low} <= value < {high}: {why}. Choose a value inside."


def not_dividing(name: str, value: int, width_name: str, width: int) -> Iterator[str]:
    """Yield a problem when a count does not divide a width."""
    if value < 1 or width % value:
        near = ", ".join(str(n) for n in range(1, width + 1) if width % n == 0 and n <= 256)
        yield f"{name}={value} does not divide {width_name}={width}. Use one of {near}."
