# SPDX-License-Identifier: Apache-2.0
"""Tune mPLUG-Owl3 on conversations, from a given checkpoint.

    torchrun --nproc-per-node 8 finetune_owl3.py +experiment=sft model=owl3_7b_240728

`--help` lists every setting.
"""

from owl.command.train import main

if __name__ == "__main__":
    main("finetune")
