# SPDX-License-Identifier: Apache-2.0
"""Build a starting checkpoint from a Qwen2 folder and a SigLIP folder.

What the two do not hold is made here: each hyper layer's media key-value projection is a copy of
that layer's own key and value projections (paper, section 2.2); projector and gates start as the
model initialises them.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from owl.checkpoint.content import weight_shards
from owl.checkpoint.save import CARRIED, write_checkpoint
from owl.checkpoint.state import TrainState
from owl.config.run import DeviceKind, ModelConfig, ParallelConfig, Precision
from owl.convert import layouts
from owl.convert.reader import HfFolder
from owl.errors import CheckpointError
from owl.families.owl3.limits_owl3 import SIZES
from owl.families.owl3.published import entries, is_carried
from owl.families.owl3.published_config import build_config, check_computed
from owl.mcore.parameters import global_names, load_whole
from owl.mcore.process_groups import process_groups
from owl.mcore.provider import build_model

# (variant, decoder layers) -> 0-based hyper layers as published. The 2B's are not known: ours.
_PUBLISHED_LAYERS = {
    ("240728", 28): [0, 8, 16, 24],
    ("241101", 28): [6, 14, 22, 25],
    ("241014", 24): [5, 12, 19, 21],
    ("241014", 28): [6, 14, 22, 25],
}
_PUBLISHED_VOCABULARY = {"240728": 151851, "241014": 151851, "241101": 151651}
_PRECISIONS = {
    torch.float32: Precision.fp32,
    torch.bfloat16: Precision.bf16,
    torch.float16: Precision.fp16,
}


@dataclass(frozen=True, kw_only=True)
class InitOptions:
    """What the user may choose beside the folders; None takes the variant's published value."""

    variant: str
    layer_indices: list[int] | None = None
    vocab_size: int | None = None
    name: str = "owl3"
    seed: int = 1234


def init_checkpoint(
    language_model: Path,
    vision_model: Path,
    output: Path,
    options: InitOptions,
    report: Callable[[str], None] = lambda line: None,
) -> ModelConfig:
    """Write a checkpoint that training can start from.

    Args:
        language_model: Qwen2 or Qwen2.5, as transformers saves it.
        vision_model: SigLIP (the vision model alone, or both towers).
        output: folder to write; replaced when it exists.
        options: variant and the like.
        report: told about each part as it is done.

    Returns:
        The architecture, as stored in the checkpoint.
    """
    language, vision = HfFolder(language_model), HfFolder(vision_model)
    model = _architecture(language, vision, options)
    source = _Source(language, vision, model)
    precision = _PRECISIONS[source.read("language_model.model.embed_tokens.weight").dtype]
    parallel = ParallelConfig(device=DeviceKind.cpu)
    with process_groups(parallel, seed=options.seed, alone=True) as groups:
        torch.manual_seed(options.seed)
        chunks = build_model(model, parallel, precision, groups)
        made = load_whole(chunks, source.weights(report))
        report(f"initialised here: {', '.join(made)}")
        _check_made(made)
        carried = _save_carried(source, output)
        write_checkpoint(
            output, weight_shards(chunks, groups), model, TrainState(), groups, carried=carried
        )
        if carried is not None:
            carried.unlink()
        parameters = sum(p.numel() for _, p in global_names(chunks))
    report(f"{output}: {parameters:,} parameters")
    return model


