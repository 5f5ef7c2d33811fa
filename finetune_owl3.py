# SPDX-License-Identifier: Apache-2.0
"""Tune mPLUG-Owl3 on conversations, from a given checkpoint.

    torchrun --nproc-per-node 8 finetune_owl3.py +experiment=sft model=owl3_7b_240728

`--help` lists every setting. Installed, this script is the command `owl finetune`.
"""

from owl.command.train import finetune

if __name__ == "__main__":
    finetune()
