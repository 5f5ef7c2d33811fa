# SPDX-License-Identifier: Apache-2.0
"""mPLUG-Owl3 for transformers: loads the published folders, trains, generates with both caches.

Only PreTrainedModel, GenerationMixin, Cache, CausalLMOutputWithPast and the registry of attention
functions come from transformers: these have kept their meaning from 4.57 to 5, unlike everything
else that the published code uses.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import Cache, DynamicCache, PreTrainedTokenizerBase
from transformers.modeling_outputs import BaseModelOutputWithPooling

from owl.families.owl3.hf.base_owl3 import Owl3PreTrainedModel
from owl.families.owl3.hf.checks_owl3 import (
    check_continued,
    check_media,
    check_text,
    read_options,
)
from owl.families.owl3.hf.configuration_owl3 import Owl3Config
from owl.families.owl3.hf.decoder_owl3 import Owl3CausalLM
from owl.families.owl3.hf.generation_owl3 import (
    CACHE,
    Owl3GenerationMixin,
    Owl3Output,
    one_cache,
)
from owl.families.owl3.hf.media_owl3 import Media, Offsets, place_tiles, read_offsets
from owl.families.owl3.hf.processing_owl3 import Owl3Processor
from owl.families.owl3.hf.text_owl3 import text_context
from owl.families.owl3.hf.vision_owl3 import Owl3VisionModel
from owl.portable.body_owl import OwlBody
from owl.portable.loss_owl import logits_and_loss


class Shown(NamedTuple):
    """What a call returns beside its result."""

    hidden_states: bool
    attentions: bool


class Owl3ForConditionalGeneration(Owl3PreTrainedModel, Owl3GenerationMixin):
    """Tower, projector, decoder and loss.

    Arguments of a call, for b rows of q tokens and m tiles:
        input_ids: [b, q] tokens.
        attention_mask: [b, cached + q], 0 at padding on either side.
        position_ids: [b, q], within the sample; by default counted over the mask. A row is one
            sample: positions that start again within it are an error.
        past_key_values: keys and values of earlier tokens; carries their pictures as well, so tiles
            need not come again. If they do, all of them must.
        inputs_embeds: [b, q, h] in place of input_ids.
        labels: [b, q], the tokens themselves; -100 if not learned.
        pixel_values: [m, 3, s, s] tiles of the entire batch in order, floats or uint8.
        image_embeds: the output of get_image_features, or its pooler_output [m, p, h], in place of
            pixel_values.
        media_offset: for each sample, the index of each of its tiles' first placeholder,
            counted from the sample's first token that is not padding; or the [b, q, 2] ranges
            of 240728 and 241014.
        use_cache: keep keys and values of the text.
        use_media_cache: keep keys and values of the tiles too (the published code does not).
        logits_to_keep: number of last tokens, or indices of tokens; 0 keeps all.
        output_hidden_states: also return the input of each layer; by default as in the config.
        output_attentions: also return attention weights, which are computed step by step, as with
            attn_implementation="eager".
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
    def base_model(self) -> "OwlBody":
        """The model up to its output layer, as trainers look for it."""
        return OwlBody(self)

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

    def get_image_features(
        self,
        pixel_values: Tensor,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        return_dict: bool | None = None,
        **kwargs: Any,
    ) -> BaseModelOutputWithPooling | tuple[Any, ...]:
        """Encode tiles and project them to decoder width.

        Args:
            pixel_values: [m, 3, s, s], normalised floats or uint8.
            output_hidden_states: see Owl3VisionModel; by default as in the config.
            output_attentions: likewise.
            return_dict: False for a tuple; by default as in the config.
            **kwargs: as for forward.

        Returns:
            pooler_output [m, p, h], the features; last_hidden_state [m, p, h_v], what the
            projector made them of; and what was requested. Freeze vision_model, as all published
            stages do, to save the memory of its activations.
        """
        read_options(kwargs, passed_on=False)
        config, shows = self.config, self._shown(output_hidden_states, output_attentions)
        parts = [
            self.vision_model(part, *shows) for part in pixel_values.split(config.vision_batch_size)
        ]
        features = torch.cat([part.last_hidden_state for part in parts])
        output = BaseModelOutputWithPooling(
            last_hidden_state=features,
            pooler_output=self.vision2text_model(features),
            hidden_states=_joined([part.hidden_states for part in parts]),
            attentions=_joined([part.attentions for part in parts]),
        )
        return output if _chosen(return_dict, _returns_dict(config)) else output.to_tuple()

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
        use_cache: bool | None = None,
        use_media_cache: bool = True,
        logits_to_keep: int | Tensor = 0,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        return_dict: bool | None = None,
        num_items_in_batch: Tensor | int | None = None,
        cache: Cache | None = None,
        image_embeds: Tensor | BaseModelOutputWithPooling | None = None,
        **kwargs: Any,
    ) -> Owl3Output | tuple[Any, ...]:
        """Run the model; the class lists the arguments.

        Returns:
            An Owl3Output; its loss is the mean over labels of -log p(label | preceding tokens).

        Raises:
            ValueError: inputs do not fit together, or are not known.
        """
        config = self.config
        check_text(input_ids, inputs_embeds)
        past = one_cache(cache, past_key_values)
        use_cache = self._caches(use_cache, past, is_scored=labels is not None)
        past = DynamicCache() if use_cache and past is None else past
        if inputs_embeds is None:
            inputs_embeds = self.get_input_embeddings()(input_ids)
        shows = self._shown(output_hidden_states, output_attentions)
        images = image_embeds
        if pixel_values is not None:
            check_media(None, pixel_values, image_embeds, media_offset)
            images = self.get_image_features(pixel_values, *shows, return_dict=True)
        features = images if isinstance(images, Tensor | None) else images.pooler_output
        media = self._media(
            past, features, media_offset, attention_mask, len(inputs_embeds),
            keep=use_cache and use_media_cache,
        )  # fmt: skip
        passed_on = media is None and not config.uses_torch_attention and not shows.attentions
        context = text_context(
            config, inputs_embeds, attention_mask, position_ids, past,
            shows_weights=shows.attentions, options=read_options(kwargs, passed_on=passed_on),
        )  # fmt: skip
        steps = self.language_model.model(inputs_embeds, context, media)
        if past is not None and media is not None:
            past.media = media.without_features()
        logits, loss = logits_and_loss(
            self.language_model.lm_head, steps[-1], labels, logits_to_keep, num_items_in_batch
        )
        output = Owl3Output(
            loss=loss,
            logits=logits,
            hidden_states=tuple(steps) if shows.hidden_states else None,
            attentions=_as_tuple(context.weights),
            media_attentions=_as_tuple(context.media_weights),
            image_outputs=None if features is images else images,
            **{CACHE: past if use_cache else None},
        )
        return output if _chosen(return_dict, _returns_dict(config)) else output.to_tuple()

    def _shown(self, hidden_states: bool | None, attentions: bool | None) -> Shown:
        config = self.config
        return Shown(
            _chosen(hidden_states, config.output_hidden_states),
            _chosen(attentions, config.output_attentions),
        )

    def _caches(self, use_cache: bool | None, past: Cache | None, *, is_scored: bool) -> bool:
        """Whether keys and values are kept, by default for writing alone."""
        if self.recomputes_layers and self.training and torch.is_grad_enabled():
            if past is not None:
                raise ValueError(
                    "past_key_values came while layers are recomputed for gradients, which would "
                    "store their keys twice. Leave it out, or call "
                    "model.gradient_checkpointing_disable()."
                )
            return False
        return _chosen(use_cache, self.config.use_cache and not self.training and not is_scored)

    def _media(
        self,
        past: Cache | None,
        features: Tensor | None,
        media_offset: Offsets,
        attention_mask: Tensor | None,
        rows: int,
        *,
        keep: bool,
    ) -> Media | None:
        """Place the tiles that came, or take those that the cache carries."""
        known: Media | None = getattr(past, "media", None)
        check_media(known, None, features, media_offset)
        if features is None or not len(features):
            return known
        media = place_tiles(
            features,
            read_offsets(media_offset, attention_mask),
            rows=rows,
            shift=self.config.media_position_shift,
            # Nothing is cached with gradients, for which layers may be computed a second time.
            keep=keep and not torch.is_grad_enabled(),
        )
        if known is not None and media is not None:
            check_continued(known, media)
        return media


def _build_projector(config: Owl3Config) -> nn.Module:
    """Build one linear layer (240728, 241014), or linear, exact GELU, linear (241101)."""
    first = nn.Linear(config.vision_config.hidden_size, config.hidden_size)
    if config.projector == "linear":
        return first
    return nn.Sequential(first, nn.GELU(), nn.Linear(config.hidden_size, config.hidden_size))


def _chosen(argument: bool | None, default: bool) -> bool:
    return default if argument is None else argument


def _returns_dict(config: Owl3Config) -> bool:
    return bool(getattr(config, "return_dict", True))


def _as_tuple(weights: list[Tensor] | None) -> tuple[Tensor, ...] | None:
    return None if weights is None else tuple(weights)


def _joined(parts: list[tuple[Tensor, ...] | None]) -> tuple[Tensor, ...] | None:
    """Join the tiles of several parts, layer by layer."""
    shown = [part for part in parts if part is not None]
    return tuple(torch.cat(layers) for layers in zip(*shown, strict=True)) if shown else None
