# SPDX-License-Identifier: Apache-2.0
"""How many packs make an optimizer step."""

from owl.config.run import BatchConfig


def choose_global_batch_size(
    batch: BatchConfig, *, mean_samples_per_pack: float, dp_size: int
) -> int:
    """Decide the global batch in packs.

    Args:
        batch: `global_batch_size` if the user set it, else `samples_per_step`.
        mean_samples_per_pack: from the plan; 1 with packing off.
        dp_size: data-parallel ranks.

    Returns:
        Packs per step over all ranks, a multiple of micro_batch_size * dp_size that holds about
        the wanted number of samples.
    """
    if batch.global_batch_size is not None:
        return batch.global_batch_size
    assert batch.samples_per_step is not None, "the config check asks for one of the two"
    unit = batch.micro_batch_size * dp_size
    return max(1, round(batch.samples_per_step / mean_samples_per_pack / unit)) * unit
