# SPDX-License-Identifier: Apache-2.0
"""TRL's SFTTrainer trains with pictures, on all tokens and on the assistant's alone.

pip install trl datasets
pytest -m slow tests/unit/families/owl3/hf/test_trl.py
"""

import pytest
import torch
from PIL import Image

from tests.unit.families.owl3.hf.conftest import build

trl = pytest.importorskip("trl", minversion="1.16", reason="pip install trl")
datasets = pytest.importorskip("datasets", reason="pip install datasets")
pytestmark = pytest.mark.slow


def rows() -> list[dict]:
    def turn(role: str, text: str) -> dict:
        return {"role": role, "content": text}

    return [
        {
            "messages": [turn("user", "Which?"), turn("assistant", f"Number {shade}.")],
            "images": [Image.new("RGB", (40, 30), (shade, 90, 200))],
        }
        for shade in (0, 60, 120, 180)
    ]


def train(processor, folder, **options) -> trl.SFTTrainer:
    arguments = trl.SFTConfig(
        str(folder), max_steps=6, per_device_train_batch_size=2, learning_rate=5e-3,
        logging_steps=1, report_to=[], save_strategy="no", use_cpu=True, bf16=False,
        disable_tqdm=True, max_length=None, remove_unused_columns=False, **options,
    )  # fmt: skip
    trainer = trl.SFTTrainer(
        build("joint_softmax"), arguments,
        train_dataset=datasets.Dataset.from_list(rows()), processing_class=processor,
    )  # fmt: skip
    trainer.train()
    return trainer


@pytest.mark.parametrize("answers_only", [False, True])
def test_sft_learns_from_pictures(processor, tmp_path, answers_only):
    trainer = train(processor, tmp_path, assistant_only_loss=answers_only)
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert losses[-1] < losses[0]
    batch = next(iter(trainer.get_train_dataloader()))
    assert len(batch["pixel_values"]) > 0
    learned = batch["labels"] != -100
    text = processor.tokenizer.decode(batch["input_ids"][learned])
    assert ("Which?" in text) is not answers_only
    assert "Number" in text


def test_text_alone_is_tokenised_as_lists(processor, tmp_path):
    said = [{"messages": row["messages"]} for row in rows()]
    arguments = trl.SFTConfig(
        str(tmp_path), max_steps=1, per_device_train_batch_size=2, report_to=[],
        save_strategy="no", use_cpu=True, bf16=False, disable_tqdm=True, assistant_only_loss=True,
    )  # fmt: skip
    trainer = trl.SFTTrainer(
        build("token_gate"), arguments, train_dataset=datasets.Dataset.from_list(said),
        processing_class=processor,
    )  # fmt: skip
    assert torch.isfinite(torch.tensor(trainer.train().training_loss))
