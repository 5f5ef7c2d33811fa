# SPDX-License-Identifier: Apache-2.0
"""The config of mPLUG-Owl3, as published, plus what tells its three variants apart.

A published config.json does not say which variant it belongs to: only the tensor names do. They
are read here, once, from the header of the weights; a config that we save says it in words.
"""

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import PretrainedConfig

from owl.families.owl3.limits_owl3 import config_problems, is_plain_rotary

CARRIED_PARTS = ("last_layer", "post_layernorm", "head")
"""Parts of the tower that influence no output (hidden_states[-2] is used) but are published."""

WEIGHTS_INDEX = "model.safetensors.index.json"
WEIGHTS_FILE = "model.safetensors"


@dataclass(frozen=True)
class Variant:
    """What a release chose."""

    fusion: str
    projector: str
    media_position_shift: int
    template: str


VARIANTS = {
    "240728": Variant("token_gate", "linear", 1, "v2"),
    "241014": Variant("static_gate", "linear", 1, "v3"),
    "241101": Variant("joint_softmax", "mlp", 0, "v3"),
}


class Owl3VisionConfig(PretrainedConfig):
    """Sizes of the SigLIP tower. What config.json leaves out has SigLIP's defaults.

    Args:
        hidden_size: h_v.
        intermediate_size: of the MLP.
        num_hidden_layers: all layers, also the last one, whose output is not used.
        num_attention_heads: of h_v / heads each.
        image_size: side of a tile in pixels, s.
        patch_size: side of a patch in pixels.
        layer_norm_eps: of both norms of a layer.
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

    @property
    def patches_per_tile(self) -> int:
        """Patches p of a tile; pixels that do not fill a patch are dropped (384 -> 27 a side)."""
        return (self.image_size // self.patch_size) ** 2


class Owl3Config(PretrainedConfig):
    """Sizes and choices of one model.

    Args:
        hyper_layers: decoder layers that look at images, counted from 1, as published.
        head_dim: width d of an attention head, hidden_size / num_attention_heads.
        fusion: token_gate, static_gate or joint_softmax; None until the tensor names are known.
        projector: linear or mlp; None likewise.
        media_position_shift: a tile's position is its first placeholder's plus this.
        template: v2 or v3, the markup around tiles.
        carried_vision_parts: those of CARRIED_PARTS that the checkpoint holds.
        vision_batch_size: tiles that the tower encodes at once.
        vision_config: an Owl3VisionConfig or its values.
    """

    model_type = "mplugowl3"
    keys_to_ignore_at_inference = ("cache", "past_key_values", "media")
    sub_configs = {"vision_config": Owl3VisionConfig}  # noqa: RUF012 - transformers' own name
    # A saved config names every size: the published code fills what is missing with its defaults.
    has_no_defaults_at_init = True

    def __init__(
        self,
        vocab_size: int = 151851,
        hidden_size: int = 3584,
        intermediate_size: int = 18944,
        num_hidden_layers: int = 28,
        num_attention_heads: int = 28,
        num_key_value_heads: int = 4,
        hidden_act: str = "silu",
        max_position_embeddings: int = 32768,
        rms_norm_eps: float = 1e-6,
        rope_theta: float | None = None,
        rope_scaling: dict[str, Any] | None = None,
        head_dim: int | None = None,
        tie_word_embeddings: bool = False,
        initializer_range: float = 0.02,
        use_cache: bool = True,
        use_sliding_window: bool = False,
        sliding_window: int | None = None,
        attention_dropout: float = 0.0,
        bos_token_id: int | None = None,
        eos_token_id: int | None = None,
        pad_token_id: int | None = None,
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
        # transformers 5 writes the rotary base below rope_parameters; the published file has it
        # on top, and so has ours.
        rope = kwargs.pop("rope_parameters", None) or {}
        for asked in (rope_scaling or {}, rope):
            if not is_plain_rotary(asked):
                self.asked_rotary = asked  # for check to refuse
        super().__init__(tie_word_embeddings=tie_word_embeddings, **kwargs)
        self.tie_word_embeddings = tie_word_embeddings
        self.vocab_size = vocab_size
        self.hidden_size = hidden_size
        self.intermediate_size = intermediate_size
        self.num_hidden_layers = num_hidden_layers
        self.num_attention_heads = num_attention_heads
        self.num_key_value_heads = num_key_value_heads
        self.hidden_act = hidden_act
        self.max_position_embeddings = max_position_embeddings
        self.rms_norm_eps = rms_norm_eps
        self.rope_theta = float(rope_theta or rope.get("rope_theta") or 1e6)
        self.head_dim = head_dim or _quotient(hidden_size, num_attention_heads)
        self.initializer_range = initializer_range
        self.use_cache = use_cache
        self.use_sliding_window = use_sliding_window
        # Published configs name a window and do not use it; transformers' caches look at the window
        # alone, and would drop the keys beyond it.
        self.sliding_window = sliding_window if use_sliding_window else None
        self.attention_dropout = attention_dropout
        self.bos_token_id = bos_token_id
        self.eos_token_id = eos_token_id
        self.pad_token_id = pad_token_id
        self.hyper_layers = list(hyper_layers) if isinstance(hyper_layers, tuple) else hyper_layers
        self.fusion = fusion
        self.projector = projector
        self.media_position_shift = media_position_shift
        self.template = template
        self.carried_vision_parts = list(carried_vision_parts)
        self.vision_batch_size = vision_batch_size
        self.vision_config = (
            vision_config
            if isinstance(vision_config, Owl3VisionConfig)
            else Owl3VisionConfig(**(vision_config or {}))
        )

    @property
    def hyper_layer_indices(self) -> list[int]:
        """Decoder layers that look at images, counted from 0."""
        return [index - 1 for index in self.hyper_layers or ()]

    @property
    def knows_variant(self) -> bool:
        """Whether all four choices are made."""
        choices = (self.fusion, self.projector, self.media_position_shift, self.template)
        return None not in choices

    @classmethod
    def get_config_dict(
        cls, pretrained_model_name_or_path: str | Path, **kwargs: Any
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Read config.json, and from the weights' header what it leaves out."""
        hub = {name: kwargs[name] for name in _HUB_OPTIONS if name in kwargs}
        values, rest = super().get_config_dict(pretrained_model_name_or_path, **kwargs)
        if values.get("model_type", cls.model_type) != cls.model_type:
            # transformers only warns, and then loads random weights.
            raise ValueError(
                f"{pretrained_model_name_or_path} holds a {values['model_type']!r}, not a "
                f"{cls.model_type!r}: this is no mPLUG-Owl3."
            )
        if values.get("fusion") is None:
            names = tensor_names(pretrained_model_name_or_path, **hub)
            tower = Owl3VisionConfig(**values.get("vision_config", {}))
            values = values | _infer_from_tensor_names(names, values, tower.num_hidden_layers)
        return values, rest

    def complete(self, folder: str | Path, **kwargs: Any) -> None:
        """Fill in, from the tensor names of a folder, the choices that are not made yet.

        AutoConfig reads config.json alone, so a config may arrive here without them.
        """
        if self.knows_variant:
            return
        hub = {name: kwargs[name] for name in _HUB_OPTIONS if name in kwargs}
        names = tensor_names(folder, **hub)
        told = _infer_from_tensor_names(names, vars(self), self.vision_config.num_hidden_layers)
        for name, value in told.items():
            setattr(self, name, value)

    def to_diff_dict(self) -> dict[str, Any]:
        """Write what config.json holds; tying is always said, since readers' defaults differ."""
        return super().to_diff_dict() | {
            "tie_word_embeddings": self.tie_word_embeddings,
            "vision_config": self.vision_config.to_diff_dict(),
        }

    def check(self) -> None:
        """Raise ValueError for a config from which no model can be built."""
        problems = list(self._problems())
        if problems:
            raise ValueError("\n".join(["this config gives no mPLUG-Owl3:", *problems]))

    def _problems(self) -> Iterator[str]:
        asked = {"rope_scaling": getattr(self, "asked_rotary", None)} | vars(self)
        for problem in config_problems(asked, vars(self.vision_config)):
            yield f"  {problem}. Take the config.json that was published with the weights."
        if not self.knows_variant:
            yield (
                "  fusion, projector, media_position_shift and template are not all set. Load the "
                "model with from_pretrained, which reads them off the tensor names, or set them: "
                f"for example {VARIANTS['241101']}."
            )
        if problem := self.attention_problem:
            yield f"  {problem}"

    @property
    def attention_problem(self) -> str:
        """Why the attention that is asked for cannot be used; empty where it can."""
        if not str(self._attn_implementation).startswith(_OTHER_ATTENTIONS):
            return ""
        return (
            f"attn_implementation={self._attn_implementation!r}: takes masks that are not made "
            "here. Leave it out, or say 'sdpa' or 'flash_attention_2'."
        )

    @property
    def uses_torch_attention(self) -> bool:
        """Whether tokens attend to tokens through torch's own function: always, unless asked."""
        return self._attn_implementation in (None, "sdpa")


