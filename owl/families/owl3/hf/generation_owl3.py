# SPDX-License-Identifier: Apache-2.0
"""Generation: ends of answers, the caches of text and pictures, beams."""

import warnings
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import Cache, GenerationConfig, PreTrainedTokenizerBase
from transformers.modeling_outputs import BaseModelOutputWithPooling, CausalLMOutputWithPast

from owl.families.owl3.hf.checks_owl3 import check_tensor
from owl.families.owl3.hf.media_owl3 import Offsets, read_offsets
from owl.families.owl3.hf.template_owl3 import TURN_ENDS
from owl.portable.body_owl import CACHE
from owl.portable.greedy_owl import GreedyDefaults


@dataclass
class Owl3Output(CausalLMOutputWithPast):
    """The outputs of a forward pass.

    loss []; logits [b, kept tokens, v]; the cache, under the name CACHE, which carries the pictures
    as well; hidden_states, num_layers + 1 of [b, q, h], the last one normed; attentions, for each
    layer the weights [b, a, q, keys] on tokens.

    Args:
        media_attentions: for each hyper layer the weights [b, a, q, M * p] on the patches of the
            M tiles of a row. With joint_softmax a token's weights on tokens and patches sum to 1.
        image_outputs: of get_image_features, if tiles came.
    """

    media_attentions: tuple[Tensor, ...] | None = None
    image_outputs: BaseModelOutputWithPooling | None = None


class Owl3GenerationMixin(GreedyDefaults):
    """Generates with cached keys and values of the text and of the pictures.

    The published inner language model has a configuration made of config.json alone: see
    GreedyDefaults.
    """

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
            decode_text: return the new tokens as one string per row, without spaces around it
                (the model cards' way).
            **kwargs: the processor's output, and settings such as max_new_tokens.
        """
        if decode_text and tokenizer is None:
            raise ValueError("decode_text=True needs the tokenizer: pass tokenizer=... as well.")
        if (positions := kwargs.pop("position_ids", None)) is not None:
            # Under another name, since transformers 5 passes positions of its own under this one.
            kwargs["prompt_positions"] = positions
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
        check_tensor(prompt)
        generated = super().generate(inputs, generation_config, *args, **kwargs)
        if not decode_text or tokenizer is None:
            return generated
        tokens = generated if isinstance(generated, Tensor) else generated.sequences
        start = 0 if prompt is None else prompt.shape[1]
        texts = tokenizer.batch_decode(tokens[:, start:], skip_special_tokens=True)
        return [text.strip() for text in texts]

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
        image_embeds: Tensor | None = None,
        media_offset: Offsets = None,
        cache: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        prompt_positions: Tensor | None = None,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """Select the inputs of the next step: the tokens that are not in the cache.

        Args:
            input_ids: [b, t], all tokens so far; after inputs_embeds only those that follow.
            past_key_values: of an earlier step.
            attention_mask: [b, t].
            pixel_values: the prompt's tiles.
            image_embeds: their features, in place of pixel_values.
            media_offset: their places in the text.
            cache: see forward.
            inputs_embeds: [b, p, h], the prompt's vectors in place of its tokens.
            prompt_positions: [b or 1, p], the prompt's own position_ids.
            **kwargs: further arguments of forward, passed on.
        """
        past = one_cache(cache, past_key_values)
        known = 0 if past is None else int(past.get_seq_length())
        for name in _NOT_PASSED_ON:
            kwargs.pop(name, None)
        return kwargs | {
            **self._next_tokens(input_ids, inputs_embeds, attention_mask, known),
            CACHE: past,
            "attention_mask": attention_mask,
            "position_ids": _next_positions(prompt_positions, attention_mask, input_ids, known),
            "pixel_values": pixel_values,
            "image_embeds": image_embeds,
            "media_offset": media_offset,
        }

    def _next_tokens(
        self,
        input_ids: Tensor,
        prompt: Tensor | None,
        attention_mask: Tensor | None,
        known: int,
    ) -> dict[str, Tensor]:
        """Select the tokens that are not in the cache, as ids or as a prompt's vectors."""
        if prompt is None:
            return {"input_ids": input_ids[:, known:].contiguous()}
        length = prompt.shape[1]
        total = length + input_ids.shape[1] if attention_mask is None else attention_mask.shape[1]
        written = input_ids[:, input_ids.shape[1] - (total - length) :]
        if known >= length:
            return {"input_ids": written[:, known - length :].contiguous()}
        vectors = self.get_input_embeddings()(written)
        return {"inputs_embeds": torch.cat([prompt[:, known:], vectors], dim=1)}

    def _update_model_kwargs_for_generation(
        self, outputs: Owl3Output, model_kwargs: dict[str, Any], *args: Any, **kwargs: Any
    ) -> dict[str, Any]:
        updated = super()._update_model_kwargs_for_generation(
            outputs, model_kwargs, *args, **kwargs
        )
        if getattr(outputs, CACHE) is not None:  # it carries the pictures from now on
            for name in ("pixel_values", "image_embeds", "media_offset"):
                updated.pop(name, None)
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
            for name in ("inputs_embeds", "prompt_positions"):
                if model_kwargs.get(name) is not None:
                    model_kwargs[name] = model_kwargs[name].repeat_interleave(expand_size, dim=0)
            offsets = model_kwargs.get("media_offset")
            if isinstance(offsets, Tensor):
                model_kwargs["media_offset"] = read_offsets(offsets, mask)
        return input_ids, model_kwargs


_NOT_PASSED_ON = (
    "position_ids",  # counted by forward; a caller's own are prompt_positions
    "labels",  # a processor may return them beside a prompt
    "tokenizer",
    "next_sequence_length",
    "is_first_iteration",
)


def _next_positions(
    prompt: Tensor | None, attention_mask: Tensor | None, input_ids: Tensor, known: int
) -> Tensor | None:
    """Count on from the prompt's positions: [b or 1, q] of the tokens that are not in the cache."""
    if prompt is None:
        return None
    total = input_ids.shape[1] if attention_mask is None else attention_mask.shape[1]
    following = torch.arange(1, total - prompt.shape[1] + 1, device=prompt.device)
    return torch.cat([prompt, prompt[:, -1:] + following], dim=1)[:, known:]


def one_cache(cache: Cache | None, past_key_values: Cache | None) -> Cache | None:
    """Take the cache under either of its names."""
    if cache is not None and past_key_values is not None:
        raise ValueError("cache and past_key_values are names of the same argument: pass one.")
    if past_key_values is not None and CACHE == "cache" and not torch.compiler.is_compiling():
        warnings.warn(
            "`past_key_values` is deprecated in transformers: pass cache.",
            FutureWarning,
            stacklevel=3,
        )
    return past_key_values if cache is None else cache
