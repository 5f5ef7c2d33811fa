# SPDX-License-Identifier: Apache-2.0
import torch

from owl.config.run import Trainable
from owl.demo.checkpoints import different_tensors, is_same_bits, without_padding

STAGE1 = Trainable()


def tensors(**changes):
    tensors_of_model = {
        "vision_tower.patch_embedding.bias": torch.zeros(3),
        "projector.linear.bias": torch.zeros(3),
        "decoder.layers.1.self_attention.linear_media_kv.bias": torch.zeros(3),
        "decoder.layers.1.self_attention.fusion.bias": torch.zeros(3),
        "output_layer.weight": torch.zeros(63, 2),
    }
    return tensors_of_model | changes


def test_what_learns_may_change():
    after = tensors(
        **{
            "projector.linear.bias": torch.ones(3),
            "decoder.layers.1.self_attention.linear_media_kv.bias": torch.ones(3),
            "decoder.layers.1.self_attention.fusion.bias": torch.ones(3),
        }
    )
    assert different_tensors(tensors(), after, STAGE1) == []


def test_a_frozen_tensor_that_changed_by_one_bit_is_named():
    one_bit = torch.zeros(63, 2)
    one_bit[7, 1] = -0.0
    after = tensors(**{"output_layer.weight": one_bit})
    assert different_tensors(tensors(), after, STAGE1) == ["output_layer.weight"]


def test_a_frozen_tensor_that_is_missing_is_named():
    after = tensors()
    del after["vision_tower.patch_embedding.bias"]
    assert different_tensors(tensors(), after, STAGE1) == ["vision_tower.patch_embedding.bias"]


def test_padding_of_the_vocabulary_is_no_change():
    padded = tensors(**{"output_layer.weight": torch.zeros(64, 2)})
    assert different_tensors(tensors(), without_padding(padded, 63), STAGE1) == []


def test_a_number_of_other_precision_is_not_the_same_bits():
    assert not is_same_bits(torch.zeros(2), torch.zeros(2, dtype=torch.float64))
    assert is_same_bits(torch.ones(2), torch.ones(2))
