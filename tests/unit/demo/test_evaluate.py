# SPDX-License-Identifier: Apache-2.0
import pytest
import torch

from owl.checkpoint.inference import LoadedModel
from owl.demo import evaluate
from owl.demo.digits import HELD_OUT, WORDS, load_digits
from owl.demo.evaluate import (
    Prediction,
    accuracy,
    answer_held_out,
    answerer_of,
    load_predictions,
    save_predictions,
)
from owl.demo.samples import Kind, make_dialogue
from owl.demo.shards import picture_sample
from owl.demo.text import VOCABULARY, open_encoder, save_tokenizer
from owl.evaluate.greedy import decode_greedily, likeliest_of
from tests.tiny_run import tiny_model
from tests.unit.demo.pictures import plain_png

IDS = {word: index for index, word in enumerate(VOCABULARY)}
END = "<|im_end|>"


@pytest.fixture
def tokenizer_folder(tmp_path):
    save_tokenizer(tmp_path / "tokenizer")
    return tmp_path / "tokenizer"


class Scripted:
    """In place of a model: continues the sample `k` with the words of scripts[k]."""

    def __init__(self, scripts, prompts):
        self.scripts = scripts
        self.prompt_lengths = {prompt.key: prompt.num_tokens for prompt in prompts}
        self.packs = []

    def __call__(self, batch):
        self.packs.append(batch.keys)
        logits = torch.zeros(batch.num_tokens, len(VOCABULARY))
        ends = batch.cu_seqlens[1:].tolist()
        for key, length, end in zip(batch.keys, batch.seqlens, ends, strict=True):
            written = length - self.prompt_lengths[key]
            logits[end - 1, IDS[self.scripts[key][written]]] = 1.0
        return logits


def prompts_for(encoder, keys):
    from random import Random

    dialogue = make_dialogue(Kind.single, (7,), Random(0))
    return [encoder.encode_prompt(picture_sample(key, dialogue, [plain_png()])) for key in keys]


def decode(scripts, tokenizer_folder, **options):
    encoder = open_encoder(tokenizer_folder)
    prompts = prompts_for(encoder, scripts)
    model = Scripted(scripts, prompts)
    options = {"max_tokens": 4} | options
    answers = decode_greedily(prompts, likeliest_of(model), encoder.tokenizer, **options)
    return answers, model


def test_answers_of_several_words_come_back_in_the_order_of_the_prompts(tokenizer_folder):
    scripts = {"a": ["seven", END], "b": [END], "c": ["a", "seven", ".", END]}
    answers, _ = decode(scripts, tokenizer_folder)
    assert answers == ["seven", "", "a seven."]


def test_a_finished_answer_is_not_computed_again(tokenizer_folder):
    scripts = {"a": ["seven", END], "b": [END], "c": ["a", "seven", END]}
    _, model = decode(scripts, tokenizer_folder)
    assert model.packs == [("a", "b", "c"), ("a", "c"), ("c",)]


def test_many_prompts_are_split_into_packs(tokenizer_folder):
    scripts = {key: ["seven", END] for key in "abcde"}
    answers, model = decode(scripts, tokenizer_folder, per_pack=2)
    assert answers == ["seven"] * 5
    assert model.packs == [("a", "b"), ("c", "d"), ("e",)] * 2


def test_an_answer_that_does_not_end_is_cut(tokenizer_folder):
    answers, _ = decode({"a": ["seven"] * 9}, tokenizer_folder, max_tokens=3)
    assert answers == ["seven seven seven"]


def test_a_model_that_always_says_seven_is_right_where_a_seven_was_asked_about(
    tokenizer_folder, monkeypatch
):
    monkeypatch.setattr(evaluate, "HELD_OUT", range(1437, 1477))

    def always_seven(batch):
        logits = torch.zeros(batch.num_tokens, len(VOCABULARY))
        ends = batch.cu_seqlens[1:].long() - 1
        last_words = batch.tokens[ends]
        logits[ends, IDS["seven"]] = 1.0
        logits[ends[last_words == IDS["seven"]], IDS[END]] = 2.0
        return logits

    model = LoadedModel(tiny_model(), always_seven, groups=None)
    predictions = answer_held_out("start", answerer_of(model, tokenizer_folder))
    labels = load_digits(range(1437, 1477)).labels
    sevens = float((labels == WORDS.index("seven")).mean())
    shares = accuracy(predictions)
    assert len(predictions) == 4 * 40
    assert shares["single"] == shares["swapped"] == pytest.approx(sevens)
    assert shares["finding"] == 0
    assert all(index in HELD_OUT for asked in predictions for index in asked.indices)


def prediction(stage, answer, kind="single"):
    return Prediction(
        stage=stage,
        kind=kind,
        question="What is this digit?",
        indices=[1500],
        asked_of=[1500],
        truth="seven",
        answer=answer,
    )


def test_a_stage_that_is_evaluated_again_replaces_only_its_own_answers(tmp_path):
    save_predictions(tmp_path, [prediction("start", "one"), prediction("start", "two")])
    save_predictions(tmp_path, [prediction("stage1", "six")])
    save_predictions(tmp_path, [prediction("start", "seven")])
    assert load_predictions(tmp_path) == [prediction("stage1", "six"), prediction("start", "seven")]


def test_accuracy_counts_letter_for_letter():
    answers = ["seven", "seven.", "Seven", "seven"]
    assert accuracy([prediction("start", answer) for answer in answers])["single"] == 0.5
