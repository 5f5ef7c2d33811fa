# SPDX-License-Identifier: Apache-2.0
"""Known faults, planted from outside, so that anyone can see the comparison catch them.

Each wraps a function of the product while a layout runs; the run of one process is untouched.
"""

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import replace
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

from owl.config.media_entry import Cross, Splice
from owl.config.run import ModelConfig

Wrap = Callable[[Callable[..., Any]], Callable[..., Any]]


@contextmanager
def _replaced(owner: Any, name: str, wrap: Wrap) -> Iterator[None]:
    original = getattr(owner, name)
    setattr(owner, name, wrap(original))
    try:
        yield
    finally:
        setattr(owner, name, original)


@contextmanager
def mask_off_by_one() -> Iterator[None]:
    """A token sees a tile one position too late."""
    from owl.model import vision_language as owl3

    def late(make: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*args: Any) -> Any:
            pack = make(*args)
            samples = tuple(
                replace(view, visible_from=tuple(position + 1 for position in view.visible_from))
                for view in pack.samples
            )
            return replace(pack, samples=samples, media_position=pack.media_position + 1)

        return wrapped

    with _replaced(owl3, "pack_context", late):
        yield


@contextmanager
def position_shift() -> Iterator[None]:
    """Tiles are rotated to a position one too far."""
    from owl.model import media
    from owl.model import vision_language as owl3

    def shifted(make: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(batch: Any, model: Any, dtype: torch.dtype) -> Any:
            pack = make(batch, model, dtype)
            table = media.rotary(
                pack.media_position + 1,
                head_dim=model.head_dim,
                theta=model.rope_theta,
                dtype=dtype,
            )
            return replace(pack, media_rotary=table)

        return wrapped

    with _replaced(owl3, "pack_context", shifted):
        yield


@contextmanager
def unreduced_gradient() -> Iterator[None]:
    """Ranks that share rows keep their own gradients of the norms that each saw some rows with."""
    finalize = import_module("megatron.core.distributed.finalize_model_grads")

    def skipped(reduce: Callable[..., Any]) -> Callable[..., Any]:
        return lambda *args, **kwargs: None

    with _replaced(finalize, "_allreduce_non_tensor_model_parallel_grads", skipped):
        yield


@contextmanager
def wrong_denominator() -> Iterator[None]:
    """The loss is divided by what this rank supervises instead of the global batch."""
    from owl.parity import trial

    def local(add_up: Callable[..., Any]) -> Callable[..., Any]:
        return lambda value, groups: value

    with _replaced(trial, "sum_over_data_parallel", local):
        yield


@contextmanager
def unsharded_relayout() -> Iterator[None]:
    """SwiGLU's two halves are cut as if they were one."""
    from owl.mcore import parameters

    def contiguous(cut: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(full: Tensor, parameter: Any, *, tp_rank: int, tp_size: int) -> Tensor:
            if getattr(parameter, "partition_stride", 1) > 1:
                return full.chunk(tp_size, parameter.partition_dim)[tp_rank]
            return cut(full, parameter, tp_rank=tp_rank, tp_size=tp_size)

        return wrapped

    with _replaced(parameters, "shard_of", contiguous):
        yield


@contextmanager
def stale_image_feature() -> Iterator[None]:
    """A micro-batch reuses the features of an earlier one with as many tiles."""
    from owl.model.vision_language import VisionLanguageModel

    def remembering(encode: Callable[..., Any]) -> Callable[..., Any]:
        seen: dict[int, Tensor] = {}

        def wrapped(model: Any, pixel_values: Tensor) -> Tensor:
            features = encode(model, pixel_values)
            stale = seen.setdefault(len(pixel_values), features.detach().clone())
            return features + (stale - features.detach())

        return wrapped

    with _replaced(VisionLanguageModel, "encode", remembering):
        yield


@contextmanager
def swapped_adapters() -> Iterator[None]:
    """Of two projections in one layer, each gets what the other's adapter adds."""
    from owl.model.lora import Split

    def swapped(join: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(split: Any, parts: dict[str, Tensor]) -> Tensor:
            names = list(parts)[-2:]  # key and value, gate and up
            exchanged = zip(names, [parts[name] for name in reversed(names)], strict=True)
            result: Tensor = join(split, parts | dict(exchanged))
            return result

        return wrapped

    with _replaced(Split, "join", swapped):
        yield


@contextmanager
def spliced_row_off_by_one() -> Iterator[None]:
    """A tile's vectors stand one row too late."""
    from owl.model import media

    def late(find: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(batch: Any, *args: Any) -> Tensor:
            return (find(batch, *args) + 1) % batch.num_tokens

        return wrapped

    with _replaced(media, "media_rows", late):
        yield


@contextmanager
def wrong_modality_copy() -> Iterator[None]:
    """Rows of media take the copy of norms, keys and values that is for text."""
    from owl.model.media import PackContext

    def text_only(is_media: Any) -> Any:
        return property(lambda pack: torch.zeros_like(is_media.func(pack)))

    with _replaced(PackContext, "is_media", text_only):
        yield


FAULTS: dict[str, Callable[[], Any]] = {
    "mask-off-by-one": mask_off_by_one,
    "position-shift": position_shift,
    "unreduced-gradient": unreduced_gradient,
    "wrong-denominator": wrong_denominator,
    "unsharded-relayout": unsharded_relayout,
    "stale-image-feature": stale_image_feature,
    "adapter-on-wrong-projection": swapped_adapters,
    "spliced-row-off-by-one": spliced_row_off_by_one,
    "wrong-modality-copy": wrong_modality_copy,
}
_ENTRIES = {
    "mask-off-by-one": Cross,
    "position-shift": Cross,
    "spliced-row-off-by-one": Splice,
    "wrong-modality-copy": Splice,
}
"""How media have to enter for a fault to break anything; any other breaks every model."""


def faults_of(model: ModelConfig, weights: Collection[str]) -> list[str]:
    """List the faults that break something in a model, by name.

    Args:
        model: the variant.
        weights: names of its parameters.
    """
    copies = any(".linear_media_kv." in name for name in weights)
    return [
        name
        for name in FAULTS
        if isinstance(model.enters, _ENTRIES.get(name, object))
        and (copies or name != "wrong-modality-copy")
    ]
