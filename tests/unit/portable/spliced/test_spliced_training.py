# SPDX-License-Identifier: Apache-2.0
"""Models whose pictures are part of the text, trained by transformers' Trainer and PEFT."""

import pytest
import torch
from PIL import Image
from transformers import AutoProcessor, Trainer, TrainingArguments

from tests.unit.portable.spliced.spliced_models import (
    FAMILIES,
    make_pixels,
    make_prompt,
    save_folder,
    tiny_model,
)


@pytest.fixture(params=FAMILIES)
def family(request):
    return request.param


def conversation(shade: int) -> list[dict]:
    picture = {"type": "image", "image": Image.new("RGB", (40, 30), (shade, 90, 200))}
    question = {"role": "user", "content": [picture, {"type": "text", "text": "Which?"}]}
    return [question, {"role": "assistant", "content": f"Number {shade}."}]


def test_trainer_trains_evaluates_and_predicts(family, tmp_path):
    processor = AutoProcessor.from_pretrained(save_folder(family, tmp_path / "model"))
    rows = [conversation(shade) for shade in (0, 120, 180)]

    def collate(rows):
        encoded = processor.apply_chat_template(
            rows, tokenize=True, return_dict=True, return_tensors="pt", return_labels=True
        )
        return dict(encoded)

    arguments = TrainingArguments(
        str(tmp_path), per_device_train_batch_size=3, per_device_eval_batch_size=3, max_steps=3,
        report_to=[], save_strategy="no", remove_unused_columns=False, use_cpu=True,
        disable_tqdm=True, gradient_checkpointing=True, learning_rate=1e-3,
    )  # fmt: skip
    trainer = Trainer(
        tiny_model(family), arguments, data_collator=collate, train_dataset=rows, eval_dataset=rows
    )

    before = trainer.evaluate()["eval_loss"]
    trainer.train()

    assert trainer.evaluate()["eval_loss"] < before
    predicted = trainer.predict(rows)
    assert predicted.predictions.shape == (*predicted.label_ids.shape, 354)


def test_what_requires_a_gradient_gets_one(family):
    model = tiny_model(family).train()
    ids, offsets = make_prompt([3, 4])

    output = model(
        input_ids=ids[None], labels=ids[None], pixel_values=make_pixels(1), media_offset=[offsets]
    )
    output.loss.backward()

    assert all(parameter.grad is not None for parameter in model.parameters())


def test_an_adapter_learns_and_writes(family):
    peft = pytest.importorskip("peft")
    names = ["q_proj", "v_proj", "v_proj.multiway.0", "v_proj.multiway.1", "visual_fc"]
    lora = peft.LoraConfig(r=2, target_modules=names, task_type="CAUSAL_LM")
    if family == "owl2":
        lora.target_modules = set(names) - {"v_proj"}
    model = peft.get_peft_model(tiny_model(family), lora)
    ids, offsets = make_prompt([3, 4])
    media = {"pixel_values": make_pixels(1), "media_offset": [offsets]}
    learning = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(learning, lr=1e-2)

    losses = []
    for _ in range(4):
        loss = model(input_ids=ids[None], labels=ids[None], **media).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 0.01

    written = model.eval().generate(input_ids=ids[None], max_new_tokens=4, **media)
    with model.disable_adapter():
        before = model(input_ids=ids[None], **media).logits
    torch.testing.assert_close(before, tiny_model(family)(input_ids=ids[None], **media).logits)
    merged = model.merge_and_unload()
    assert torch.equal(merged.generate(ids[None], max_new_tokens=4, **media), written)
