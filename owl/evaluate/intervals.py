# SPDX-License-Identifier: Apache-2.0
"""95 % confidence intervals of a mean score."""

import math
from collections.abc import Sequence

import numpy as np

_Z = 1.959964
"""Standard deviations that hold 95 % of a normal distribution."""
_RESAMPLES = 1000


def interval(scores: Sequence[float]) -> tuple[float, float]:
    """Return the interval of the mean: Wilson's for scores of 0 and 1, else by bootstrap."""
    if not scores:
        return math.nan, math.nan
    if set(scores) <= {0.0, 1.0}:
        return wilson(round(sum(scores)), len(scores))
    rng, all_of_them = np.random.default_rng(0), np.asarray(scores, np.float64)
    means = [rng.choice(all_of_them, len(scores)).mean() for _ in range(_RESAMPLES)]
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)


def wilson(right: int, asked: int) -> tuple[float, float]:
    """Return Wilson's interval for a share of right answers (JASA 22, 1927)."""
    share, spread = right / asked, _Z**2 / asked
    middle = (share + spread / 2) / (1 + spread)
    reach = _Z * math.sqrt(share * (1 - share) / asked + spread / (4 * asked)) / (1 + spread)
    return max(0.0, middle - reach), min(1.0, middle + reach)
