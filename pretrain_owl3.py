# SPDX-License-Identifier: Apache-2.0
"""Pre-train mPLUG-Owl3: image-text pairs first, then documents with several images.

    torchrun --nproc-per-node 8 pretrain_owl3.py +experiment=stage1 model=owl3_7b_240728

`--help` lists every setting.
"""

from owl.command.train import main

if __name__ == "__main__":
    main("pretrain")
