# SPDX-License-Identifier: Apache-2.0
"""Generation: ends of answers, the caches of text and pictures, beams."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import Cache, GenerationConfig, GenerationMixin, PreTrainedTokenizerBase
from transformers.modeling_outputs import CausalLMOutputWithPast

from owl.families.owl3.hf.media_owl3 import Media, read_offsets
from owl.families.owl3.hf.template_owl3 import TURN_ENDS

CACHE = "cache" if "cache" in CausalLMOutputWithPast.__dataclass_fields__ else "past_key_values"
"""The name of the text's key-value cache: transformers 5.24 renamed past_key_values."""


@dataclass
class Owl3Output(CausalLMOutputWithPast):
    """The outputs of a forward pass.

    loss []; logits [b, kept tokens, v]; the cache, under the name CACHE; hidden_states, num_layers
    + 1 of [b, q, h], the last one normed.
    """

    media: Media | None = None  # pass it to the next step in place of pixel_values


class Owl3GenerationMixin(GenerationMixin):
    """Generates with cached keys and values of the text and of the pictures."""

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
            **kwargs: the processor's output, and settings such as max_new_tokens.
        """
        if decode_text and tokenizer is None:
            raise ValueError("decode_text=True needs the tokenizer: pass tokenizer=... as well.")
        if "eos_token_id" not in kwargs:
            kwargs["eos_token_id"] = self._ends(generation_config, tokenizer)
        if tokenizer is not None:
            kwargs["tokenizer"] = tokenizer
            if (generation_config or self.generation_config).pad_token_id is None:
                kwargs.setdefault("pad_token_id", tokenizer.pad_token_id)
        # With a static cache on a GPU, transformers would compile this forward, which depends on
        # values (is anything padded?) and would be recompiled at each length.
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
        """Find the ids of the tokens that end an answer."""
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
        """Select the inputs of the next step: the tokens that are not in the cache.

        Args:
            input_ids: [b, t], all tokens so far.
            past_key_values: of an earlier step.
            attention_mask: [b, t].
            pixel_values: the prompt's tiles.
            media_offset: their places in the text.
            media: of an earlier step.
            use_media_cache: see forward.
            use_cache: see forward.
            logits_to_keep: see forward.
            cache: see forward.
            **kwargs: further inputs of some releases of transformers.
        """
        past = one_cache(cache, past_key_values)
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

        place_tiles gives a sample's tiles to all its rows.
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


def check_media(past: Cache | None, media: Media | None, pixel_values: Tensor | None) -> None:
    """Raise ValueError if new pictures are given beside cached ones, or the cached ones are not."""
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


def one_cache(cache: Cache | None, past_key_values: Cache | None) -> Cache | None:
    """Take the cache under either of its names."""
    if cache is not None and past_key_values is not None:
        raise ValueError("cache and past_key_values are names of the same argument: pass one.")
    return past_key_values if cache is None else cache
