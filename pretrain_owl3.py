# SPDX-License-Identifier: Apache-2.0
"""Pre-train mPLUG-Owl3: image-text pairs first, then documents with several images.

    torchrun --nproc-per-node 8 pretrain_owl3.py +experiment=stage1 model=owl3_7b_240728

`--help` lists every setting. Installed, this script is the command `owl train`.
"""

from owl.command.train import pretrain

if __name__ == "__main__":
    pretrain()
