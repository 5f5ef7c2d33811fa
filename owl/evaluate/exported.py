# SPDX-License-Identifier: Apache-2.0
"""Answers of a Hugging Face folder, through owl.hf as its users do."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForImageTextToText, AutoProcessor

import owl.hf  # noqa: F401  # registers the families with the Auto classes
from owl.data.samples import RawSample
from owl.data.shards.document import Part, TextPart
from owl.evaluate.greedy import Answerer


def answerer_of_folder(
    folder: Path, *, device: str, dtype: str, max_new_tokens: int, cut: bool
) -> Answerer:
    """Load a published or exported folder.

    Args:
        folder: with weights, config.json, processor and tokenizer.
        device: such as cpu or cuda:1.
        dtype: such as bfloat16; auto is that of the weights.
        max_new_tokens: longest answer.
        cut: whether the pictures of questions with a single picture are cut. A batch holds
            questions with the same number of pictures.
    """
    network = AutoModelForImageTextToText.from_pretrained(folder, dtype=dtype).to(device).eval()
    processor = AutoProcessor.from_pretrained(folder)

    def answer(samples: Sequence[RawSample]) -> list[str]:
        is_single = all(len(sample.document.media) == 1 for sample in samples)
        batch = processor.apply_chat_template(
            [to_conversation(sample) for sample in samples],
            add_generation_prompt=True, tokenize=True, return_dict=True,
            cut_enable=cut and is_single, return_tensors="pt",
        )  # fmt: skip
        inputs = {
            name: value.to(device) if isinstance(value, torch.Tensor) else value
            for name, value in batch.items()
        }
        generated = network.generate(
            **inputs, max_new_tokens=max_new_tokens, do_sample=False, tokenizer=processor.tokenizer
        )
        new = generated[:, inputs["input_ids"].shape[1] :]
        texts: list[str] = processor.tokenizer.batch_decode(new, skip_special_tokens=True)
        return [text.strip() for text in texts]

    return answer


def to_conversation(sample: RawSample) -> list[dict[str, Any]]:
    """Write a sample's question as transformers' content lists, pictures as bytes."""

    def entry(part: Part) -> dict[str, Any]:
        if isinstance(part, TextPart):
            return {"type": "text", "text": part.text}
        (file,) = sample.document.media[part.media].files
        return {"type": "image", "image": sample.files[file]}

    return [
        {"role": turn.role, "content": [entry(part) for part in turn.content]}
        for turn in sample.document.prompt().turns
    ]
