# SPDX-License-Identifier: Apache-2.0
"""The demo's exported model, used through owl.hf as its users do."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForImageTextToText, AutoProcessor

import owl.hf  # noqa: F401  # registers the families with the Auto classes
from owl.checkpoint.inference import LoadedModel
from owl.data.collate import collate
from owl.data.families import reading_of
from owl.data.samples import EncodedSample, RawSample
from owl.demo.evaluate import MAX_ANSWER_TOKENS
from owl.demo.text import open_encoder
from owl.evaluate.exported import to_conversation
from owl.evaluate.greedy import PROMPTS_PER_PACK, Answerer, in_groups


@dataclass(frozen=True)
class Exported:
    """A folder written by `python -m owl.convert export`."""

    network: Any  # the family's model
    processor: Any

    @classmethod
    def load(cls, folder: Path, dtype: torch.dtype = torch.float32) -> "Exported":
        """Load the folder, as its users do."""
        network = AutoModelForImageTextToText.from_pretrained(folder, dtype=dtype)
        return cls(network.eval(), AutoProcessor.from_pretrained(folder))

    def read(self, samples: Sequence[RawSample]) -> dict[str, Any]:
        """Encode questions as one batch, padded to the left."""
        batch: dict[str, Any] = self.processor.apply_chat_template(
            [to_conversation(sample) for sample in samples],
            add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt",
            cut_enable=False,
        )  # fmt: skip
        return batch


def answerer_of_exported(model: Exported) -> Answerer:
    """Return an Answerer that uses the exported model, with both caches of owl.hf."""

    def answer(samples: Sequence[RawSample]) -> list[str]:
        answers: list[str] = []
        for some in in_groups(samples, PROMPTS_PER_PACK):
            asked = model.read(some)
            written = model.network.generate(
                **asked,
                max_new_tokens=MAX_ANSWER_TOKENS,
                do_sample=False,
                tokenizer=model.processor.tokenizer,
            )
            new = written[:, asked["input_ids"].shape[1] :]
            texts = model.processor.tokenizer.batch_decode(new, skip_special_tokens=True)
            answers += [text.strip() for text in texts]
        return answers

    return answer


@torch.no_grad()
def logit_differences(
    trained: LoadedModel, exported: Exported, samples: Sequence[RawSample], tokenizer: Path
) -> dict[str, float]:
    """Compare the trainer's logits with those of owl.hf.

    Args:
        trained: the training model.
        exported: the same, as transformers sees it.
        samples: questions; each implementation encodes them with its own code.
        tokenizer: folder of the demo's tokenizer.

    Returns:
        The largest difference: `packed`, all questions in one pack of the trainer and one padded
        batch of owl.hf; `single`, each question alone in both.
    """
    encoder = open_encoder(tokenizer, reading_of(trained.config))
    prompts = [encoder.encode_prompt(sample) for sample in samples]
    pairs = list(zip(prompts, samples, strict=True))
    return {
        "packed": _difference(trained, prompts, exported, samples),
        "single": max(_difference(trained, [one], exported, [other]) for one, other in pairs),
    }


def _difference(
    trained: LoadedModel,
    prompts: Sequence[EncodedSample],
    exported: Exported,
    samples: Sequence[RawSample],
) -> float:
    packed = trained.logits(collate(prompts))
    batch = exported.read(samples)
    padded: Tensor = exported.network(**batch).logits[batch["attention_mask"].bool()]
    return float((packed - padded).abs().max())
