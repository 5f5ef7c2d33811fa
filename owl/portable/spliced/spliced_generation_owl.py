# SPDX-License-Identifier: Apache-2.0
"""Generation of models whose pictures are part of the text.

Pictures are encoded once, before the first step; after it they are in the text's cache.
"""

from typing import Any

import torch
from torch import Tensor
from transformers import Cache, GenerationConfig, PreTrainedTokenizerBase

from owl.portable.body_owl import CACHE
from owl.portable.greedy_owl import GreedyDefaults
from owl.portable.spliced.splice_owl import Offsets, Spliced, Tokens


class OwlSplicedGenerationMixin(GreedyDefaults):
    """Generates after prompts with pictures."""

    @torch.no_grad()
    def generate(
        self,
        inputs: Tensor | None = None,
        generation_config: GenerationConfig | None = None,
        *args: Any,
        input_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        attention_mask: Tensor | None = None,
        pixel_values: Tensor | None = None,
        image_embeds: Tensor | None = None,
        images: Tensor | None = None,
        media_offset: Offsets = None,
        labels: Tensor | None = None,
        tokenizer: PreTrainedTokenizerBase | None = None,
        decode_text: bool = False,
        **kwargs: Any,
    ) -> Any:
        """Generate tokens; see GenerationMixin.generate.

        Args:
            inputs: input_ids.
            generation_config: as in transformers.
            *args: as in transformers.
            input_ids: [b, q], the prompts, in either form; they are returned as they came.
            inputs_embeds: [b, q, h], vectors to read in place of the prompts' tokens.
            attention_mask: [b, q].
            pixel_values: the pictures of the prompts; see forward.
            image_embeds: their vectors, in place of pixel_values.
            images: the published name of pixel_values.
            media_offset: their places.
            labels: not used: a processor may return them beside a prompt.
            tokenizer: ends answers at its eos_token, reads stop_strings and decodes.
            decode_text: return the new tokens as one string for each row, without spaces around.
            **kwargs: settings such as max_new_tokens.
        """
        if decode_text and tokenizer is None:
            raise ValueError("decode_text=True needs the tokenizer: pass tokenizer=... as well.")
        prompt = inputs if input_ids is None else input_ids
        past = one_cache(kwargs.get("cache"), kwargs.get("past_key_values"))
        if prompt is not None or inputs_embeds is not None:
            ids = prompt if inputs_embeds is None else None
            spliced = self.read_inputs(
                Tokens(ids, attention_mask, None, media_offset),
                past,
                inputs_embeds=inputs_embeds,
                pixel_values=pixel_values if images is None else images,
                image_embeds=image_embeds,
            )
            kwargs |= self._prompt(prompt, spliced, has_vectors=inputs_embeds is not None)
        self._add_settings(kwargs, generation_config, tokenizer)
        generated = super().generate(None, generation_config, *args, **kwargs)
        tokens = generated if isinstance(generated, Tensor) else generated.sequences
        new = tokens[:, 0 if prompt is None else kwargs["input_ids"].shape[1] :]
        if decode_text and tokenizer is not None:
            texts = tokenizer.batch_decode(new, skip_special_tokens=True)
            return [text.strip() for text in texts]
        return generated if prompt is None else _after_prompt(generated, prompt, new)

    def _prompt(
        self, prompt: Tensor | None, spliced: Spliced, *, has_vectors: bool
    ) -> dict[str, Any]:
        """Return the arguments that describe a prompt to transformers' generate."""
        mask, vectors = spliced.attention_mask, spliced.embeddings
        if mask is None:
            mask = torch.ones(vectors.shape[:2], dtype=torch.long, device=vectors.device)
        values: dict[str, Any] = {"attention_mask": mask}
        if spliced.is_media is not None:
            values["is_media"] = spliced.is_media
        if prompt is None:
            return values | {"inputs_embeds": vectors}
        values["input_ids"] = prompt if has_vectors else spliced.input_ids
        if has_vectors or spliced.is_media is not None:
            values["spliced_embeds"] = vectors
        return values

    def _add_settings(
        self,
        settings: dict[str, Any],
        chosen: GenerationConfig | None,
        tokenizer: PreTrainedTokenizerBase | None,
    ) -> None:
        """Add what ends and pads answers to the settings of a call, in place."""
        if tokenizer is not None:
            settings["tokenizer"] = tokenizer
            if tokenizer.eos_token_id is not None:
                settings.setdefault("eos_token_id", tokenizer.eos_token_id)
        default = (chosen or self.generation_config).pad_token_id
        if settings.get("pad_token_id", default) is None:
            # Only where a row has ended and others go on; transformers would print a warning.
            settings["pad_token_id"] = 0
        # With a static cache on a GPU, transformers would compile this forward, which depends on
        # values (are there marks?).
        settings.setdefault("disable_compile", True)

    def prepare_inputs_for_generation(
        self,
        input_ids: Tensor,
        past_key_values: Cache | None = None,
        cache: Cache | None = None,
        attention_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        spliced_embeds: Tensor | None = None,
        is_media: Tensor | None = None,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """Select the inputs of the next step: the tokens that are not in the cache.

        Args:
            input_ids: [b, t], all tokens so far; after inputs_embeds only those that follow.
            past_key_values: of an earlier step.
            cache: its other name.
            attention_mask: [b, t].
            inputs_embeds: [b, p, h], the prompt's vectors in place of its tokens.
            spliced_embeds: [b, p, h], the prompt's vectors beside its tokens.
            is_media: [b, p], which of them are a picture's.
            **kwargs: further arguments of forward, passed on.
        """
        past = one_cache(cache, past_key_values)
        known = cached_tokens(past)
        for name in _NOT_PASSED_ON:
            kwargs.pop(name, None)
        if inputs_embeds is not None:
            tokens = self._after(inputs_embeds, is_media, input_ids, known)
        elif spliced_embeds is not None:
            written = input_ids[:, spliced_embeds.shape[1] :]
            tokens = self._after(spliced_embeds, is_media, written, known)
        else:
            tokens = {"input_ids": input_ids[:, known:].contiguous()}
        return kwargs | tokens | {CACHE: past, "attention_mask": attention_mask}

    def _after(
        self, prompt: Tensor, is_media: Tensor | None, written: Tensor, known: int
    ) -> dict[str, Any]:
        """Select what is not in the cache of a prompt's vectors and the tokens written after."""
        length = prompt.shape[1]
        if known >= length:
            return {"input_ids": written[:, known - length :].contiguous()}
        vectors = torch.cat([prompt, self.get_input_embeddings()(written)], dim=1)
        if is_media is not None:
            is_media = torch.cat([is_media, torch.zeros_like(written, dtype=torch.bool)], dim=1)
            is_media = is_media[:, known:]
        return {"inputs_embeds": vectors[:, known:], "is_media": is_media}


_NOT_PASSED_ON = (
    "position_ids",  # counted by forward
    "cache_position",
    "tokenizer",
    "next_sequence_length",
    "is_first_iteration",
)


def _after_prompt(generated: Any, prompt: Tensor, new: Tensor) -> Any:
    """Put the prompt back as it came, before the new tokens of each of its answers."""
    times = len(new) // len(prompt)
    whole = torch.cat([prompt.to(new.device).repeat_interleave(times, dim=0), new], dim=1)
    if isinstance(generated, Tensor):
        return whole
    generated.sequences = whole
    return generated


def cached_tokens(past: Cache | None) -> int:
    """Count the tokens in a cache."""
    return 0 if past is None else int(past.get_seq_length())


def one_cache(cache: Cache | None, past_key_values: Cache | None) -> Cache | None:
    """Take the cache under either of its names."""
    if cache is not None and past_key_values is not None:
        raise ValueError("cache and past_key_values are names of the same argument: pass one.")
    return past_key_values if cache is None else cache