def _architecture(language: HfFolder, vision: HfFolder, options: InitOptions) -> ModelConfig:
    """Decide the model's sizes from both folders and the variant."""
    vision_config = dict(vision.config.get("vision_config", vision.config))
    missing = [size for size in SIZES if size not in language.config]
    if missing:
        raise CheckpointError(
            f"--language-model {language.folder}: its config.json lacks {', '.join(missing)}. Name "
            "the folder of a Qwen2 or Qwen2.5."
        )
    check_computed(language.config, vision_config)
    num_layers = language.config["num_hidden_layers"]
    layers = options.layer_indices or _PUBLISHED_LAYERS.get((options.variant, num_layers))
    if options.variant == "241101" and vision_config.get("image_size") == 384:
        vision_config["image_size"] = 378  # the same 27 x 27 patches, without the 6 unused pixels
    model = build_config(
        language.config,
        vision_config,
        options.variant,
        layers or _spread_layers(num_layers),
        options.name,
    )
    vocabulary = options.vocab_size or min(model.vocab_size, _PUBLISHED_VOCABULARY[options.variant])
    model = replace(model, vocab_size=vocabulary)
    problems = list(model.problems())
    if problems:
        raise CheckpointError("; ".join(problems))
    return model


def _spread_layers(num_layers: int) -> list[int]:
    """Place up to four hyper layers evenly, the last one at the end (ours: no variant says)."""
    count = min(4, max(1, num_layers // 2))
    return [(i + 1) * num_layers // count - 1 for i in range(count)]


class _Source:
    """Two folders that read like one published Owl3 checkpoint."""

    def __init__(self, language: HfFolder, vision: HfFolder, model: ModelConfig) -> None:
        self.language, self.vision, self.model = language, vision, model
        # SiglipVisionModel has been saved with and without this prefix over the years.
        prefixed = any(name.startswith("vision_model.") for name in vision.names)
        self.vision_prefix = "vision_model." if prefixed else ""

    def read(self, published: str) -> Tensor:
        """Read a tensor by its published Owl3 name."""
        if published.startswith("vision_model."):
            rest = published.removeprefix("vision_model.")
            return self.vision.read(self.vision_prefix + rest)
        name = published.removeprefix("language_model.")
        if name.endswith(("v_kv_proj.weight", "v_kv_proj.bias")):
            return self._media_kv(name)
        tensor = self.language.read(name)
        if name in ("model.embed_tokens.weight", "lm_head.weight"):
            return self._vocabulary_rows(tensor)
        return tensor

    def weights(self, report: Callable[[str], None]) -> Iterator[tuple[str, Tensor]]:
        """Yield every weight that the two folders give, under our name."""
        part = ""
        for entry in entries(self.model):
            if entry.ours.startswith("projector.") or ".fusion." in entry.ours:
                continue
            now = entry.ours.split(".")[0]
            if now != part:
                part = now
                report(f"reading {part}")
            yield entry.ours, entry.to_ours(tuple(self.read(name) for name in entry.published))

    def carried(self) -> dict[str, Tensor]:
        """Read what a published checkpoint holds beside what the model computes with."""
        prefix = self.vision_prefix
        names = (f"vision_model.{name.removeprefix(prefix)}" for name in self.vision.names)
        return {name: self.read(name) for name in names if is_carried(name, self.model)}

    def _media_kv(self, name: str) -> Tensor:
        key, value = (
            self.language.read(name.replace("v_kv_proj", p)) for p in ("k_proj", "v_proj")
        )
        return layouts.merge_media_kv(key, value, self.model.num_kv_heads)

    def _vocabulary_rows(self, table: Tensor) -> Tensor:
        """Keep the first rows: Qwen2's tables are taller than its vocabulary."""
        if len(table) < self.model.vocab_size:
            raise CheckpointError(
                f"--vocab-size {self.model.vocab_size} is more than the {len(table)} rows of "
                f"{self.language.folder}'s embedding. Give at most {len(table)}."
            )
        return table[: self.model.vocab_size]


def _check_made(made: list[str]) -> None:
    """Nothing but projector and gates may be left to chance."""
    unexpected = [n for n in made if not n.startswith("projector.") and ".fusion." not in n]
    assert not unexpected, (
        f"no source for {unexpected}: owl/families/owl3/published.py misses a row"
    )


def _save_carried(source: _Source, output: Path) -> Path | None:
    carried = source.carried()
    if not carried:
        return None
    output.parent.mkdir(parents=True, exist_ok=True)
    path = output.with_name(f"{output.name}.{CARRIED}")
    save_file(carried, path)
    return path
