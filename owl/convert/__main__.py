# SPDX-License-Identifier: Apache-2.0
"""Build checkpoints from Hugging Face folders.

python -m owl.convert init --language-model DIR --vision-model DIR --variant 240728 --output DIR
"""

import argparse
import sys
from pathlib import Path

from owl.convert.hf_config import VARIANTS
from owl.convert.init import InitOptions, init_checkpoint
from owl.errors import OwlError


def main() -> None:
    """Read the command line and convert."""
    options = _parser().parse_args()
    try:
        model = init_checkpoint(
            options.language_model,
            options.vision_model,
            options.output,
            InitOptions(
                variant=options.variant,
                layer_indices=options.layer_indices,
                vocab_size=options.vocab_size,
                name=options.name,
                seed=options.seed,
            ),
            report=lambda line: print(line, flush=True),
        )
    except OwlError as error:
        sys.exit(f"{type(error).__name__}: {error}")
    layers = model.hyper_attention.layer_indices
    print(
        f"hyper layers {layers}, vocabulary {model.vocab_size}\n"
        f"Train from it with: torchrun pretrain_owl3.py +experiment=stage1 "
        f"checkpoint.start_from={options.output} model=..."
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m owl.convert", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    init = commands.add_parser(
        "init", help="a starting checkpoint from a Qwen2 and a SigLIP folder (safetensors)"
    )
    init.add_argument("--language-model", type=Path, required=True, metavar="DIR")
    init.add_argument("--vision-model", type=Path, required=True, metavar="DIR")
    init.add_argument("--variant", choices=list(VARIANTS), required=True)
    init.add_argument("--output", type=Path, required=True, metavar="DIR")
    init.add_argument(
        "--layer-indices", type=int, nargs="+", metavar="N",
        help="hyper layers, counted from 0 (default: the variant's own)",
    )  # fmt: skip
    init.add_argument(
        "--vocab-size", type=int, help="embedding rows to keep (default: the variant's own)"
    )
    init.add_argument("--name", default="owl3", help="what to call the model")
    init.add_argument("--seed", type=int, default=1234, help="of projector and gates")
    return parser


if __name__ == "__main__":
    main()
