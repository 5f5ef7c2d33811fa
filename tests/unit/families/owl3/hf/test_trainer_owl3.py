# SPDX-License-Identifier: Apache-2.0
"""transformers' Trainer trains, evaluates and predicts; other trainers find the model's body."""

import pytest
import torch
from PIL import Image
from transformers import Trainer, TrainingArguments

from owl.families.owl3.hf.generation_owl3 import CACHE
from owl.hf import Owl3ForConditionalGeneration
from tests.unit.families.owl3.hf.conftest import build
from tests.unit.families.owl3.hf.test_modeling_owl3 import inputs


@pytest.fixture
def conversations() -> list:
    def one(shade: int) -> list[dict]:
        picture = {"type": "image", "image": Image.new("RGB", (40, 30), (shade, 90, 200))}
        question = {"role": "user", "content": [picture, {"type": "text", "text": "Which?"}]}
        return [question, {"role": "assistant", "content": f"Number {shade}."}]

    return [one(shade) for shade in (0, 60, 120, 180)]


@pytest.fixture
def trainer(processor, conversations, tmp_path):
    def collate(rows):
        return dict(
            processor.apply_chat_template(
                rows,
                tokenize=True,
                return_dict=True,
                return_tensors="pt",
                return_labels=True,
                cut_enable=False,
            )
        )

    def make(**options) -> Trainer:
        options = {"max_steps": 2, "report_to": [], "save_strategy": "no"} | options
        arguments = TrainingArguments(
            str(tmp_path), per_device_train_batch_size=2, per_device_eval_batch_size=2,
            remove_unused_columns=False, use_cpu=True, disable_tqdm=True, **options,
        )  # fmt: skip
        return Trainer(
            build("joint_softmax"), arguments, data_collator=collate,
            train_dataset=conversations, eval_dataset=conversations[:3],
        )  # fmt: skip

    return make


def test_it_evaluates_while_it_trains(trainer):
    training = trainer(eval_strategy="steps", eval_steps=1, gradient_checkpointing=True)
    before = training.evaluate()["eval_loss"]
    training.train()
    logged = [entry["eval_loss"] for entry in training.state.log_history if "eval_loss" in entry]
    assert len(logged) == 2
    assert logged[-1] < before


def test_predictions_are_logits_alone(trainer, conversations):
    predicted = trainer().predict(conversations)
    assert predicted.predictions.shape == (*predicted.label_ids.shape, 259)


def test_the_body_gives_what_the_output_layer_takes(model):
    batch = inputs() | {"pixel_values": inputs()["pixel_values"].double()}
    body = model.base_model(**batch, use_cache=False)
    torch.testing.assert_close(
        model.get_output_embeddings()(body.last_hidden_state), model(**batch).logits
    )
    assert body.hidden_states is None
    steps = model.base_model(**batch, output_hidden_states=True).hidden_states
    assert len(steps) == model.config.num_hidden_layers + 1
    assert [name for name, _ in model.named_parameters() if "owner" in name] == []


@pytest.mark.parametrize("loaded", [False, True])
def test_what_requires_a_gradient_gets_one(loaded, tmp_path):
    model = build("joint_softmax")
    if loaded:
        model.save_pretrained(tmp_path)
        model = Owl3ForConditionalGeneration.from_pretrained(tmp_path)
    model.train().gradient_checkpointing_enable()
    batch = inputs()
    model(**batch, labels=batch["input_ids"]).loss.backward()
    for name, parameter in model.named_parameters():
        assert parameter.requires_grad == (parameter.grad is not None), name


def test_gradient_checkpointing_recomputes_every_layer_that_runs():
    model, batch, runs = build("joint_softmax").train(), inputs(), {}
    layers = [*model.vision_model.encoder.layers[:-1], *model.language_model.model.layers]
    for layer in layers:
        layer.mlp.register_forward_pre_hook(lambda mlp, _: runs.update({mlp: runs.get(mlp, 0) + 1}))
    model.gradient_checkpointing_enable()
    model(**batch, labels=batch["input_ids"]).loss.backward()
    assert [runs[layer.mlp] for layer in layers] == [2] * len(layers)


def test_a_cache_and_recomputation_do_not_mix():
    model, tokens = build("joint_softmax").train(), torch.zeros(1, 4, dtype=torch.long)
    past = model.eval()(tokens, use_cache=True)[CACHE]
    model.train().gradient_checkpointing_enable()
    assert CACHE not in model(tokens, use_cache=True)
    with pytest.raises(ValueError, match="store their keys twice"):
        model(tokens, past_key_values=past)
