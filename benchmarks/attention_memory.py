# SPDX-License-Identifier: Apache-2.0
"""Peak memory of joint attention as a pack grows: the sum over its samples, or tokens x keys.

    python -m benchmarks.attention_memory

Packs of more and more samples of the same kind, forward and backward, in float32 on a CPU. `dense`
is one mask over the whole pack (the reference backend); the others are what training uses. `flex`
runs on GPUs only, so of it the block mask's tables are counted, against a bool mask of the pack.
Exits non-zero when memory does not grow as claimed.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from benchmarks.peak_bytes import growths, peak_bytes, table
from owl.config.run import AttentionKind, ModelConfig, VisionTowerConfig
from owl.data.collate import collate
from owl.data.samples import EncodedSample
from owl.families.owl3.config import HyperAttentionConfig
from owl.model.attention.backend import attention_backend
from owl.model.attention.flex import FlexAttention
from owl.model.media import PackContext, pack_context

SAMPLES = (4, 8, 16)
TOKENS, PLACEHOLDERS = 96, [5, 40]  # of each sample, and where its tiles stand
MODEL = ModelConfig(
    hidden_size=128,
    num_attention_heads=4,
    num_kv_heads=2,
    hyper_attention=HyperAttentionConfig(media_position_shift=0),
    vision_tower=VisionTowerConfig(image_size=98, patch_size=14),  # 49 patches
)
BACKENDS = (AttentionKind.reference, AttentionKind.per_sample, AttentionKind.lse_merge)
LINEAR, QUADRATIC = 2.2, 3.5
"""Doubling a pack may cost ours up to the first factor; the dense way costs at least the second."""


@dataclass(frozen=True)
class Measured:
    """Bytes at one size of the pack."""

    samples: int
    tokens: int
    keys: int  # patches and tokens
    peaks: tuple[int, ...]  # of BACKENDS
    dense_mask: int
    block_mask: int


def main(samples: Sequence[int] = SAMPLES) -> int:
    """Print the table and what grows how; return the exit status."""
    measured = [measure(count) for count in samples]
    header = ["samples", "tokens", "keys", "dense MiB", "per_sample MiB", "lse_merge MiB"]
    header += ["bool mask KiB", "flex tables KiB"]
    rows = [(m.samples, m.tokens, m.keys, *m.peaks, m.dense_mask, m.block_mask) for m in measured]
    print("joint attention, forward and backward: peak bytes of tensors")
    print(table(header, rows))
    verdict = 0
    for index, kind in enumerate(BACKENDS):
        factors = growths(m.peaks[index] for m in measured)
        dense = kind is AttentionKind.reference
        holds = min(factors) >= QUADRATIC if dense else max(factors) <= LINEAR
        verdict |= not holds
        print(
            f"{'dense' if dense else kind:<10} x {', '.join(f'{f:.2f}' for f in factors)} when "
            f"the pack doubles{'' if holds else ': NOT as claimed'}"
        )
    return verdict


def measure(samples: int) -> Measured:
    """Measure a pack of so many samples."""
    pack = _pack(samples)
    tokens, patches = len(pack.position_ids), pack.patches * len(pack.media_position)
    mask = FlexAttention().mask("joint", pack)
    tables = [value for value in mask.as_tuple() if isinstance(value, Tensor)]
    return Measured(
        samples=samples,
        tokens=tokens,
        keys=tokens + patches,
        peaks=tuple(_peak(kind, pack, tokens, patches) for kind in BACKENDS),
        dense_mask=tokens * (tokens + patches),
        block_mask=sum(part.numel() * part.element_size() for part in tables),
    )


def _peak(kind: AttentionKind, pack: PackContext, tokens: int, patches: int) -> int:
    backend, groups = attention_backend(kind), MODEL.num_kv_heads
    counts = [
        (tokens, MODEL.num_attention_heads),
        *[(tokens, groups)] * 2,
        *[(patches, groups)] * 2,
    ]
    query, key, value, media_key, media_value = (
        torch.randn(*count, MODEL.head_dim, requires_grad=True) for count in counts
    )
    upstream = torch.randn(tokens, MODEL.num_attention_heads, MODEL.head_dim)

    def compute() -> None:
        backend.joint(query, key, value, media_key, media_value, pack).backward(upstream)

    return peak_bytes(compute)


def _pack(samples: int) -> PackContext:
    size = MODEL.vision_tower.image_size
    encoded = [
        EncodedSample(
            key=f"sample{index}",
            source="benchmark",
            tokens=torch.zeros(TOKENS, dtype=torch.int64),
            loss_weights=torch.ones(TOKENS),
            positions=torch.arange(TOKENS),
            tiles=torch.zeros(len(PLACEHOLDERS), 3, size, size, dtype=torch.uint8),
            media_offset=PLACEHOLDERS,
        )
        for index in range(samples)
    ]
    return pack_context(collate(encoded), MODEL, torch.float32)


if __name__ == "__main__":
    sys.exit(main())
