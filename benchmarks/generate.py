# SPDX-License-Identifier: Apache-2.0
"""Time and peak memory of generating 64 tokens, with the visual cache against without.

    python -m benchmarks.generate [--device cuda --size 7b] [--images 1 16 64] [--rounds 3]

A random owl.hf model with the published proportions: 729 patches a picture, four hyper layers, key
and value together 2/7 as wide as the decoder. Without the cache, keys and values of all patches are
recomputed for each token, as the published code does. The two ways take turns within one run.
Peak memory is what is held beyond weights and inputs: on a CPU counted from torch's record of
allocations, in a round of its own; on a GPU read from torch's allocator. Exits non-zero when the
two ways write different tokens or when the cache does not pay at the most pictures.
"""

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

import torch
from torch import Tensor

from benchmarks.peak_bytes import peak_bytes, table
from owl.hf import Owl3Config, Owl3ForConditionalGeneration

PATCHES_A_SIDE, PATCH = 27, 14
PLACEHOLDER_TOKENS, QUESTION_TOKENS = 5, 32
SIZES = {
    "small": {
        "hidden_size": 112, "intermediate_size": 224, "num_hidden_layers": 8,
        "num_attention_heads": 7, "num_key_value_heads": 1, "hyper_layers": [1, 3, 5, 7],
        "vocab_size": 1009,
    },
    "7b": {"hyper_layers": [7, 15, 23, 26], "vocab_size": 151651},
}  # fmt: skip


@dataclass(frozen=True)
class Figure:
    """What generating cost at one number of pictures, in one way."""

    seconds: float
    peak: int
    tokens: Tensor


Pair = tuple[Figure, Figure]
"""With the visual cache, and without."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table; return the exit status."""
    options = _parser().parse_args(arguments)
    device = torch.device(options.device)
    model = build_model(options.size, device)
    pairs = {
        images: measure(model, images, options.new_tokens, options.rounds)
        for images in options.images
    }
    print(
        f"{options.new_tokens} new tokens, {options.size} model, {model.dtype}, {device}, "
        f"median of {options.rounds} interleaved rounds"
    )
    header = ("images", "cached, s", "plain, s", "times as fast", "cached, MiB", "plain, MiB")
    print(table(header, [_row(images, *pair) for images, pair in pairs.items()]))
    return _verdict(pairs)


def build_model(size: str, device: torch.device) -> Owl3ForConditionalGeneration:
    """Make a random model: float32 on a CPU, bfloat16 on a GPU; its tower is kept small."""
    torch.manual_seed(0)
    config = Owl3Config(
        **SIZES[size],
        fusion="joint_softmax",
        projector="mlp",
        template="v3",
        carried_vision_parts=[],
        vision_config={
            "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2,
            "num_attention_heads": 1, "image_size": PATCHES_A_SIDE * PATCH, "patch_size": PATCH,
        },
    )  # fmt: skip
    dtype = torch.float32 if device.type == "cpu" else torch.bfloat16
    torch.set_default_dtype(dtype)
    try:
        with device:
            return Owl3ForConditionalGeneration(config).eval()
    finally:
        torch.set_default_dtype(torch.float32)


def measure(model: Owl3ForConditionalGeneration, images: int, new_tokens: int, rounds: int) -> Pair:
    """Let both ways take turns over one prompt."""
    prompt = make_prompt(model, images)
    seconds: dict[bool, list[float]] = {True: [], False: []}
    tokens: dict[bool, Tensor] = {}
    for _ in range(rounds + 1):  # the first round warms up
        for keeps, taken in seconds.items():
            _wait(model.device)
            start = time.perf_counter()
            tokens[keeps] = write(model, prompt, new_tokens, keeps=keeps)
            _wait(model.device)
            taken.append(time.perf_counter() - start)

    def figure(keeps: bool) -> Figure:
        held = peak(model, prompt, new_tokens, keeps=keeps)
        return Figure(median(seconds[keeps][1:]), held, tokens[keeps].cpu())

    return figure(True), figure(False)


def make_prompt(model: Owl3ForConditionalGeneration, images: int) -> dict[str, object]:
    """Lay out pictures side by side, then a question; tiles are bytes."""
    generator = torch.Generator().manual_seed(images)
    length = images * PLACEHOLDER_TOKENS + QUESTION_TOKENS
    side = PATCHES_A_SIDE * PATCH
    tokens = torch.randint(0, model.config.vocab_size, (1, length), generator=generator)
    pixels = torch.randint(0, 256, (images, 3, side, side), dtype=torch.uint8, generator=generator)
    return {
        "input_ids": tokens.to(model.device),
        "pixel_values": pixels.to(model.device),
        "media_offset": [[index * PLACEHOLDER_TOKENS for index in range(images)]],
    }


def write(
    model: Owl3ForConditionalGeneration,
    prompt: dict[str, object],
    new_tokens: int,
    *,
    keeps: bool,
) -> Tensor:
    """Generate exactly `new_tokens` greedily, with or without the visual cache."""
    return model.generate(
        **prompt,
        use_media_cache=keeps,
        max_new_tokens=new_tokens,
        do_sample=False,
        eos_token_id=None,
        pad_token_id=0,
    )


def peak(
    model: Owl3ForConditionalGeneration,
    prompt: dict[str, object],
    new_tokens: int,
    *,
    keeps: bool,
) -> int:
    """Bytes held at most beyond what was there before."""
    if model.device.type == "cpu":
        return peak_bytes(lambda: write(model, prompt, new_tokens, keeps=keeps))
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    write(model, prompt, new_tokens, keeps=keeps)
    return torch.cuda.max_memory_allocated() - before


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def _row(images: int, cached: Figure, plain: Figure) -> tuple[float, ...]:
    times = round(plain.seconds / cached.seconds, 1)
    return images, round(cached.seconds, 2), round(plain.seconds, 2), times, cached.peak, plain.peak


def _verdict(pairs: dict[int, Pair]) -> int:
    """Ask that both ways write the same, and that the cache pays where pictures are many."""
    differ = [
        n for n, (cached, plain) in pairs.items() if not torch.equal(cached.tokens, plain.tokens)
    ]
    if differ:
        print(f"the two ways wrote different tokens with {differ} images")
        return 1
    cached, plain = pairs[max(pairs)]
    return 0 if cached.seconds < plain.seconds else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.generate")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--size", choices=list(SIZES), default="small")
    parser.add_argument("--images", type=int, nargs="+", default=[1, 16, 64])
    parser.add_argument("--new-tokens", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    return parser


if __name__ == "__main__":
    sys.exit(main())