_OTHER_ATTENTIONS = ("eager", "flex_attention", "paged")


def _quotient(size: Any, parts: Any) -> int:
    """Divide sizes; 0 where one is none, which check says."""
    whole = isinstance(size, int) and isinstance(parts, int) and parts > 0
    return size // parts if whole else 0


_HUB_OPTIONS = ("cache_dir", "revision", "token", "local_files_only", "subfolder")


def variant_of(names: Collection[str]) -> str:
    """Tell the variant of a checkpoint by its tensor names.

    Raises:
        ValueError: these are not the names of an mPLUG-Owl3.
    """
    if any(".self_attn.gate_proj.0." in name for name in names):
        return "240728"
    if any(name.endswith(".self_attn.gate") for name in names):
        return "241014"
    if any(".self_attn.v_kv_proj." in name for name in names):
        return "241101"
    raise ValueError(
        "no tensor is named *.self_attn.v_kv_proj.*: these weights are not an mPLUG-Owl3's. Check "
        "the folder, or set fusion, projector, media_position_shift and template in config.json."
    )


def tensor_names(folder: str | Path, **hub: Any) -> list[str]:
    """List the tensors of a folder's weights, or of a repository's, without reading them.

    Args:
        folder: path, or the name of a repository on the hub.
        **hub: cache_dir, revision, token, local_files_only and subfolder, where given.

    Raises:
        ValueError: a local folder holds no safetensors weights.
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
                f"{folder / WEIGHTS_INDEX} has no weight_map, which says where each tensor lies. "
                "Download it again."
            )
        return list(index["weight_map"])
    if (folder / WEIGHTS_FILE).is_file():
        try:
            with safe_open(folder / WEIGHTS_FILE, framework="pt") as weights:
                return list(weights.keys())
        except SafetensorError as error:
            raise ValueError(
                f"{folder / WEIGHTS_FILE} is not a whole safetensors file ({error}). Download it "
                "again."
            ) from error
    raise ValueError(
        f"{folder} holds neither {WEIGHTS_FILE} nor {WEIGHTS_INDEX}, and its config.json does not "
        "say which variant it is. Add the weights, or set fusion, projector, "
        "media_position_shift and template."
    )


def _infer_from_tensor_names(
    names: Collection[str], made: Mapping[str, Any], vision_layers: int
) -> dict[str, Any]:
    """Read off the tensor names which choices were made; those `made` already stay."""
    variant = VARIANTS[variant_of(names)]
    told = {
        "fusion": variant.fusion,
        "projector": "linear" if "vision2text_model.weight" in names else "mlp",
        "media_position_shift": variant.media_position_shift,
        "template": variant.template,
    }
    prefixes = {
        "last_layer": f"vision_model.encoder.layers.{vision_layers - 1}.",
        "post_layernorm": "vision_model.post_layernorm.",
        "head": "vision_model.head.",
    }
    carried = [
        part for part, prefix in prefixes.items() if any(name.startswith(prefix) for name in names)
    ]
    open_choices = {name: value for name, value in told.items() if made.get(name) is None}
    return open_choices | {"carried_vision_parts": carried}
