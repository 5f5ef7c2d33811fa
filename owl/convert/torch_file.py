# SPDX-License-Identifier: Apache-2.0
"""Read the weights of pytorch_model*.bin files without holding a file's values in memory.

torch maps the file and unpickles tensors alone: of what else a pickle could ask for nothing is
executed. Pages that were read stay in memory until the file is closed, so one is open at a time.
"""

import pickle
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from owl.checkpoint.tensor_spec import TensorSpec
from owl.convert.safetensors_file import DTYPES
from owl.errors import CheckpointError

INDEX = "pytorch_model.bin.index.json"
SINGLE = "pytorch_model.bin"


def map_tensors(path: Path) -> Mapping[str, Tensor]:
    """Map the tensors of a file; values are read when they are used.

    Raises:
        CheckpointError: the file is damaged, or holds something other than weights.
    """
    try:
        content = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
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
        else [f"a {type(content).__name__}"]
    )
    if others:
        raise CheckpointError(f"{path} holds {others[0]}, which is not a tensor with a name.")
    for name, tensor in content.items():
        if tensor.dtype not in DTYPES.values():
            raise CheckpointError(
                f"{name} in {path} has dtype {tensor.dtype}. Weights come as "
                f"{', '.join(DTYPES)}: convert a quantised model back before."
            )
    tensors: dict[str, Tensor] = content
    return tensors


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__


def specs_of(tensors: Mapping[str, Tensor]) -> dict[str, TensorSpec]:
    """Return shape and dtype of tensors by name."""
    return {name: TensorSpec(tuple(each.shape), each.dtype) for name, each in tensors.items()}
