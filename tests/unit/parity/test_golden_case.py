# SPDX-License-Identifier: Apache-2.0
"""Rows of stored cases, and which pictures belong to them, as the published code reads them."""

import torch

from owl.config.run import AbstractorConfig, ProjectorKind
from owl.parity.golden_case import Case, pack_rows, rows_of
from tests.tiny_run import tiny_model

# Two queries and an end vector.
MODEL = tiny_model(projector=ProjectorKind.abstractor, abstractor=AbstractorConfig(num_queries=2))


def case(ids: list[list[int]], length: int, pictures: int, **tensors) -> Case:
    """Store rows of ids, whose logits have a length of their own; picture i is of value i."""
    pixels = torch.arange(pictures).float()[:, None, None, None].expand(-1, 3, 28, 28)
    stored = {
        "input_ids": torch.tensor(ids),
        "logits": torch.arange(len(ids) * length).view(len(ids), length, 1).float(),
        "pixel_values": pixels,
    }
    return Case("case", stored | tensors, None, [[] for _ in ids])


def test_one_id_stands_for_all_vectors_of_a_picture():
    stored = case(
        [[5, -200, 6, -200], [7, 8, 9, 0]],
        8,
        2,
        attention_mask=torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0]]),
        labels=torch.tensor([[-100, -100, 6, -100], [-100, 8, 9, -100]]),
    )

    first, second = rows_of(stored, MODEL)

    assert first.tokens.tolist() == [5, 0, 0, 0, 6, 0, 0, 0]
    assert first.labels.tolist() == [-100, -100, -100, 6, -100, -100, -100, -100]
    assert first.offsets == [1, 5]
    assert first.logits.flatten().tolist() == list(range(8))
    assert (second.tokens.tolist(), second.offsets) == ([7, 8, 9], [])
    assert second.labels.tolist() == [8, 9, -100]
    assert second.logits.flatten().tolist() == [8, 9, 10]


def test_a_row_of_text_has_an_unused_picture_where_there_are_more_than_placeholders():
    ids = [[-200, 5], [6, 7], [8, -200]]

    unused, none = (rows_of(case(ids, 4, pictures), MODEL) for pictures in (3, 2))

    assert [row.tiles.flatten(1)[:, 0].tolist() for row in unused] == [[0], [], [2]]
    assert [row.tiles.flatten(1)[:, 0].tolist() for row in none] == [[0], [], [1]]


def test_a_run_of_ids_holds_one_picture_and_what_is_left_over_is_text():
    stored = case(
        [[5, -1, -1, -1, 6, -1, -1, -1], [-1, -1, -1, -1, -1, -1, 7, 8]],
        8,
        5,
        labels_masked=torch.tensor([[-100] * 4 + [6] + [-100] * 3, [-100] * 6 + [7, 8]]),
        num_images=torch.tensor([2, 2]),
    )

    first, second = rows_of(stored, MODEL)

    assert first.offsets == [1, 5]
    assert first.tiles.flatten(1)[:, 0].tolist() == [0, 1]
    # As the published code: adjacent pictures are one run, of which the first is placed.
    assert second.offsets == [0]
    assert second.tokens.tolist() == [1] * 6 + [7, 8]
    assert second.tiles.flatten(1)[:, 0].tolist() == [2]
    assert second.labels.tolist() == [-100] * 5 + [7, 8, -100]


def test_rows_are_laid_end_to_end():
    batch = pack_rows(rows_of(case([[5, -200], [-200, 6]], 4, 2), MODEL), "case")

    batch.check()
    assert batch.seqlens == (4, 4)
    assert batch.media_offset == [[1], [0]]
    assert batch.position_ids.tolist() == [0, 1, 2, 3] * 2
    assert batch.supervised_weight == 0
