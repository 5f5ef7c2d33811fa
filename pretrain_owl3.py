# SPDX-License-Identifier: Apache-2.0
"""Pre-train mPLUG-Owl3: image-text pairs first, then documents with several images.

    torchrun --nproc-per-node 8 pretrain_owl3.py +experiment=stage1 model=owl3_7b_240728

`--help` lists every setting.
"""

from owl.config.load import run_with_config
from owl.config.run import RunConfig


def main(run: RunConfig) -> None:
    """Train; imported late, so that a config problem shows before torch and Megatron load."""
    from owl.train.run import train

    train(run)


if __name__ == "__main__":
    run_with_config("pretrain", main)
