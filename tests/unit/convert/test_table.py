# SPDX-License-Identifier: Apache-2.0
"""Rows of a table of weights become entries: names written out, letters turned into sizes."""

import torch

from owl.convert.tables.table import WeightTable, expand

SIZES = {"h": 8, "q": 8, "k": 4, "d": 2, "f": 6}


def test_a_weight_and_a_bias_come_from_one_row():
    entries = list(expand([("fc.{p}", "linear.{p}", "f h")], "theirs.", "ours.", SIZES))

    assert [(entry.published, entry.ours, entry.shapes) for entry in entries] == [
        (("theirs.fc.weight",), "ours.linear.weight", ((6, 8),)),
        (("theirs.fc.bias",), "ours.linear.bias", ((6,),)),
    ]


def test_braces_give_each_published_tensor_its_own_name_and_shape():
    table = [("{q,k,v}_proj.weight", "qkv", "{q,k,k} h"), ("{gate,up}_proj.weight", "fc1", "f h")]

    qkv, fc1 = expand(table, "", "", SIZES)

    assert qkv.published == ("q_proj.weight", "k_proj.weight", "v_proj.weight")
    assert (qkv.shapes, qkv.our_shape) == (((8, 8), (4, 8), (4, 8)), (16, 8))
    assert fc1.published == ("gate_proj.weight", "up_proj.weight")
    assert (fc1.shapes, fc1.our_shape) == (((6, 8), (6, 8)), (12, 8))


def test_numbers_and_letters_multiply_within_a_dimension():
    (entry,) = expand([("a", "b", "1 2k 3h")], "", "", SIZES)

    assert entry.shapes == ((1, 8, 24),)


def test_a_tensor_of_one_part_is_passed_on_as_it_is():
    (entry,) = expand([("a", "b", "h")], "", "", SIZES)
    tensor = torch.arange(8)

    assert entry.to_ours((tensor,)) is tensor
    assert entry.to_published(tensor) == (tensor,)


def test_shapes_come_in_the_order_of_the_table_and_carried_ones_last():
    entries = tuple(expand([("b", "b", "h"), ("a", "a", "f")], "", "", SIZES))

    table = WeightTable(entries, carried={"c": (1,)})

    assert list(table.shapes.items()) == [("b", (8,)), ("a", (6,)), ("c", (1,))]
