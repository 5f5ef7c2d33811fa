# SPDX-License-Identifier: Apache-2.0
"""Names of a folder's tensors, read from the headers of its safetensors files."""

import json
from pathlib import Path
from typing import Any

WEIGHTS_INDEX = "model.safetensors.index.json"
WEIGHTS_FILE = "model.safetensors"
HUB_OPTIONS = ("cache_dir", "revision", "token", "local_files_only", "subfolder")
"""Options of from_pretrained that choose where a folder's files come from."""


def tensor_names(folder: str | Path, **hub: Any) -> list[str]:
    """List the tensors of a folder's weights, or of a repository's, without reading them.

    Args:
        folder: path, or the name of a repository on the hub.
        **hub: HUB_OPTIONS that are set.

    Raises:
        ValueError: a local folder holds no safetensors weights, or damaged ones.
    """
    local = Path(folder) / (hub.get("subfolder") or "")
    if local.is_dir():
        return _local_names(local)
    from huggingface_hub import get_safetensors_metadata

    metadata = get_safetensors_metadata(
        str(folder), revision=hub.get("revision"), token=hub.get("token")
    )
    return list(metadata.weight_map)


def _local_names(folder: Path) -> list[str]:
    from safetensors import SafetensorError, safe_open

    if (folder / WEIGHTS_INDEX).is_file():
        index = json.loads((folder / WEIGHTS_INDEX).read_text(encoding="utf-8"))
        if not isinstance(index, dict) or not isinstance(index.get("weight_map"), dict):
            raise ValueError(
                f"{folder / WEIGHTS_INDEX} has no weight_map, which lists the file of each tensor. "
                "Download it again."
            )
        return list(index["weight_map"])
    if (folder / WEIGHTS_FILE).is_file():
        try:
            with safe_open(folder / WEIGHTS_FILE, framework="pt") as weights:
                return list(weights.keys())
        except SafetensorError as error:
            raise ValueError(
                f"{folder / WEIGHTS_FILE} is not a complete safetensors file ({error}). Download "
                "it again."
            ) from error
    raise ValueError(f"{folder} holds neither {WEIGHTS_FILE} nor {WEIGHTS_INDEX}.")
