# SPDX-License-Identifier: Apache-2.0
"""The foreach functions give the numbers of megatron-core's replacements for apex."""

import pytest
import torch
from megatron.core.utils import local_multi_tensor_scale

from owl.mcore import multi_tensor


def tensors(dtype: torch.dtype) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    return [torch.randn(n, generator=generator, dtype=dtype) for n in (1, 7, 4096, 33)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_norm_is_rounded_once(dtype: torch.dtype) -> None:
    each = torch.tensor([float(torch.norm(tensor)) for tensor in tensors(dtype)], dtype=dtype)
    (norm,), _ = multi_tensor.l2_norm(1, torch.zeros(1), [tensors(dtype)], False)
    assert norm.dtype == torch.float32
    assert norm == torch.norm(each).float()


def test_scaling_in_place_and_to_others() -> None:
    there, here = tensors(torch.float32), tensors(torch.float32)
    local_multi_tensor_scale(1, None, [there, there], 0.3)
    multi_tensor.scale(1, torch.zeros(1), [here, here], 0.3)
    other = [torch.empty_like(tensor) for tensor in here]
    multi_tensor.scale(1, torch.zeros(1), [tensors(torch.float32), other], 0.3)
    for expected, *found in zip(there, here, other, strict=True):
        assert all(torch.equal(expected, one) for one in found)
