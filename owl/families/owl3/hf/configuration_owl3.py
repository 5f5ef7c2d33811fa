# SPDX-License-Identifier: Apache-2.0
"""The published config of mPLUG-Owl3, and the four choices in which its variants differ.

A published config.json does not name its variant: only the tensor names show it. They are read
once, from the header of the weights; a config saved from here holds the choices themselves.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from transformers import PretrainedConfig

from owl.families.owl3.limits_owl3 import CHOICES, config_problems, is_plain_rotary
from owl.families.owl3.variants_owl3 import VARIANTS, variant_of
from owl.portable.decoder_config_owl import OwlDecoderConfig
from owl.portable.tensor_names_owl import HUB_OPTIONS, tensor_names

CARRIED_PARTS = ("last_layer", "post_layernorm", "head")
"""Parts of the tower that influence no output (hidden_states[-2] is used) but are published."""


class Owl3VisionConfig(PretrainedConfig):
    """Sizes of the SigLIP tower; the defaults are SigLIP's.

    Args:
        hidden_size: h_v.
        intermediate_size: of the MLP.
        num_hidden_layers: all layers, also the last one, whose output is not used.
        num_attention_heads: of h_v / heads each.
        image_size: side of a tile in pixels, s.
        patch_size: side of a patch in pixels.
        layer_norm_eps: of both norms of a layer.
        initializer_range: deviation of new weights.
    """

    model_type = "siglip_vision_model"
    base_config_key = "vision_config"

    def __init__(
        self,
        hidden_size: int = 768,
        intermediate_size: int = 3072,
        num_hidden_layers: int = 12,
        num_attention_heads: int = 12,
        image_size: int = 224,
        patch_size: int = 16,
        layer_norm_eps: float = 1e-6,
        initializer_range: float = 0.02,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.hidden_size = hidden_size
        self.intermediate_size = intermediate_size
        self.num_hidden_layers = num_hidden_layers
        self.num_attention_heads = num_attention_heads
        self.image_size = image_size
        self.patch_size = patch_size
        self.layer_norm_eps = layer_norm_eps
        self.initializer_range = initializer_range

    @property
    def patches_per_tile(self) -> int:
        """Patches p of a tile; pixels that fill no patch are dropped (384 pixels: 27 patches)."""
        return (self.image_size // self.patch_size) ** 2


class Owl3Config(OwlDecoderConfig):
    """Sizes and choices of one model.

    Args:
        rope_theta: base of the rotary frequencies; also read from transformers 5's rope_parameters.
        rope_scaling: as published; any but the plain kind fails in check.
        hyper_layers: decoder layers that attend to images, counted from 1, as published.
        fusion: token_gate, static_gate or joint_softmax; None until the tensor names are known.
        projector: linear or mlp; None likewise.
        media_position_shift: a tile's position is its first placeholder's plus this.
        template: v2 or v3, the markup around tiles.
        carried_vision_parts: those of CARRIED_PARTS that the checkpoint holds.
        vision_batch_size: tiles that the tower encodes at once.
        vision_config: an Owl3VisionConfig or its values.
        **kwargs: for OwlDecoderConfig.
    """

    model_type = "mplugowl3"
    # A list, since Trainer appends to it.
    keys_to_ignore_at_inference = ["cache", "past_key_values", "image_outputs"]  # noqa: RUF012
    sub_configs = {"vision_config": Owl3VisionConfig}  # noqa: RUF012 - transformers' own name

    def __init__(
        self,
        rope_theta: float | None = None,
        rope_scaling: dict[str, Any] | None = None,
        hyper_layers: Sequence[int] | None = None,
        fusion: str | None = None,
        projector: str | None = None,
        media_position_shift: int | None = None,
        template: str | None = None,
        carried_vision_parts: Sequence[str] = CARRIED_PARTS,
        vision_batch_size: int = 16,
        vision_config: Owl3VisionConfig | dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        # transformers 5 writes the rotary base into rope_parameters; the published file has it at
        # the top level, and so has a file saved from here.
        rope = kwargs.pop("rope_parameters", None) or {}
        for requested in (rope_scaling or {}, rope):
            if not is_plain_rotary(requested):
                self.requested_rotary = requested  # reported by check
        # Before the rest, which may set an attention for both.
        self.vision_config = (
            vision_config
            if isinstance(vision_config, Owl3VisionConfig)
            else Owl3VisionConfig(**(vision_config or {}))
        )
        super().__init__(rope_theta=rope_theta or rope.get("rope_theta"), **kwargs)
        self.hyper_layers = list(hyper_layers) if isinstance(hyper_layers, tuple) else hyper_layers
        self.fusion = fusion
        self.projector = projector
        self.media_position_shift = media_position_shift
        self.template = template
        self.carried_vision_parts = list(carried_vision_parts)
        self.vision_batch_size = vision_batch_size

    @property
    def hyper_layer_indices(self) -> list[int]:
        """Decoder layers that attend to images, counted from 0."""
        return [index - 1 for index in self.hyper_layers or ()]

    @property
    def knows_variant(self) -> bool:
        """Whether all four choices are set."""
        return all(getattr(self, name) is not None for name in CHOICES)

    @classmethod
    def get_config_dict(
        cls, pretrained_model_name_or_path: str | Path, **kwargs: Any
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Read config.json, and what it leaves out from the weights' header.

        Raises:
            ValueError: it describes another model, or the variant cannot be inferred.
        """
        values, rest = super().get_config_dict(pretrained_model_name_or_path, **kwargs)
        if values.get("model_type", cls.model_type) != cls.model_type:
            # transformers only warns, and then loads random weights.
            raise ValueError(
                f"{pretrained_model_name_or_path} holds a {values['model_type']!r}, not a "
                f"{cls.model_type!r}: it is not an mPLUG-Owl3. Check the path."
            )
        if values.get("fusion") is None:
            tower = Owl3VisionConfig(**values.get("vision_config", {}))
            values = values | _inferred(
                pretrained_model_name_or_path, values, tower.num_hidden_layers, kwargs
            )
        return values, rest

    def complete(self, folder: str | Path, **kwargs: Any) -> None:
        """Set the choices that are not set yet, from the tensor names of a folder.

        AutoConfig reads only config.json, so a config may be loaded without them.
        """
        if self.knows_variant:
            return
        inferred = _inferred(folder, vars(self), self.vision_config.num_hidden_layers, kwargs)
        for name, value in inferred.items():
            setattr(self, name, value)

    def to_diff_dict(self) -> dict[str, Any]:
        """Return the contents of config.json, with tying, for which readers' defaults differ."""
        return super().to_diff_dict() | {
            "tie_word_embeddings": self.tie_word_embeddings,
            "vision_config": self.vision_config.to_diff_dict(),
        }

    def check(self) -> None:
        """Raise ValueError for a config from which no model can be built."""
        problems = list(self._problems())
        if problems:
            raise ValueError("\n".join(["this config is not a valid mPLUG-Owl3:", *problems]))

    def _problems(self) -> Iterator[str]:
        requested = {"rope_scaling": getattr(self, "requested_rotary", None)} | vars(self)
        for problem in config_problems(requested, vars(self.vision_config)):
            yield f"  {problem}. Use the config.json that was published with the weights."
        if not self.knows_variant:
            yield (
                f"  {', '.join(CHOICES)} are not all set. Load the model with from_pretrained, "
                "which infers them from the tensor names, or set them: for example "
                f"{VARIANTS['241101']}."
            )
        if problem := self.attention_problem:
            yield f"  {problem}"


