# SPDX-License-Identifier: Apache-2.0
"""How much mPLUG-Owl computes: a CLIP tower, the abstractor, and a plain LLaMA over all rows."""

from owl.data.passes import spliced_flops, spliced_tile_cost

batch_flops = spliced_flops
tile_cost = spliced_tile_cost
