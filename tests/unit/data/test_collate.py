# SPDX-License-Identifier: Apache-2.0
from dataclasses import replace

import pytest
import torch

from owl.data.collate import collate
from owl.data.samples import IGNORE_INDEX, EncodedSample
from owl.errors import BatchError, DataError


def sample(tokens, weights, media_offset=(), tiles=None, key="k"):
    count = len(media_offset) if tiles is None else tiles
    return EncodedSample(
        key=key,
        source="a",
        tokens=torch.tensor(tokens),
        loss_weights=torch.tensor(weights, dtype=torch.float32),
        positions=torch.arange(len(tokens)),
        tiles=torch.full((count, 3, 2, 2), len(tokens), dtype=torch.uint8),
        media_offset=list(media_offset),
    )


def two():
    return [
        sample([5, 6, 7, 8], [0, 0, 1, 2], [1], key="a"),
        sample([9, 10, 11], [1, 1, 0], [0, 2], key="b"),
    ]


def test_a_label_is_the_next_token_of_the_same_sample():
    batch = collate(two())
    no = IGNORE_INDEX
    assert batch.tokens.tolist() == [5, 6, 7, 8, 9, 10, 11]
    assert batch.labels.tolist() == [no, 7, 8, no, 10, no, no]
    assert batch.loss_weights.tolist() == [0, 1, 2, 0, 1, 0, 0]
    assert batch.supervised_weight == 4


def test_positions_restart_and_boundaries_are_cumulative():
    batch = collate(two())
    assert batch.position_ids.tolist() == [0, 1, 2, 3, 0, 1, 2]
    assert batch.cu_seqlens.tolist() == [0, 4, 7]
    assert batch.cu_media.tolist() == [0, 1, 3]
    assert batch.cu_seqlens.dtype == batch.cu_media.dtype == torch.int32
    assert batch.keys == ("a", "b")


def test_media_offsets_count_within_their_sample():
    batch = collate(two())
    assert batch.flat_media_offset.tolist() == [1, 0, 2]
    assert batch.media_offset == [[1], [0, 2]]


def test_pixels_stay_bytes_in_sample_order():
    batch = collate(two())
    assert batch.pixel_values.dtype == torch.uint8
    assert batch.pixel_values[:, 0, 0, 0].tolist() == [4, 3, 3]


def test_a_batch_without_pictures_has_tensors_without_rows():
    batch = collate([sample([1, 2], [0, 1])])
    assert batch.pixel_values.shape == (0, 3, 2, 2)
    assert batch.flat_media_offset.shape == (0,)
    assert batch.flat_media_offset.dtype == torch.int64
    assert batch.cu_media.tolist() == [0, 0]


@pytest.mark.parametrize(
    "broken",
    [
        sample([1, 2], [0, 1], [0], tiles=2),
        sample([1, 2], [0, 1], [2]),
        sample([1, 2], [0, 1], [-1]),
        sample([1, 2], [0, 1], [1, 1]),
    ],
)
def test_tiles_that_do_not_fit_their_placeholders_are_refused(broken):
    with pytest.raises(DataError, match="E405"):
        collate([broken])


def test_a_sample_with_too_few_positions_is_refused():
    short = replace(two()[0], positions=torch.arange(3))
    with pytest.raises(BatchError, match="position_ids has 3 positions"):
        collate([short])