def _inferred(
    folder: str | Path, config: Mapping[str, Any], vision_layers: int, options: Mapping[str, Any]
) -> dict[str, Any]:
    """Infer the choices that a config leaves open from a folder's tensor names."""
    advice = f"or set {', '.join(CHOICES)} in config.json."
    try:
        hub = {name: options[name] for name in HUB_OPTIONS if name in options}
        names = tensor_names(folder, **hub)
    except ValueError as error:
        raise ValueError(
            f"{error} The tensor names would show the variant, which config.json does not name. "
            f"Complete the weights, {advice}"
        ) from error
    variant = variant_of(names)
    if variant is None:
        raise ValueError(
            f"{folder}: no tensor is named *.self_attn.v_kv_proj.*, so the weights are not an "
            f"mPLUG-Owl3's. Check the folder, {advice}"
        )
    choices = asdict(VARIANTS[variant])
    # The projector may be another than the published variant's.
    choices["projector"] = "linear" if "vision2text_model.weight" in names else "mlp"
    unset = {name: value for name, value in choices.items() if config.get(name) is None}
    return unset | {"carried_vision_parts": _carried(names, vision_layers)}


def _carried(names: Collection[str], vision_layers: int) -> list[str]:
    """List those of CARRIED_PARTS that have tensors."""
    prefixes = {
        "last_layer": f"vision_model.encoder.layers.{vision_layers - 1}.",
        "post_layernorm": "vision_model.post_layernorm.",
        "head": "vision_model.head.",
    }
    return [
        part for part, prefix in prefixes.items() if any(name.startswith(prefix) for name in names)
    ]
