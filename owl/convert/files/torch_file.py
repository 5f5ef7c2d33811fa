# SPDX-License-Identifier: Apache-2.0
"""Read the weights of pytorch_model*.bin files without holding a file's values in memory.

torch unpickles shapes alone, and says where in the file the values are; of what else a pickle could
ask for nothing is executed.
"""

import pickle
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from owl.checkpoint.tensor_spec import TensorSpec
from owl.convert.files.safetensors_file import DTYPES, Place
from owl.errors import CheckpointError

INDEX = "pytorch_model.bin.index.json"
SINGLE = "pytorch_model.bin"


def read_places(path: Path) -> tuple[dict[str, TensorSpec], dict[str, Place]]:
    """Find every tensor of a file.

    Returns:
        Shape and dtype by name, and the place of each tensor whose rows lie one after another; the
        others are read by read_scattered.

    Raises:
        CheckpointError: the file is damaged, or holds something other than weights.
    """
    # Documented in torch's notes on serialization: storages know their place in the file then.
    tensors = _load(path, FakeTensorMode())
    specs, places = {}, {}
    for name, tensor in tensors.items():
        if tensor.dtype not in DTYPES.values():
            raise CheckpointError(
                f"{name} in {path} has dtype {tensor.dtype}. Weights come as "
                f"{', '.join(DTYPES)}: convert a quantised model back before."
            )
        specs[name] = TensorSpec(tuple(tensor.shape), tensor.dtype)
        if tensor.is_contiguous():
            start = tensor.untyped_storage()._checkpoint_offset
            assert start is not None, "torch says it for every storage of a file"
            begin = start + int(tensor.storage_offset()) * tensor.dtype.itemsize
            places[name] = Place(specs[name], begin)
    return specs, places


def read_scattered(path: Path, name: str) -> Tensor:
    """Map a tensor whose rows do not lie one after another, such as one saved transposed."""
    return _load(path, nullcontext())[name]


def _load(path: Path, mode: AbstractContextManager[object]) -> Mapping[str, Tensor]:
    is_mapped = isinstance(mode, nullcontext)
    try:
        with mode:
            content = torch.load(path, map_location="cpu", mmap=is_mapped, weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path} holds something other than tensors, or is damaged; nothing of it was "
            f"executed ({_first_line(error)}). Download it again, or ask for safetensors files."
        ) from error
    except (RuntimeError, EOFError, ValueError) as error:
        raise CheckpointError(
            f"{path} is not a complete file of torch.save ({_first_line(error)}). Download it "
            "again; a file of torch before 1.6 must be saved again with a newer one."
        ) from error
    others = (
        [name for name, value in content.items() if not isinstance(value, Tensor)]
        if isinstance(content, dict)
        else ["no names of tensors"]
    )
    if others:
        raise CheckpointError(
            f"{path} holds {others[0]}: each entry must be a tensor with its name."
        )
    tensors: dict[str, Tensor] = content
    return tensors


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
