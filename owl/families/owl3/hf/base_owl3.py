# SPDX-License-Identifier: Apache-2.0
"""How transformers loads, saves, places, initialises and checkpoints an Owl3."""

from pathlib import Path
from typing import Any

from torch import nn
from transformers import PreTrainedModel

from owl.families.owl3.hf.checks_owl3 import check_loaded
from owl.families.owl3.hf.configuration_owl3 import Owl3Config
from owl.families.owl3.hf.decoder_owl3 import Owl3HyperAttention
from owl.families.owl3.hf.generation_owl3 import Owl3GenerationMixin
from owl.portable.blocks_owl import OwlRMSNorm


class Owl3PreTrainedModel(PreTrainedModel, Owl3GenerationMixin):
    """How transformers loads, places, initialises and checkpoints an Owl3."""

    config_class = Owl3Config
    base_model_prefix = "model"
    main_input_name = "input_ids"
    input_modalities = ("image", "text")
    supports_gradient_checkpointing = True
    _no_split_modules = ["Owl3DecoderLayer", "Owl3VisionLayer"]  # noqa: RUF012
    _skip_keys_device_placement = ["cache", "past_key_values"]  # noqa: RUF012
    _supports_sdpa = _supports_flash_attn = _supports_attention_backend = True

    @classmethod
    def _can_set_attn_implementation(cls) -> bool:
        """Whether attention can be chosen later: it is read in each call."""
        return True

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, OwlRMSNorm):
            nn.init.ones_(module.weight)
        if isinstance(module, Owl3HyperAttention) and module.fusion == "static_gate":
            nn.init.zeros_(module.gate)  # a gate of 1/2

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | Path, *args: Any, **kwargs: Any
    ) -> Any:
        """Load a published, exported or saved folder; see PreTrainedModel.from_pretrained.

        The folder's generation_config.json is kept as folder_generation_config; see
        GreedyDefaults.

        Raises:
            ValueError: a tensor that matters is missing, or the config gives it no place:
                transformers would fill it with random numbers, or drop it, and only log that.
                With output_loading_info=True the caller is told so instead.
        """
        config = kwargs.get("config")
        if isinstance(config, Owl3Config):
            config.complete(pretrained_model_name_or_path, **kwargs)
        wants_info = kwargs.pop("output_loading_info", False)
        model, info = super().from_pretrained(
            pretrained_model_name_or_path, *args, output_loading_info=True, **kwargs
        )
        if not wants_info:  # those who ask for it read it themselves
            check_loaded(str(pretrained_model_name_or_path), model, info)
        model.vision_model.freeze_carried()  # loading replaces parameters
        if kwargs.get("generation_config") is None:
            model.write_greedily()
        return (model, info) if wants_info else model

    def save_pretrained(self, save_directory: str | Path, *args: Any, **kwargs: Any) -> None:
        """Save; generation_config.json stays as it was loaded unless it was changed since."""
        super().save_pretrained(save_directory, *args, **kwargs)
        self.save_folder_settings(save_directory, **kwargs)

    def gradient_checkpointing_enable(
        self, gradient_checkpointing_kwargs: dict[str, Any] | None = None, **kwargs: Any
    ) -> None:
        """Recompute layers in the backward pass; see PreTrainedModel.

        Raises:
            ValueError: use_reentrant=True. It loses the gradients of pictures, which reach a layer
                inside an object, and all gradients if the layers' input requires none.
        """
        options = {"use_reentrant": False} | (gradient_checkpointing_kwargs or {})
        if options["use_reentrant"]:
            raise ValueError(
                "use_reentrant=True loses the gradients of the pictures, which reach the layers "
                "inside an object. Leave it out, or use use_reentrant=False."
            )
        super().gradient_checkpointing_enable(options, **kwargs)

    @property
    def recomputes_layers(self) -> bool:
        """Whether layers are recomputed in the backward pass."""
        renamed = "is_activation_checkpointing"  # since transformers 5.24
        name = renamed if hasattr(PreTrainedModel, renamed) else "is_gradient_checkpointing"
        return bool(getattr(self, name))
