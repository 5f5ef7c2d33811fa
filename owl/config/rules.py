# SPDX-License-Identifier: Apache-2.0
"""Rules that many settings share, as sentences for the user."""

from collections.abc import Iterator


def too_small(name: str, value: float, minimum: float, why: str) -> Iterator[str]:
    """Yield a sentence when a number is below the least value that means something."""
    if value < minimum:
        yield f"{name}={value} is below {minimum}: {why}. Use {minimum} or more."


def outside(name: str, value: float, low: float, high: float, why: str) -> Iterator[str]:
    """Yield a sentence when a number is outside low <= value < high."""
    if not low <= value < high:
        yield f"{name}={value} is outside {low} <= value < {high}: {why}. Choose a value inside."


def not_dividing(name: str, value: int, whole_name: str, whole: int) -> Iterator[str]:
    """Yield a sentence when a count does not divide the width that is shared out."""
    if value < 1 or whole % value:
        near = ", ".join(str(n) for n in range(1, whole + 1) if whole % n == 0 and n <= 256)
        yield f"{name}={value} does not divide {whole_name}={whole}. Use one of {near}."
