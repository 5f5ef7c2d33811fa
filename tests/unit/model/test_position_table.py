# SPDX-License-Identifier: Apache-2.0
import pytest
import torch

from owl.model.tower.position_table import resize_positions


@pytest.mark.parametrize("front", [(), (1,)])
@pytest.mark.parametrize("class_tokens", [0, 1])
def test_a_grid_is_resized_row_by_row_and_class_tokens_stay(front, class_tokens):
    table = torch.randn(*front, class_tokens + 16, 6)
    resized = resize_positions(table, class_tokens=class_tokens, side=8)
    assert resized.shape == (*front, class_tokens + 64, 6)
    assert torch.equal(resized[..., :class_tokens, :], table[..., :class_tokens, :])
    grid = table.view(-1, 6)[class_tokens:].view(4, 4, 6)
    planes = torch.nn.functional.interpolate(
        grid.permute(2, 0, 1)[None], size=8, mode="bicubic", align_corners=False
    )[0]
    for row, column in ((0, 0), (3, 7), (7, 2)):
        got = resized.view(-1, 6)[class_tokens + 8 * row + column]
        torch.testing.assert_close(got, planes[:, row, column])


def test_columns_stay_columns():
    # A table that rises from left to right, and is the same in every row.
    table = torch.arange(4.0).repeat(4)[:, None]
    resized = resize_positions(table, class_tokens=0, side=8).view(8, 8)
    assert torch.equal(resized, resized[:1].expand(8, 8))
    assert (resized.diff(dim=1) > 0).all()


def test_a_table_of_the_right_size_is_left_alone():
    table = torch.randn(1, 17, 6)
    assert resize_positions(table, class_tokens=1, side=4) is table


def test_half_precision_stays():
    table = torch.randn(16, 6).to(torch.bfloat16)
    assert resize_positions(table, class_tokens=0, side=2).dtype is torch.bfloat16
