# SPDX-License-Identifier: Apache-2.0
"""A comparison of folder and checkpoint finds a single changed value, and says where."""

import re
from pathlib import Path

import pytest
import torch

from owl.convert.from_hf import import_checkpoint
from owl.convert.verify import compare_tensors, verify
from owl.errors import CheckpointError
from tests.published import VARIANTS, random_weights, small_config, write_published

CONFIG = small_config("240728")
DOWN_PROJ = "language_model.model.layers.2.mlp.down_proj.weight"
PROBE = "vision_model.head.probe"


@pytest.fixture(scope="module")
def weights() -> dict[str, torch.Tensor]:
    return random_weights("240728", CONFIG)


@pytest.fixture(scope="module")
def checkpoint(weights, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("published")
    hf = write_published(folder / "hf", "240728", config=CONFIG, weights=weights)
    import_checkpoint(hf, folder / "start")
    return folder / "start"


@pytest.mark.parametrize("variant", VARIANTS)
def test_an_import_equals_its_folder_also_in_logits(tmp_path, variant):
    hf = write_published(tmp_path / "hf", variant, config=small_config(variant))
    import_checkpoint(hf, tmp_path / "start")

    report = verify(hf, tmp_path / "start")

    assert report.is_equal, report
    assert report.compared == len(random_weights(variant, small_config(variant)))
    assert report.largest_logit > 0.1
    assert report.largest_logit_difference < 1e-5 * report.largest_logit


def test_one_changed_value_is_found_and_moves_the_logits(tmp_path, weights, checkpoint):
    changed = weights | {DOWN_PROJ: weights[DOWN_PROJ].clone()}
    changed[DOWN_PROJ][3, 4] = 7.0
    hf = write_published(tmp_path / "hf", "240728", config=CONFIG, weights=changed)

    report = verify(hf, checkpoint)

    (difference,) = report.differences
    assert not report.is_equal
    assert (difference.published, difference.ours) == (
        DOWN_PROJ, "decoder.layers.2.mlp.linear_fc2.weight",
    )  # fmt: skip
    assert "1 of 1,536 values differ, the most at [3, 4]: 7 in the folder" in difference.what
    assert report.largest_logit_difference > 0.01


def test_what_influences_no_output_is_compared_too(tmp_path, weights, checkpoint):
    changed = weights | {PROBE: weights[PROBE] + 1}
    del changed["vision_model.head.layernorm.bias"]
    hf = write_published(tmp_path / "hf", "240728", config=CONFIG, weights=changed)

    report = verify(hf, checkpoint, logits=False)

    found = {difference.published: difference.what for difference in report.differences}
    assert "16 of 16 values differ" in found[PROBE]
    assert "only in the checkpoint" in found["vision_model.head.layernorm.bias"]
    assert len(found) == 2


def test_a_tied_folder_with_a_copy_of_its_embedding_equals_its_import(tmp_path):
    config = small_config("241014")
    tied = random_weights("241014", config)
    tied["language_model.lm_head.weight"] = tied["language_model.model.embed_tokens.weight"].clone()
    hf = write_published(tmp_path / "hf", "241014", config=config, weights=tied)
    import_checkpoint(hf, tmp_path / "start")

    assert verify(hf, tmp_path / "start").is_equal


def test_another_model_is_refused_with_every_difference(tmp_path, checkpoint):
    hf = write_published(tmp_path / "hf", "241101", config=small_config("241101"))

    with pytest.raises(CheckpointError, match=r"(?s)hyper_attention\.fusion.*projector"):
        verify(hf, checkpoint)


@pytest.mark.parametrize(
    ("theirs", "ours", "what"),
    [
        (torch.tensor([1.0]), torch.tensor([1.0]), None),
        (torch.tensor([float("nan")]), torch.tensor([float("nan")]), None),
        (torch.tensor([0.0]), torch.tensor([-0.0]), "0 of 1 values differ"),
        (torch.tensor([1.0, 2.0]), torch.tensor([1.0, 5.0]), r"1 of 2 .* at \[1\]: 2 in the"),
        (torch.tensor([1.0]), torch.tensor([1.0]).half(), "float32 in the folder, float16"),
    ],
    ids=["equal", "both nan", "sign of zero", "value", "dtype"],
)
def test_tensors_are_equal_in_every_bit_or_differ(theirs, ours, what):
    found = compare_tensors(theirs, ours)

    assert found is None if what is None else re.search(what, found)
