# SPDX-License-Identifier: Apache-2.0
"""mPLUG-Owl3 for transformers: loads the published folders, trains, generates with both caches.

Only PreTrainedModel, GenerationMixin, Cache, CausalLMOutputWithPast and the registry of attention
functions come from transformers: these have kept their meaning from 4.57 to 5, unlike everything
else that the published code uses.
"""

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import (
    Cache,
    DynamicCache,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from owl.families.owl3.hf.body_owl3 import Owl3Body
from owl.families.owl3.hf.checks_owl3 import (
    check_loaded,
    check_media,
    check_options,
    check_positions,
    check_text,
    count_positions,
)
from owl.families.owl3.hf.configuration_owl3 import Owl3Config
from owl.families.owl3.hf.decoder_owl3 import Owl3CausalLM, Owl3HyperAttention
from owl.families.owl3.hf.generation_owl3 import (
    CACHE,
    Owl3GenerationMixin,
    Owl3Output,
    one_cache,
)
from owl.families.owl3.hf.media_owl3 import Media, Offsets, place_tiles, read_offsets
from owl.families.owl3.hf.processing_owl3 import Owl3Processor
from owl.families.owl3.hf.vision_owl3 import CarriedAttention, CarriedHead, Owl3VisionModel
from owl.portable.blocks_owl import OwlRMSNorm
from owl.portable.processing_owl import IGNORE_INDEX
from owl.portable.rotary_owl import TextContext, causal_mask, rotary


class Owl3PreTrainedModel(PreTrainedModel):
    """How transformers loads, places, initialises and checkpoints an Owl3."""

    config_class = Owl3Config
    base_model_prefix = "model"
    main_input_name = "input_ids"
    input_modalities = ("image", "text")
    supports_gradient_checkpointing = True
    _no_split_modules = ["Owl3DecoderLayer", "Owl3VisionLayer"]  # noqa: RUF012
    _skip_keys_device_placement = ["cache", "past_key_values", "media"]  # noqa: RUF012
    _supports_sdpa = True
    _supports_flash_attn = True

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, OwlRMSNorm):
            nn.init.ones_(module.weight)
        if isinstance(module, Owl3HyperAttention) and module.fusion == "static_gate":
            nn.init.zeros_(module.gate)  # a gate of 1/2
        if isinstance(module, CarriedHead):
            nn.init.normal_(module.probe, std=self.config.initializer_range)
        if isinstance(module, CarriedAttention):
            nn.init.normal_(module.in_proj_weight, std=self.config.initializer_range)
            nn.init.zeros_(module.in_proj_bias)


