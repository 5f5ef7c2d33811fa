# SPDX-License-Identifier: Apache-2.0
"""Rehearse a tiny model as it is and with faults planted in it; prints what was seen, as JSON.

A process of its own: `cuda` stays pretended.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from owl.rehearse.fake_device import pretend_cuda

WORDS = [
    *("parallel=tp2", "rehearse.gpus=4", "scale=published", "pack.enabled=true"),
    *("pack.text_tokens=256", "pack.tiles=8", "model.attention=per_sample"),
]


@contextmanager
def replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    before = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)


def main() -> None:
    pretend_cuda(8, "NVIDIA H100 80GB HBM3", 80 << 30)
    import torch
    import torch.distributed as dist

    from owl.config.load import compose
    from owl.model.norm import RMSNorm
    from owl.rehearse.__main__ import prepare
    from owl.rehearse.compare import first_difference
    from owl.rehearse.packs import micro_batches_of, text_only
    from owl.rehearse.rank import rehearse_rank

    run, problems = compose("pretrain", WORDS)
    assert not problems + prepare(run), (problems, prepare(run))
    packs, _, _ = micro_batches_of(run, 4)

    def look() -> dict[str, Any]:
        first = rehearse_rank(run, packs, rank=0, ranks=4)
        other = rehearse_rank(run, [text_only(pack) for pack in packs], rank=2, ranks=4)
        return {
            "waits": sorted({f"{what} {where}" for _, what, where in first.waits}),
            "peak": first.peak,
            "hang": first_difference(first.log, other.log, (0, 2)),
        }

    forward = RMSNorm.forward

    def reads_back(norm: Any, hidden_states: Any) -> Any:
        hidden_states.sum().item()
        return forward(norm, hidden_states)

    def keeps_a_copy(norm: Any, hidden_states: Any) -> Any:
        return forward(norm, hidden_states) + hidden_states.float().exp().to(hidden_states.dtype)

    def asks_when_there_are_pictures(self: Any, pixel_values: Any) -> Any:
        if len(pixel_values):
            dist.all_reduce(torch.ones(1, device="cuda"))
        return encode(self, pixel_values)

    from owl.model.vision_language import VisionLanguageModel

    encode = VisionLanguageModel.encode
    seen = {"as it is": look()}
    with replaced(RMSNorm, "forward", reads_back):
        seen["reads back"] = look()
    with replaced(RMSNorm, "forward", keeps_a_copy):
        seen["keeps a copy"] = look()
    with replaced(VisionLanguageModel, "encode", asks_when_there_are_pictures):
        seen["asks when there are pictures"] = look()
    print(json.dumps(seen))


if __name__ == "__main__":
    main()
