# SPDX-License-Identifier: Apache-2.0
"""What the decoder's layers need to know about the tokens of a call."""

from typing import Any

import torch
from torch import Tensor
from transformers import Cache

from owl.families.owl3.hf.checks_owl3 import check_positions, count_positions
from owl.families.owl3.hf.configuration_owl3 import Owl3Config
from owl.portable.rotary_owl import TextContext, causal_mask, rotary


def text_context(
    config: Owl3Config,
    inputs_embeds: Tensor,
    attention_mask: Tensor | None,
    position_ids: Tensor | None,
    cache: Cache | None,
    *,
    shows_weights: bool,
    options: dict[str, Any],
) -> TextContext:
    """Place tokens, and build the masks that the chosen attention reads.

    Args:
        config: of the model.
        inputs_embeds: [b, q, h] of the tokens computed now.
        attention_mask: [b, cached + q], 0 at padding.
        position_ids: [b or 1, q], within the sample; counted over the mask by default.
        cache: keys and values of earlier tokens.
        shows_weights: collect attention weights.
        options: for an attention function that tells samples within a row apart itself.

    Raises:
        ValueError: shapes do not fit together, samples in one row are not told apart, or the
            attention requested cannot be computed.
    """
    rows, queries = inputs_embeds.shape[:2]
    past = 0 if cache is None else int(cache.get_seq_length())
    keys = past + queries
    if attention_mask is not None and attention_mask.shape != (rows, keys):
        raise ValueError(
            f"attention_mask is {list(attention_mask.shape)} but there are {rows} rows of "
            f"{past} cached and {queries} new tokens: it must be [{rows}, {keys}]."
        )
    if position_ids is None:
        position_ids = count_positions(attention_mask, rows, keys)
        position_ids = position_ids[:, past:].to(inputs_embeds.device)
    else:
        # Values are not read while a graph is traced: it may not depend on them.
        checks = not (options or torch.compiler.is_compiling())
        position_ids = check_positions(position_ids, attention_mask, rows, queries, checks)
    if attention_mask is not None and not torch.compiler.is_compiling():
        attention_mask = None if bool(attention_mask.all()) else attention_mask
    if problem := config.attention_problem:  # may be set after the model was built
        raise ValueError(problem)
    joint = config.fusion == "joint_softmax"  # its mask covers patches and tokens
    eager = shows_weights or config._attn_implementation == "eager"
    mask = None
    if joint or eager or config.uses_torch_attention:
        mask = causal_mask(attention_mask, queries, keys, inputs_embeds.device)
    return TextContext(
        rotary=rotary(
            position_ids,
            head_dim=config.head_dim,
            theta=config.rope_theta,
            dtype=inputs_embeds.dtype,
        ),
        position_ids=position_ids,
        mask=mask,
        is_causal=mask is None,
        cache=cache,
        num_keys=keys,
        padding=attention_mask,
        eager=eager,
        weights=[] if shows_weights else None,
        media_weights=[] if shows_weights else None,
        options=options,
    )