class Owl3ForConditionalGeneration(Owl3PreTrainedModel, Owl3GenerationMixin):
    """Tower, projector, decoder and loss.

    Arguments of a call, for b rows of q tokens and m tiles:
        input_ids: [b, q] tokens.
        attention_mask: [b, cached + q], 0 at padding on either side.
        position_ids: [b, q], within the sample; by default counted over the mask. A row is one
            sample: positions that start again within it are an error.
        past_key_values: keys and values of earlier tokens.
        inputs_embeds: [b, q, h] in place of input_ids.
        labels: [b, q], the tokens themselves; -100 if not learned.
        pixel_values: [m, 3, s, s] tiles of the entire batch in order, floats or uint8.
        image_embeds: [m, p, h] of get_image_features, in place of pixel_values.
        media_offset: for each sample, the index of each of its tiles' first placeholder,
            counted from the sample's first token that is not padding; or the [b, q, 2] ranges
            of 240728 and 241014.
        media: of an earlier step, in place of tiles and media_offset.
        use_cache: keep keys and values of the text.
        use_media_cache: keep keys and values of the tiles too (the published code does not).
        logits_to_keep: number of last tokens, or indices of tokens; 0 keeps all.
        output_hidden_states: also return the input of each layer; by default as in the config.
        output_attentions: not supported.
        return_dict: False for a tuple; by default as in the config.
        num_items_in_batch: divisor of the summed loss; by default the learned tokens.
        cache: the name of past_key_values since transformers 5.24; either works.
        **kwargs: further options of transformers that request nothing; any other is an error.
    """

    # transformers 5 reads which weight to tie to; 4 only the names on the left.
    _tied_weights_keys = {  # noqa: RUF012
        "language_model.lm_head.weight": "language_model.model.embed_tokens.weight"
    }

    def __init__(self, config: Owl3Config) -> None:
        config.check()
        super().__init__(config)
        self.vision_model = Owl3VisionModel(config.vision_config, config.carried_vision_parts)
        self.vision2text_model = _build_projector(config)
        self.language_model = Owl3CausalLM(config)
        self.post_init()

    @property
    def base_model(self) -> "Owl3Body":
        """The model up to its output layer, as trainers look for it."""
        return Owl3Body(self)

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | Path, *args: Any, **kwargs: Any
    ) -> Any:
        """Load a published, exported or saved folder; see PreTrainedModel.from_pretrained.

        The folder's generation_config.json is kept as folder_generation_config; see
        Owl3GenerationMixin.

        Raises:
            ValueError: a tensor that matters is missing, or the config gives it no place:
                transformers would fill it with random numbers, or drop it, and only log that.
        """
        config = kwargs.get("config")
        if isinstance(config, Owl3Config):
            config.complete(pretrained_model_name_or_path, **kwargs)
        wants_info = kwargs.pop("output_loading_info", False)
        model, info = super().from_pretrained(
            pretrained_model_name_or_path, *args, output_loading_info=True, **kwargs
        )
        check_loaded(str(pretrained_model_name_or_path), model, info)
        model.vision_model.freeze_carried()  # loading replaces parameters
        if kwargs.get("generation_config") is None:
            model.write_as_published()
        return (model, info) if wants_info else model

    def save_pretrained(self, save_directory: str | Path, *args: Any, **kwargs: Any) -> None:
        """Save; generation_config.json stays as it was loaded unless it was changed since."""
        super().save_pretrained(save_directory, *args, **kwargs)
        if self.writes_as_published and kwargs.get("is_main_process", True):
            self.folder_generation_config.save_pretrained(save_directory)

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

    def get_input_embeddings(self) -> nn.Module:
        """Return the table of token vectors."""
        return self.language_model.model.embed_tokens

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replace the table of token vectors."""
        self.language_model.model.embed_tokens = value  # type: ignore[assignment]

    def get_output_embeddings(self) -> nn.Module:
        """Return the output layer."""
        return self.language_model.lm_head

    def set_output_embeddings(self, new_embeddings: nn.Module) -> None:
        """Replace the output layer."""
        self.language_model.lm_head = new_embeddings  # type: ignore[assignment]

    def init_processor(self, tokenizer: PreTrainedTokenizerBase) -> Owl3Processor:
        """Build the processor of this model, as in the model cards."""
        return Owl3Processor(
            tokenizer,
            image_size=self.config.vision_config.image_size,
            template=self.config.template,
        )

    def get_image_features(self, pixel_values: Tensor) -> Tensor:
        """Encode tiles and project them to decoder width.

        Args:
            pixel_values: [m, 3, s, s], normalised floats or uint8.

        Returns:
            [m, p, h]. Freeze vision_model, as all published stages do, to save the memory of its
            activations.
        """
        parts = pixel_values.split(self.config.vision_batch_size)
        features = torch.cat([self.vision_model(part) for part in parts])
        return self.vision2text_model(features)

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        pixel_values: Tensor | None = None,
        media_offset: Offsets = None,
        media: Media | None = None,
        use_cache: bool | None = None,
        use_media_cache: bool = True,
        logits_to_keep: int | Tensor = 0,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        return_dict: bool | None = None,
        num_items_in_batch: Tensor | int | None = None,
        cache: Cache | None = None,
        image_embeds: Tensor | None = None,
        **kwargs: Any,
    ) -> Owl3Output | tuple[Any, ...]:
        """Run the model; the class lists the arguments.

        Returns:
            An Owl3Output; its loss is the mean over labels of -log p(label | preceding tokens).

        Raises:
            ValueError: inputs do not fit together, or are not known.
        """
        config = self.config
        check_options(kwargs, output_attentions=bool(output_attentions or config.output_attentions))
        check_text(input_ids, inputs_embeds)
        past = one_cache(cache, past_key_values)
        check_media(past, media, pixel_values, image_embeds, media_offset)
        if inputs_embeds is None:
            inputs_embeds = self.get_input_embeddings()(input_ids)
        use_cache = self._caches(use_cache, past, is_scored=labels is not None)
        past = DynamicCache() if use_cache and past is None else past
        context = self._text_context(inputs_embeds, attention_mask, position_ids, past)
        if media is None:
            offsets = read_offsets(media_offset, attention_mask)
            keep = use_cache and use_media_cache
            media = self._media(pixel_values, image_embeds, offsets, len(inputs_embeds), keep)
        if past is not None and media is not None:
            past.shows_media = True  # for check_media, at the next step
        steps = self.language_model.model(inputs_embeds, context, media)
        logits, loss = self._logits_and_loss(steps[-1], labels, logits_to_keep, num_items_in_batch)
        shows = _chosen(output_hidden_states, config.output_hidden_states)
        output = Owl3Output(
            loss=loss,
            logits=logits,
            hidden_states=tuple(steps) if shows else None,
            media=media.without_features() if use_cache and media is not None else None,
            **{CACHE: past if use_cache else None},
        )
        as_object = _chosen(return_dict, getattr(config, "return_dict", True))
        return output if as_object else output.to_tuple()

    def _caches(self, use_cache: bool | None, past: Cache | None, *, is_scored: bool) -> bool:
        """Whether keys and values are kept, by default for writing alone."""
        if self.is_gradient_checkpointing and self.training and torch.is_grad_enabled():
            if past is not None:
                raise ValueError(
                    "past_key_values came while layers are recomputed for gradients, which would "
                    "store their keys twice. Leave it out, or call "
                    "model.gradient_checkpointing_disable()."
                )
            return False
        return _chosen(use_cache, self.config.use_cache and not self.training and not is_scored)

    def _text_context(
        self,
        inputs_embeds: Tensor,
        attention_mask: Tensor | None,
        position_ids: Tensor | None,
        cache: Cache | None,
    ) -> TextContext:
        rows, queries = inputs_embeds.shape[:2]
        past = 0 if cache is None else int(cache.get_seq_length())
        if attention_mask is not None and attention_mask.shape != (rows, past + queries):
            raise ValueError(
                f"attention_mask is {list(attention_mask.shape)} but there are {rows} rows of "
                f"{past} cached and {queries} new tokens: it must be [{rows}, {past + queries}]."
            )
        if position_ids is None:
            position_ids = count_positions(attention_mask, rows, past + queries)
            position_ids = position_ids[:, past:].to(inputs_embeds.device)
        else:
            position_ids = check_positions(position_ids, attention_mask, rows, queries)
        if attention_mask is not None and bool(attention_mask.all()):
            attention_mask = None
        if problem := self.config.attention_problem:  # may be set after the model was built
            raise ValueError(problem)
        joint = self.config.fusion == "joint_softmax"  # its mask covers patches and tokens
        mask = None
        if joint or self.config.uses_torch_attention:
            mask = causal_mask(attention_mask, queries, past + queries, inputs_embeds.device)
        table = rotary(
            position_ids,
            head_dim=self.config.head_dim,
            theta=self.config.rope_theta,
            dtype=inputs_embeds.dtype,
        )
        return TextContext(
            rotary=table,
            position_ids=position_ids,
            mask=mask,
            is_causal=mask is None,
            cache=cache,
            num_keys=past + queries,
            padding=attention_mask,
        )

    def _media(
        self,
        pixel_values: Tensor | None,
        features: Tensor | None,
        offsets: list[list[int]],
        rows: int,
        keep: bool,
    ) -> Media | None:
        if pixel_values is not None:
            features = self.get_image_features(pixel_values)
        if features is None or not len(features):
            return None
        # Nothing is cached with gradients, for which layers may be computed a second time.
        keep = keep and not torch.is_grad_enabled()
        shift = self.config.media_position_shift
        return place_tiles(features, offsets, rows=rows, shift=shift, keep=keep)

    def _logits_and_loss(
        self,
        hidden_states: Tensor,
        labels: Tensor | None,
        logits_to_keep: int | Tensor,
        num_items: Tensor | int | None,
    ) -> tuple[Tensor, Tensor | None]:
        """Compute [b, kept, v] logits in the model's dtype, and the float32 loss of all of them."""
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits = self.language_model.lm_head(hidden_states[:, kept])
        if labels is None:
            return logits, None
        if logits.shape[1] != labels.shape[1]:
            raise ValueError("labels need all logits: leave logits_to_keep at 0.")
        targets = labels[:, 1:].flatten().to(logits.device)
        learned = targets != IGNORE_INDEX
        # Only learned rows are converted to float32, which saves memory.
        rows = logits[:, :-1].flatten(0, 1)[learned]
        rows = rows if rows.dtype == torch.float64 else rows.float()
        total = F.cross_entropy(rows, targets[learned], reduction="sum")
        count = learned.sum().clamp(min=1) if num_items is None else num_items
        return logits, total / (count.to(total.device) if isinstance(count, Tensor) else count)


def _build_projector(config: Owl3Config) -> nn.Module:
    """Build one linear layer (240728, 241014), or linear, exact GELU, linear (241101)."""
    first = nn.Linear(config.vision_config.hidden_size, config.hidden_size)
    if config.projector == "linear":
        return first
    return nn.Sequential(first, nn.GELU(), nn.Linear(config.hidden_size, config.hidden_size))


def _chosen(argument: bool | None, default: bool) -> bool:
    return default if argument is None else argument
