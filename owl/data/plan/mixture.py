# SPDX-License-Identifier: Apache-2.0
"""A blend of sources by weights or by epochs, by quota instead of by chance.

By weight, an epoch of the blend has as many samples as its sources have together, shared out by the
weights. By epochs, each source gives so many passes over itself, fractions included. When a quota
is more or less than the source holds, its own passes continue across epochs of the blend, so no
sample is favoured.
"""

from collections.abc import Sequence


def epoch_quotas(weights: Sequence[float], samples: int) -> list[int]:
    """Divide an epoch among sources by weight; what rounding leaves goes by largest remainder.

    Args:
        weights: one per source, relative to each other.
        samples: of the epoch.

    Returns:
        Samples from each source; they sum to `samples`.
    """
    total = sum(weights)
    exact = [samples * weight / total for weight in weights]
    quotas = [int(share) for share in exact]
    by_remainder = sorted(range(len(exact)), key=lambda i: (quotas[i] - exact[i], i))
    for source in by_remainder[: samples - sum(quotas)]:
        quotas[source] += 1
    return quotas


def repeated_quotas(epochs: Sequence[float], sizes: Sequence[int]) -> list[int]:
    """Samples that each source gives an epoch of the blend when it is passed `epochs` times.

    Args:
        epochs: passes over each source; 0.5 uses half of it, and the other half next time.
        sizes: samples that each source holds.
    """
    return [round(passes * size) for passes, size in zip(epochs, sizes, strict=True)]


def taken_before(quota: int, position: int, samples: int) -> int:
    """Count the samples a source has given when the blend is at `position` of its epoch.

    Rounded, not truncated, and monotone in position: the parts of consecutive windows are
    integers that sum to the quota exactly, however small the quota is.
    """
    return (2 * position * quota + samples) // (2 * samples)
