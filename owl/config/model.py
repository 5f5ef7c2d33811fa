# SPDX-License-Identifier: Apache-2.0
"""The model node: tower, projector, decoder, hyper-attention."""

from collections.abc import Iterator
from dataclasses import dataclass, field

from owl.config.choices import (
    AttentionKind,
    LayerBackend,
    ProjectorKind,
    TowerKind,
    VisionParallelism,
)
from owl.config.families import FamilyNodes
from owl.config.rules import not_dividing, too_small


@dataclass(kw_only=True)
class VisionTowerConfig:
    """The vision tower."""

    kind: TowerKind = TowerKind.siglip
    hidden_size: int = 1152
    ffn_hidden_size: int = 4304
    num_layers: int = 27
    """Layers in the checkpoint. SigLIP's last is not computed: Owl3 reads its input."""
    num_attention_heads: int = 16
    image_size: int = 384
    """Side of a tile in pixels."""
    patch_size: int = 14
    layer_norm_eps: float = 1e-6
    parallelism: VisionParallelism = VisionParallelism.tensor

    @property
    def patches_per_tile(self) -> int:
        """Patches that the tower makes of one tile (729 as published)."""
        return (self.image_size // self.patch_size) ** 2

    @property
    def class_tokens(self) -> int:
        """Features in front of a tile's patches that have no place in the picture."""
        return 1 if self.kind is TowerKind.clip else 0

    @property
    def publishes_qkv_as_one(self) -> bool:
        """Whether queries, keys and values are one published projection, with one adapter."""
        return self.kind is TowerKind.clip

    @property
    def features_per_tile(self) -> int:
        """Vectors that the tower returns for one tile."""
        return self.class_tokens + self.patches_per_tile

    @property
    def pixel_mean(self) -> tuple[float, float, float]:
        """Mean of red, green and blue, each 0 to 1, which pixels are normalised by."""
        if self.kind is TowerKind.clip:
            return (0.48145466, 0.4578275, 0.40821073)
        return (0.5, 0.5, 0.5)

    @property
    def pixel_deviation(self) -> tuple[float, float, float]:
        """Standard deviation of red, green and blue, which pixels are normalised by."""
        if self.kind is TowerKind.clip:
            return (0.26862954, 0.26130258, 0.27577711)
        return (0.5, 0.5, 0.5)

    @property
    def layers_run(self) -> int:
        """Layers that are computed."""
        return self.num_layers - 1 if self.kind is TowerKind.siglip else self.num_layers

    def problems(self) -> Iterator[str]:
        """Yield one sentence for each setting that cannot work."""
        name = "model.vision_tower"
        yield from not_dividing(
            f"{name}.num_attention_heads",
            self.num_attention_heads,
            f"{name}.hidden_size",
            self.hidden_size,
        )
        unused = self.num_layers - self.layers_run
        yield from too_small(
            f"{name}.num_layers", self.num_layers, 1 + unused, f"{self.layers_run} of them are run"
        )
        yield from too_small(f"{name}.patch_size", self.patch_size, 1, "it is a side in pixels")
        yield from too_small(
            f"{name}.image_size", self.image_size, self.patch_size, "a tile holds a patch or more"
        )


@dataclass(kw_only=True)
class AbstractorConfig:
    """The visual abstractor of mPLUG-Owl2; read only where model.projector=abstractor.

    It is as wide as the tower. The defaults are the published ones.
    """

    num_queries: int = 64
    """Vectors that stand for a tile, besides its end vector."""
    num_layers: int = 6
    num_attention_heads: int = 16
    ffn_hidden_size: int = 2816
    ffn_layer_norm_eps: float = 1e-6
    """Of the norm inside the MLP; the others have 1e-5, as published."""
    positions: bool = True
    """Add position tables to what the queries read (mPLUG-Owl2); mPLUG-Owl has none."""
    attention_dropout: float = 0.0

    def problems(self, tower_width: int) -> Iterator[str]:
        """Yield one sentence for each setting that cannot work."""
        name = "model.abstractor"
        for size in ("num_queries", "num_layers", "ffn_hidden_size"):
            yield from too_small(f"{name}.{size}", getattr(self, size), 1, "it counts something")
        yield from not_dividing(
            f"{name}.num_attention_heads",
            self.num_attention_heads,
            "model.vision_tower.hidden_size",
            tower_width,
        )
        if tower_width % 4:
            yield (
                f"model.vision_tower.hidden_size={tower_width} is not a multiple of 4, but the "
                f"abstractor's positions have a sine and a cosine half for row and column each. "
                f"Use model.projector=linear, or another width."
            )


@dataclass(kw_only=True)
class ModelConfig(FamilyNodes):
    """A decoder, a vision tower, a projector, and what only its family has."""

    name: str = "owl3_tiny"
    hidden_size: int = 128
    ffn_hidden_size: int = 256
    num_layers: int = 4
    num_attention_heads: int = 4
    num_kv_heads: int = 2
    vocab_size: int = 63
    """Rows of the embedding table; any number, padding for tensor parallelism is never saved."""
    rope_theta: float = 1e6
    rms_norm_eps: float = 1e-6
    max_position_embeddings: int = 32768
    tie_word_embeddings: bool = False
    init_std: float = 0.02
    template: str = "v2"
    """Published version of the prompt template; each family has its own."""
    projector: ProjectorKind = ProjectorKind.linear
    abstractor: AbstractorConfig = field(default_factory=AbstractorConfig)
    vision_tower: VisionTowerConfig = field(default_factory=VisionTowerConfig)
    attention: AttentionKind = AttentionKind.per_sample
    layer_backend: LayerBackend = LayerBackend.local

    @property
    def head_dim(self) -> int:
        """Width of one attention head."""
        return self.hidden_size // self.num_attention_heads

    @property
    def keys_per_tile(self) -> int:
        """Vectors of one tile in the decoder: its features, or what stands for them."""
        if self.projector is ProjectorKind.abstractor:
            return self.abstractor.num_queries + 1  # and the end vector
        return self.vision_tower.features_per_tile

    def problems(self) -> Iterator[str]:
        """Yield one sentence for each setting that cannot work."""
        sizes = ("ffn_hidden_size", "num_layers", "vocab_size", "max_position_embeddings")
        for size in sizes:
            yield from too_small(f"model.{size}", getattr(self, size), 1, "it counts something")
        width, heads, kv_heads = self.hidden_size, self.num_attention_heads, self.num_kv_heads
        not_divided = [
            *not_dividing("model.num_attention_heads", heads, "model.hidden_size", width),
            *not_dividing("model.num_kv_heads", kv_heads, "model.num_attention_heads", heads),
        ]
        yield from not_divided
        if not not_divided and self.head_dim % 2:
            yield (
                f"model.hidden_size={self.hidden_size} over model.num_attention_heads={heads} "
                f"gives heads of width {self.head_dim}, but rotary positions turn pairs. "
                f"Choose sizes whose quotient is even."
            )
        yield from self.node.problems(num_layers=self.num_layers, template=self.template)
        yield from self.vision_tower.problems()
        if self.projector is ProjectorKind.abstractor:
            yield from self.abstractor.problems(self.vision_tower.hidden_size)
