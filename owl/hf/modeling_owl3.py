# SPDX-License-Identifier: Apache-2.0
"""mPLUG-Owl3 for transformers: loads the published folders, trains, generates with both caches.

Only PreTrainedModel, GenerationMixin, Cache and CausalLMOutputWithPast come from transformers: they
have kept their meaning from 4.57 to 5, and everything else that the published code borrows has not.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import (
    Cache,
    DynamicCache,
    GenerationConfig,
    GenerationMixin,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.modeling_outputs import CausalLMOutputWithPast

from owl.config.limits_owl3 import config_problems  # noqa: F401 - see below
from owl.data.markup_owl3 import Piece  # noqa: F401
from owl.data.tiles_owl3 import Grid  # noqa: F401

from .configuration_owl3 import Owl3Config
from .decoder_owl3 import Owl3CausalLM, Owl3HyperAttention, Owl3RMSNorm
from .media_owl3 import Media, place_tiles, read_offsets
from .options_owl3 import MediaOptions  # noqa: F401 - see below
from .pictures_owl3 import MediaError  # noqa: F401
from .processing_owl3 import Owl3Processor
from .requests_owl3 import RequestError  # noqa: F401
from .rotary_owl3 import TextContext, causal_mask, rotary
from .template_owl3 import TURN_ENDS
from .tokenizer_owl3 import load_tokenizer  # noqa: F401
from .vision_owl3 import CarriedAttention, CarriedHead, Owl3VisionModel

# Every module of the package is imported here, needed or not: from a local folder, transformers 4
# copies only what the file of an auto_map entry itself imports.

IGNORE_INDEX = -100
CACHE = "cache" if "cache" in CausalLMOutputWithPast.__dataclass_fields__ else "past_key_values"
"""What this transformers calls the text's keys and values: 5.24 renamed past_key_values."""


@dataclass
class Owl3Output(CausalLMOutputWithPast):
    """What a forward pass gives.

    loss []; logits [b, kept tokens, v]; the cache, under the name CACHE; hidden_states, num_layers
    + 1 of [b, q, h], the last one normed.
    """

    media: Media | None = None  # hand it to the next step in place of pixel_values


class Owl3PreTrainedModel(PreTrainedModel):
    """What transformers needs to know to load, place, initialise and checkpoint an Owl3."""

    config_class = Owl3Config
    base_model_prefix = "model"
    main_input_name = "input_ids"
    input_modalities = ("image", "text")
    supports_gradient_checkpointing = True
    _no_split_modules = ["Owl3DecoderLayer", "Owl3VisionLayer"]  # noqa: RUF012
    _skip_keys_device_placement = ["cache", "past_key_values", "media"]  # noqa: RUF012
    _supports_sdpa = True

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, Owl3RMSNorm):
            nn.init.ones_(module.weight)
        if isinstance(module, Owl3HyperAttention) and module.fusion == "static_gate":
            nn.init.zeros_(module.gate)  # lets half of the image side in
        if isinstance(module, CarriedHead):
            nn.init.normal_(module.probe, std=self.config.initializer_range)
        if isinstance(module, CarriedAttention):
            nn.init.normal_(module.in_proj_weight, std=self.config.initializer_range)
            nn.init.zeros_(module.in_proj_bias)


