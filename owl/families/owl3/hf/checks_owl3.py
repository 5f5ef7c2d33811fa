# SPDX-License-Identifier: Apache-2.0
"""Refuses calls, and weights, for which the model would compute something else than requested."""

from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from owl.families.owl3.hf.media_owl3 import ABSENT, Media, Offsets, read_offsets

_IGNORED = ("cache_position", "token_type_ids", "skip_logits")
"""Inputs of transformers without effect here: caches count their tokens, there is one type of
token, and logits are computed beside a loss."""
_OWN_ROWS = "give each sample a row of its own, with attention_mask"
_OF_ATTENTION = (
    "cu_seq_lens_q", "cu_seq_lens_k", "max_length_q", "max_length_k", "attention_instances",
)  # fmt: skip
"""Options by which flash attention, and vLLM's, tell the samples within a row apart."""
_ADVICE = {
    **dict.fromkeys(
        (*_OF_ATTENTION, "seq_idx"),
        f"{_OWN_ROWS}; only rows without pictures, with flash_attention_2, may hold several",
    ),
    "media": "the cache carries the pictures of earlier tokens",
    "images": "pictures are pixel_values with media_offset, as the processor returns them",
    "pixel_values_videos": "frames are tiles of pixel_values, as the processor returns them",
    "shift_labels": "labels are the tokens themselves, and are shifted here",
}

_CARRIED = ("vision_model.post_layernorm.", "vision_model.head.")
_IMAGE_SIDE = (".v_kv_proj.", ".self_attn.gate", "vision2text_model.")
_SHOWN = 8


def read_options(others: Mapping[str, Any], *, passed_on: bool) -> dict[str, Any]:
    """Select the options of attention functions among the arguments that forward does not name.

    Args:
        others: those arguments.
        passed_on: whether such a function is chosen, and all rows are text alone: then it may tell
            samples within a row apart.

    Raises:
        ValueError: an argument has no effect here, and requests something.
    """
    requested = {
        name: value
        for name, value in others.items()
        if name not in _IGNORED and value is not None and value is not False
    }
    for name in requested:
        if passed_on and name in _OF_ATTENTION:
            continue
        advice = _ADVICE.get(name, "correct its name or leave it out; the class lists them")
        raise ValueError(f"{name} is not an argument of this model: {advice}.")
    return requested


def check_text(input_ids: Tensor | None, inputs_embeds: Tensor | None) -> None:
    """Raise ValueError unless the tokens come in exactly one form, and as a tensor."""
    if (input_ids is None) == (inputs_embeds is None):
        raise ValueError("give exactly one of input_ids and inputs_embeds.")
    check_tensor(input_ids)


def check_tensor(input_ids: Any) -> None:
    """Raise ValueError for lists of tokens, which apply_chat_template returns by default."""
    if isinstance(input_ids, list):
        raise ValueError(
            "input_ids is a list: the model takes tensors. Pass return_tensors='pt' to "
            "apply_chat_template."
        )


def check_media(
    known: Media | None,
    pixel_values: Tensor | None,
    image_embeds: Tensor | None,
    media_offset: Offsets,
) -> None:
    """Raise ValueError if pictures come twice, without their places, or are missing.

    Args:
        known: the pictures that the cache carries.
        pixel_values: as passed to forward; the others as well.
        image_embeds: see there.
        media_offset: see there.
    """
    if pixel_values is not None and image_embeds is not None:
        raise ValueError(
            "pixel_values and image_embeds came together: each holds all pictures of the batch, "
            "so some would be dropped. Pass one: tiles or their features."
        )
    form = "pixel_values" if pixel_values is not None else "image_embeds"
    given = pixel_values is not None or image_embeds is not None
    if given and media_offset is None:
        raise ValueError(
            f"{form} came without media_offset, the place of each tile in the text. Pass "
            "everything that the processor returned: model(**inputs)."
        )
    if not given and known is None and any(map(len, read_offsets(media_offset, None))):
        raise ValueError(
            "media_offset lists tiles but none came with it, so the text would be read without its "
            "pictures. Pass pixel_values, as the processor returned them, or image_embeds."
        )


def check_continued(known: Media, media: Media) -> None:
    """Raise ValueError unless `media` begin with the tiles that the cached tokens have seen."""
    count = known.position.shape[1]
    begins = media.position[:, :count]
    if begins.shape != known.position.shape or bool(
        ((begins != known.position) & (known.position != ABSENT)).any()
    ):
        raise ValueError(
            "the cached tokens were computed with pictures that did not come again with the new "
            "ones. Pass those of the entire conversation, or none to keep them."
        )


def count_positions(attention_mask: Tensor | None, rows: int, length: int) -> Tensor:
    """Count tokens within each sample: [rows, length]; padding on the left is at 0."""
    if attention_mask is None:
        return torch.arange(length).expand(rows, -1)
    return (attention_mask.long().cumsum(dim=1) - 1).clamp(min=0)


def check_positions(
    position_ids: Tensor,
    attention_mask: Tensor | None,
    rows: int,
    queries: int,
    checks_values: bool = True,
) -> Tensor:
    """Return position_ids for all rows.

    Args:
        position_ids: [rows or 1, queries] of the tokens computed now.
        attention_mask: [rows, cached + queries]; neighbours of padding may have any position.
        rows: of the batch.
        queries: tokens of a row computed now.
        checks_values: False if attention tells the samples of a row apart.

    Raises:
        ValueError: another shape; or they start again within a row, which stands for several
            samples in one row. Those would see each other, and each other's pictures.
    """
    if position_ids.shape not in ((rows, queries), (1, queries)):
        raise ValueError(
            f"position_ids is {list(position_ids.shape)}: it must be [{rows}, {queries}], one for "
            "each token computed now."
        )
    if not checks_values:
        return position_ids.expand(rows, -1)
    goes_back = position_ids[:, 1:] <= position_ids[:, :-1]
    if attention_mask is not None:
        real = attention_mask[:, attention_mask.shape[1] - queries :].bool().to(goes_back.device)
        goes_back = goes_back & real[:, 1:] & real[:, :-1]
    if bool(goes_back.any()):
        row, token = goes_back.nonzero()[0].tolist()
        raise ValueError(
            f"position_ids starts again in row {row} at token {token + 1}: several samples in one "
            f"row are not told apart, and would see each other. Instead {_OWN_ROWS}."
        )
    return position_ids.expand(rows, -1)


def check_loaded(folder: str, model: PreTrainedModel, info: Mapping[str, Collection[str]]) -> None:
    """Raise ValueError if the weights are not those of the config."""
    last = model.config.vision_config.num_hidden_layers - 1
    carried = (*_CARRIED, f"vision_model.encoder.layers.{last}.")
    missing = [name for name in info["missing_keys"] if not name.startswith(carried)]
    unplaced = [
        name for name in info["unexpected_keys"] if any(part in name for part in _IMAGE_SIDE)
    ]
    if not missing and not unplaced:
        return
    lists = [
        f"{what}: {', '.join(sorted(names)[:_SHOWN])}{', ...' if len(names) > _SHOWN else ''}"
        for what, names in (("missing", missing), ("without a place", unplaced))
        if names
    ]
    raise ValueError(
        f"{folder} does not hold the weights that its config.json describes ({len(missing)} "
        f"missing, {len(unplaced)} without a place). Complete the folder, or correct hyper_layers, "
        "fusion and projector in config.json.\n  " + "\n  ".join(lists)
    )
