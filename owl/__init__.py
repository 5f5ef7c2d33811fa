# SPDX-License-Identifier: Apache-2.0
"""Train mPLUG-Owl3 on megatron-core: packs in, checkpoints out, one result in every layout."""

__version__ = "0.1.0"