class Owl3ForConditionalGeneration(Owl3PreTrainedModel, GenerationMixin):
    """Tower, projector, decoder, loss."""

    # transformers 5 wants to know which weight to tie to; 4 only reads the names on the left.
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

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | Path, *args: Any, **kwargs: Any
    ) -> Any:
        """Load a published folder, or one of ours; see PreTrainedModel.from_pretrained.

        Raises:
            ValueError: a tensor that matters is missing, or has no place: transformers would fill
                it with random numbers, or drop it, and say so in a log.
        """
        config = kwargs.get("config")
        if isinstance(config, Owl3Config):
            config.complete(pretrained_model_name_or_path, **kwargs)
        wants_info = kwargs.pop("output_loading_info", False)
        model, info = super().from_pretrained(
            pretrained_model_name_or_path, *args, output_loading_info=True, **kwargs
        )
        _check_loaded(str(pretrained_model_name_or_path), model, info)
        return (model, info) if wants_info else model

    def gradient_checkpointing_enable(
        self, gradient_checkpointing_kwargs: dict[str, Any] | None = None, **kwargs: Any
    ) -> None:
        """Recompute layers in the backward pass; see PreTrainedModel.

        Raises:
            ValueError: use_reentrant=True. It sees no gradient of what arrives inside an object,
                as the pictures do, and none at all where the layers' input requires none.
        """
        how = {"use_reentrant": False} | (gradient_checkpointing_kwargs or {})
        if how["use_reentrant"]:
            raise ValueError(
                "use_reentrant=True loses the gradients of the pictures, which reach the layers "
                "inside an object. Leave it out, or say use_reentrant=False."
            )
        super().gradient_checkpointing_enable(how, **kwargs)

    def get_input_embeddings(self) -> nn.Module:
        """Table of token vectors."""
        return self.language_model.model.embed_tokens

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replace the table of token vectors."""
        self.language_model.model.embed_tokens = value  # type: ignore[assignment]

    def get_output_embeddings(self) -> nn.Module:
        """Output layer."""
        return self.language_model.lm_head

    def set_output_embeddings(self, new_embeddings: nn.Module) -> None:
        """Replace the output layer."""
        self.language_model.lm_head = new_embeddings  # type: ignore[assignment]

    def init_processor(self, tokenizer: PreTrainedTokenizerBase) -> Owl3Processor:
        """Make the processor that belongs to this model, as the model cards do."""
        return Owl3Processor(
            tokenizer,
            image_size=self.config.vision_config.image_size,
            template=self.config.template,
        )

    def get_image_features(self, pixel_values: Tensor) -> Tensor:
        """Encode tiles and bring them to decoder width.

        Args:
            pixel_values: [m, 3, s, s], normalised floats or uint8.

        Returns:
            [m, p, h]. Gradients flow into whatever requires them: freeze vision_model, as all
            published stages do, to spare its activations.
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
        media_offset: Sequence[Tensor | Sequence[int] | None] | Tensor | None = None,
        media: Media | None = None,
        use_cache: bool | None = None,
        use_media_cache: bool = True,
        logits_to_keep: int | Tensor = 0,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        return_dict: bool | None = None,
        num_items_in_batch: Tensor | int | None = None,
        cache: Cache | None = None,
        **kwargs: Any,
    ) -> Owl3Output | tuple[Any, ...]:
        """Run the model.

        Args:
            input_ids: [b, q] tokens.
            attention_mask: [b, cached + q], 0 at padding on either side.
            position_ids: [b, q], within the sample; by default counted over the mask.
            past_key_values: keys and values of earlier tokens.
            inputs_embeds: [b, q, h] in place of input_ids.
            labels: [b, q], the tokens themselves; -100 where nothing is learned.
            pixel_values: [m, 3, s, s] tiles of the whole batch in order, floats or uint8.
            media_offset: for each sample, the index of each of its tiles' first placeholder,
                counted from the sample's first token that is not padding; or the [b, q, 2] ranges
                of 240728 and 241014.
            media: of an earlier step, in place of pixel_values and media_offset.
            use_cache: keep keys and values of the text.
            use_media_cache: keep keys and values of the tiles too (the published code does not).
            logits_to_keep: only the last so many tokens, or these ones; 0 keeps all.
            output_hidden_states: also return what each layer got.
            output_attentions: refused; see ValueError.
            return_dict: False for a tuple.
            num_items_in_batch: what the summed loss is divided by; default the learned tokens.
            cache: what transformers from 5.24 on calls past_key_values; either name works.
            **kwargs: what transformers hands to every model and this one has no use for.

        Returns:
            An Owl3Output; its loss is the mean over labels of -log p(label | what precedes it).

        Raises:
            ValueError: inputs that do not belong together, or attention weights are asked for: the
                fused kernels never make them.
        """
        if output_attentions:
            raise ValueError(_NO_ATTENTIONS)
        past = _one_cache(cache, past_key_values)
        _check_media(past, media, pixel_values)
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("give either input_ids or inputs_embeds, not both and not neither.")
        if inputs_embeds is None:
            inputs_embeds = self.get_input_embeddings()(input_ids)
        if use_cache is None:
            use_cache = self.config.use_cache and not self.training and labels is None
        if use_cache and past is None:
            past = DynamicCache()
        context = self._text_context(inputs_embeds, attention_mask, position_ids, past)
        if media is None and pixel_values is not None:
            # With gradients nothing is kept: recomputation under gradient checkpointing must find
            # what the first pass found.
            keep = use_cache and use_media_cache and not torch.is_grad_enabled()
            media = self._media(
                pixel_values, media_offset, len(inputs_embeds), attention_mask, keep
            )
        if past is not None and media is not None:
            past.shows_media = True  # for _check_media, at the next step
        steps = self.language_model.model(inputs_embeds, context, media)
        logits, loss = self._logits_and_loss(steps[-1], labels, logits_to_keep, num_items_in_batch)
        output = Owl3Output(
            loss=loss,
            logits=logits,
            hidden_states=tuple(steps) if output_hidden_states else None,
            media=media.without_features() if use_cache and media is not None else None,
            **{CACHE: past if use_cache else None},
        )
        return output if return_dict is not False else output.to_tuple()

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
            position_ids = _positions(attention_mask, rows, past + queries, inputs_embeds.device)
            position_ids = position_ids[:, past:]
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
        )

    def _media(
        self,
        pixel_values: Tensor,
        media_offset: Sequence[Tensor | Sequence[int] | None] | Tensor | None,
        rows: int,
        attention_mask: Tensor | None,
        keep: bool,
    ) -> Media | None:
        if media_offset is None:
            raise ValueError(
                "pixel_values came without media_offset, which says where each tile stands. Pass "
                "everything the processor returned: model(**inputs)."
            )
        if not len(pixel_values):
            return None
        return place_tiles(
            self.get_image_features(pixel_values),
            read_offsets(media_offset, attention_mask),
            rows=rows,
            shift=self.config.media_position_shift,
            keep=keep,
        )

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
        # Only learned rows are lifted to float32: a vocabulary of 151851 is wide.
        rows = logits[:, :-1].flatten(0, 1)[learned]
        rows = rows if rows.dtype == torch.float64 else rows.float()
        total = F.cross_entropy(rows, targets[learned], reduction="sum")
        count = learned.sum().clamp(min=1) if num_items is None else num_items
        return logits, total / (count.to(total.device) if isinstance(count, Tensor) else count)

    # Generation.

    @torch.no_grad()
    def generate(
        self,
        inputs: Tensor | None = None,
        generation_config: GenerationConfig | None = None,
        *args: Any,
        tokenizer: PreTrainedTokenizerBase | None = None,
        decode_text: bool = False,
        **kwargs: Any,
    ) -> Any:
        """Generate tokens; see GenerationMixin.generate.

        Args:
            inputs: input_ids.
            generation_config: as in transformers.
            *args: as in transformers.
            tokenizer: ends answers at its control tokens, decodes, and reads stop_strings.
            decode_text: return the new tokens as one string per row (the model cards' way).
            **kwargs: what the processor returned, and settings such as max_new_tokens.
        """
        if decode_text and tokenizer is None:
            raise ValueError("decode_text=True needs the tokenizer: pass tokenizer=... as well.")
        if "eos_token_id" not in kwargs:
            kwargs["eos_token_id"] = self._ends(generation_config, tokenizer)
        if tokenizer is not None:
            kwargs["tokenizer"] = tokenizer
            if (generation_config or self.generation_config).pad_token_id is None:
                kwargs.setdefault("pad_token_id", tokenizer.pad_token_id)
        # A static cache would have transformers compile this forward on a GPU, which looks at
        # values (is anything padded?) and would be compiled anew at each length.
        kwargs.setdefault("disable_compile", True)
        prompt = inputs if inputs is not None else kwargs.get("input_ids")
        generated = super().generate(inputs, generation_config, *args, **kwargs)
        if not decode_text or tokenizer is None:
            return generated
        tokens = generated if isinstance(generated, Tensor) else generated.sequences
        start = 0 if prompt is None else prompt.shape[1]
        return tokenizer.batch_decode(tokens[:, start:], skip_special_tokens=True)

    def _ends(
        self, generation_config: GenerationConfig | None, tokenizer: PreTrainedTokenizerBase | None
    ) -> list[int] | int | None:
        """Tokens that end an answer."""
        chosen = (generation_config or self.generation_config).eos_token_id
        if tokenizer is None:
            return chosen if chosen is not None else self.config.eos_token_id
        known = tokenizer.get_vocab()
        ends = [known[literal] for literal in TURN_ENDS if literal in known]
        return ends or chosen

    def prepare_inputs_for_generation(
        self,
        input_ids: Tensor,
        past_key_values: Cache | None = None,
        attention_mask: Tensor | None = None,
        pixel_values: Tensor | None = None,
        media_offset: Sequence[Tensor | Sequence[int] | None] | Tensor | None = None,
        media: Media | None = None,
        use_media_cache: bool = True,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        cache: Cache | None = None,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """Choose what the next step computes: the tokens that are not in the cache.

        Args:
            input_ids: [b, t], all tokens so far.
            past_key_values: of an earlier step.
            attention_mask: [b, t].
            pixel_values: the prompt's tiles.
            media_offset: where they stand.
            media: of an earlier step.
            use_media_cache: see forward.
            use_cache: see forward.
            logits_to_keep: see forward.
            cache: see forward.
            **kwargs: what this or that release of transformers adds.
        """
        past = _one_cache(cache, past_key_values)
        known = 0 if past is None else int(past.get_seq_length())
        return {
            "input_ids": input_ids[:, known:].contiguous(),
            CACHE: past,
            "attention_mask": attention_mask,
            "pixel_values": pixel_values if media is None else None,
            "media_offset": media_offset if media is None else None,
            "media": media,
            "use_media_cache": use_media_cache,
            "use_cache": use_cache,
            "logits_to_keep": logits_to_keep,
            "output_hidden_states": kwargs.get("output_hidden_states"),
            "output_attentions": kwargs.get("output_attentions"),
        }

    def _update_model_kwargs_for_generation(
        self, outputs: Owl3Output, model_kwargs: dict[str, Any], *args: Any, **kwargs: Any
    ) -> dict[str, Any]:
        updated = super()._update_model_kwargs_for_generation(
            outputs, model_kwargs, *args, **kwargs
        )
        updated["media"] = outputs.media
        return updated

    @staticmethod
    def _expand_inputs_for_generation(
        expand_size: int = 1,
        is_encoder_decoder: bool = False,
        input_ids: Tensor | None = None,
        **model_kwargs: Any,
    ) -> tuple[Tensor | None, dict[str, Any]]:
        """Repeat every row for beams and for several answers, but not the tiles.

        place_tiles hands a sample's tiles to all its rows.
        """
        if expand_size > 1:
            if input_ids is not None:
                input_ids = input_ids.repeat_interleave(expand_size, dim=0)
            mask = model_kwargs.get("attention_mask")
            if mask is not None:
                model_kwargs["attention_mask"] = mask.repeat_interleave(expand_size, dim=0)
            offsets = model_kwargs.get("media_offset")
            if isinstance(offsets, Tensor):
                model_kwargs["media_offset"] = read_offsets(offsets, mask)
        return input_ids, model_kwargs


_CARRIED = ("vision_model.post_layernorm.", "vision_model.head.")
_IMAGE_SIDE = (".v_kv_proj.", ".self_attn.gate", "vision2text_model.")
_SHOWN = 8


def _check_loaded(
    folder: str, model: "Owl3ForConditionalGeneration", info: Mapping[str, Collection[str]]
) -> None:
    """Raise ValueError where the weights are not those of the config."""
    last = model.config.vision_config.num_hidden_layers - 1
    carried = (*_CARRIED, f"vision_model.encoder.layers.{last}.")
    missing = [name for name in info["missing_keys"] if not name.startswith(carried)]
    homeless = [
        name for name in info["unexpected_keys"] if any(part in name for part in _IMAGE_SIDE)
    ]
    if not missing and not homeless:
        return
    told = [
        f"{what}: {', '.join(sorted(names)[:_SHOWN])}{', ...' if len(names) > _SHOWN else ''}"
        for what, names in (("missing", missing), ("without a place", homeless))
        if names
    ]
    raise ValueError(
        f"{folder} does not hold the weights that its config.json describes ({len(missing)} "
        f"missing, {len(homeless)} without a place). Complete the folder, or correct hyper_layers, "
        "fusion and projector in config.json.\n  " + "\n  ".join(told)
    )


_NO_ATTENTIONS = (
    "output_attentions=True: attention weights are never made, since attention is torch's fused "
    "scaled_dot_product_attention. Leave it out."
)


def _check_media(past: Cache | None, media: Media | None, pixel_values: Tensor | None) -> None:
    """Raise ValueError where pictures of an earlier step and of this one do not fit."""
    if media is not None and pixel_values is not None:
        raise ValueError(
            "media and pixel_values came together: media holds the pictures of an earlier step, "
            "and new ones would be dropped. Pass media alone, or all pictures as pixel_values."
        )
    known = past is not None and int(past.get_seq_length()) > 0
    if known and media is None and pixel_values is None and getattr(past, "shows_media", False):
        raise ValueError(
            "the cached tokens were computed with pictures, but neither media nor pixel_values "
            "came with the new ones, which would not see them. Pass media=output.media."
        )


def _one_cache(cache: Cache | None, past_key_values: Cache | None) -> Cache | None:
    """Take the cache under either of its names."""
    if cache is not None and past_key_values is not None:
        raise ValueError("cache and past_key_values are two names of one thing: give one of them.")
    return past_key_values if cache is None else cache


def _build_projector(config: Owl3Config) -> nn.Module:
    """One linear layer (240728, 241014), or linear, exact GELU, linear (241101)."""
    first = nn.Linear(config.vision_config.hidden_size, config.hidden_size)
    if config.projector == "linear":
        return first
    return nn.Sequential(first, nn.GELU(), nn.Linear(config.hidden_size, config.hidden_size))


def _positions(
    attention_mask: Tensor | None, rows: int, length: int, device: torch.device
) -> Tensor:
    """Count tokens within each sample: [rows, length]; a pad to the left stands at 0."""
    if attention_mask is None:
        return torch.arange(length, device=device).expand(rows, -1)
    return (attention_mask.long().cumsum(dim=1) - 1).clamp(min=0).to(device)
