# SPDX-License-Identifier: Apache-2.0
"""Greedy answers of a model that maps packs to logits, such as the one in training."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import TypeVar

import torch
from torch import Tensor

from owl.data.collate import collate
from owl.data.encode.encoder import SampleEncoder
from owl.data.encode.tokenizer import Tokenizer
from owl.data.samples import EncodedSample, PackedBatch, RawSample
from owl.data.shown import CutChoice

PROMPTS_PER_PACK = 60

Item = TypeVar("Item")

Answerer = Callable[[Sequence[RawSample]], list[str]]
"""Questions, with their pictures, to answers in the same order."""
Logits = Callable[[PackedBatch], Tensor]
"""A pack to logits [t, v] of the token after each token."""
NextTokens = Callable[[PackedBatch], list[int]]
"""A pack of n samples to the n tokens that follow them."""


def answerer(
    encoder: SampleEncoder,
    next_tokens: NextTokens,
    *,
    max_tokens: int,
    cut: CutChoice = CutChoice.none,
) -> Answerer:
    """Return an Answerer that encodes questions as training does.

    Args:
        encoder: of the model's family.
        next_tokens: the model.
        max_tokens: longest answer.
        cut: which pictures are cut.
    """

    def answer(samples: Sequence[RawSample]) -> list[str]:
        prompts = [encoder.encode_prompt(sample, cut=cut) for sample in samples]
        texts = decode_greedily(prompts, next_tokens, encoder.tokenizer, max_tokens=max_tokens)
        return [text.strip() for text in texts]

    return answer


def likeliest_of(logits: Logits) -> NextTokens:
    """Return a function that gives the likeliest token after the last one of each sample."""

    def next_tokens(batch: PackedBatch) -> list[int]:
        return likeliest_next(batch, logits(batch))

    return next_tokens


def likeliest_next(batch: PackedBatch, logits: Tensor) -> list[int]:
    """Return the likeliest token after the last one of each sample: n ids.

    Args:
        batch: n samples.
        logits: [t, v].
    """
    last_rows = batch.cu_seqlens[1:].long() - 1
    best: list[int] = logits[last_rows.to(logits.device)].argmax(dim=-1).tolist()
    return best


def decode_greedily(
    prompts: Sequence[EncodedSample],
    next_tokens: NextTokens,
    tokenizer: Tokenizer,
    *,
    max_tokens: int,
    per_pack: int = PROMPTS_PER_PACK,
) -> list[str]:
    """Continue each prompt with its likeliest tokens until a control token ends the answer.

    Many prompts share a pack, and each new token costs a pass over all of it: with short answers
    that is fast enough without a cache of keys.

    Args:
        prompts: encoded up to the answer.
        next_tokens: the model.
        tokenizer: decodes the answers.
        max_tokens: longest answer.
        per_pack: most prompts that share a pack.

    Returns:
        Answers, in the order of the prompts.
    """
    ends = set(tokenizer.control_ids.values())
    written: list[list[int]] = [[] for _ in prompts]
    unfinished = list(range(len(prompts)))
    for _ in range(max_tokens):
        chosen: list[int] = []
        for some in in_groups(unfinished, per_pack):
            grown = [_extend(prompts[number], written[number]) for number in some]
            chosen += next_tokens(collate(grown))
        for number, token in zip(unfinished, chosen, strict=True):
            written[number].append(token)
        unfinished = [number for number in unfinished if written[number][-1] not in ends]
    return [tokenizer.decode(tokens) for tokens in written]


def in_groups(items: Sequence[Item], size: int) -> Iterator[Sequence[Item]]:
    """Split a sequence into parts of `size`; the last may be shorter."""
    for first, end in pairwise([*range(0, len(items), size), len(items)]):
        yield items[first:end]


def _extend(prompt: EncodedSample, tokens: list[int]) -> EncodedSample:
    more = torch.tensor(tokens, dtype=prompt.tokens.dtype)
    following = prompt.positions[..., -1:] + torch.arange(1, len(tokens) + 1)
    return replace(
        prompt,
        tokens=torch.cat([prompt.tokens, more]),
        loss_weights=torch.cat([prompt.loss_weights, torch.zeros(len(tokens))]),
        positions=torch.cat([prompt.positions, following], dim=-1),
    )
