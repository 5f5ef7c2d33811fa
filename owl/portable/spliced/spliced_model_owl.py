# SPDX-License-Identifier: Apache-2.0
"""A model for transformers whose pictures are part of the text: what its families share.

The decoder is transformers' own Llama, with its attention functions and caches. A family builds the
modules under its published names, and says where they are.

Letters: b rows, q tokens computed now, m pictures, k vectors of a picture, h hidden size.
"""

from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor, nn
from transformers import Cache, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPooling, CausalLMOutputWithPast

from owl.portable.body_owl import CACHE, OwlBody
from owl.portable.loss_owl import logits_and_loss
from owl.portable.spliced.abstractor_owl import POSITION_TABLES, OwlAbstractor
from owl.portable.spliced.clip_tower_owl import OwlClipEmbeddings
from owl.portable.spliced.splice_owl import (
    Offsets,
    Spliced,
    Tokens,
    media_rows,
    read_marks,
    read_offsets,
    splice,
)
from owl.portable.spliced.spliced_generation_owl import cached_tokens, one_cache


class OwlSplicedModel(PreTrainedModel):
    """Tower, abstractor, decoder and loss.

    Arguments of a call:
        input_ids: [b, q] tokens, with k placeholders of any id in place of each picture; or in the
            published form, where negative ids mark pictures.
        attention_mask: [b, cached + q], 0 at padding on either side.
        position_ids: [b, q], by default counted over the mask.
        past_key_values: keys and values of earlier tokens.
        inputs_embeds: [b, q, h] in place of input_ids.
        labels: [b, q], the tokens themselves; -100 if not learned.
        pixel_values: [m, 3, s, s] pictures of the entire batch in order, floats or uint8.
        media_offset: for each row, the index of each picture's first placeholder, counted from the
            row's first token that is not padding.
        image_embeds: [m, k, h], pooler_output of get_image_features, in place of pixel_values.
        images: the published name of pixel_values.
        is_media: [b, q] bool, with inputs_embeds: which of them are a picture's.
        use_cache: keep keys and values.
        logits_to_keep: number of last tokens, or indices of tokens; 0 keeps all.
        output_hidden_states: also return the input of each layer.
        output_attentions: also return the weights, with attn_implementation="eager".
        return_dict: False for a tuple.
        num_items_in_batch: divisor of the summed loss; by default the learned tokens.
        cache: the name of past_key_values since transformers 5.24; either works.
        **kwargs: further options of transformers that request nothing; any other is an error.
    """

    base_model_prefix = "model"
    main_input_name = "input_ids"
    input_modalities = ("image", "text")
    supports_gradient_checkpointing = True
    _no_split_modules = ["LlamaDecoderLayer", "OwlClipLayer", "OwlAbstractorLayer"]  # noqa: RUF012
    _skip_keys_device_placement = ["cache", "past_key_values"]  # noqa: RUF012
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_attention_backend = True
    # Constants that some published folders hold.
    _keys_to_ignore_on_load_unexpected = [r"rotary_emb\.inv_freq$", POSITION_TABLES]  # noqa: RUF012

    ids_per_picture: ClassVar[int | None] = None
    """Negative ids that mark a picture in the published form; None for k."""

    # For families.

    @property
    def decoder(self) -> nn.Module:
        """The decoder without its output layer."""
        raise NotImplementedError

    def encode_pictures(self, pixel_values: Tensor) -> tuple[Tensor, Tensor]:
        """Encode [m, 3, s, s]: features of the tower [m, f, h_v], and vectors [m, k, h]."""
        raise NotImplementedError

    def media_options(self, is_media: Tensor | None) -> dict[str, Any]:
        """Return what the decoder needs to know about pictures: arguments of its layers."""
        return {}

    @property
    def base_model(self) -> OwlBody:
        """The model up to its output layer, as trainers look for it."""
        return OwlBody(self)

    # Loading and saving.

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        std = getattr(self.config, "initializer_range", 0.02)
        if isinstance(module, OwlClipEmbeddings):
            nn.init.normal_(module.cls_token, std=std)
            nn.init.normal_(module.position_embedding, std=std)
        if isinstance(module, OwlAbstractor):
            nn.init.normal_(module.vit_eos, std=std)
            if hasattr(module, "query_embeds"):
                nn.init.normal_(module.query_embeds, std=std)

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | Path, *args: Any, **kwargs: Any
    ) -> Any:
        """Load a published, exported or saved folder; see PreTrainedModel.from_pretrained.

        Raises:
            ValueError: a tensor is missing: transformers would fill it with random numbers, and
                only log that. With output_loading_info=True the caller is told so instead.
        """
        wants_info = kwargs.pop("output_loading_info", False)
        model, info = super().from_pretrained(
            pretrained_model_name_or_path, *args, output_loading_info=True, **kwargs
        )
        if not wants_info:
            _check_loaded(str(pretrained_model_name_or_path), info)
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
        """Recompute layers in the backward pass, by default without re-entry."""
        options = {"use_reentrant": False} | (gradient_checkpointing_kwargs or {})
        super().gradient_checkpointing_enable(options, **kwargs)

    # Computing.

    def get_image_features(
        self, pixel_values: Tensor, return_dict: bool | None = None, **kwargs: Any
    ) -> BaseModelOutputWithPooling | tuple[Any, ...]:
        """Encode pictures.

        Args:
            pixel_values: [m, 3, s, s], normalised floats or uint8.
            return_dict: False for a tuple.
            **kwargs: as for forward.

        Returns:
            pooler_output [m, k, h], the vectors of the decoder, which may be passed as
            image_embeds; last_hidden_state [m, f, h_v] of the tower.
        """
        _check_options(kwargs)
        features, vectors = self.encode_pictures(pixel_values)
        output = BaseModelOutputWithPooling(last_hidden_state=features, pooler_output=vectors)
        return output if self._returns_object(return_dict) else output.to_tuple()

    def read_inputs(
        self,
        tokens: Tokens,
        past: Cache | None = None,
        *,
        inputs_embeds: Tensor | None = None,
        pixel_values: Tensor | None = None,
        image_embeds: Tensor | None = None,
        is_media: Tensor | None = None,
    ) -> Spliced:
        """Embed tokens and put pictures in place.

        Raises:
            ValueError: pictures come twice, without their places, or are missing.
        """
        if (tokens.input_ids is None) == (inputs_embeds is None):
            raise ValueError("give exactly one of input_ids and inputs_embeds.")
        if pixel_values is not None and image_embeds is not None:
            raise ValueError("pixel_values and image_embeds hold the same pictures: pass one.")
        features = image_embeds
        if cached_tokens(past) and pixel_values is None and image_embeds is None:
            tokens = replace(tokens, media_offset=None)  # of pictures that are in the cache
        if pixel_values is not None and len(pixel_values):
            _, features = self.encode_pictures(pixel_values)
        keys = self.config.keys_per_picture
        tokens = read_marks(tokens, keys, ids_per_picture=self.ids_per_picture or keys)
        if any(read_offsets(tokens.media_offset)) and features is None:
            raise ValueError(
                "the text has places for pictures, but neither pixel_values nor image_embeds came "
                "with it. Pass everything that the processor returned: model(**inputs)."
            )
        embeddings = inputs_embeds
        if embeddings is None:
            embeddings = self.get_input_embeddings()(tokens.input_ids)
        if features is not None and len(features):
            if tokens.media_offset is None:
                raise ValueError(
                    "pictures came without media_offset, their places in the text. Pass everything "
                    "that the processor returned: model(**inputs)."
                )
            rows, queries = embeddings.shape[:2]
            is_media = media_rows(tokens, (rows, queries), len(features), keys)
            is_media = is_media.to(embeddings.device)
            embeddings = splice(embeddings, is_media, features)
        return Spliced(tokens.input_ids, tokens.attention_mask, tokens.labels, embeddings, is_media)

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
        logits_to_keep: int | Tensor = 0,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        num_items_in_batch: Tensor | int | None = None,
        image_embeds: Tensor | None = None,
        images: Tensor | None = None,
        is_media: Tensor | None = None,
        cache: Cache | None = None,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast | tuple[Any, ...]:
        """Run the model; the class lists the arguments.

        Returns:
            Its loss is the mean over labels of -log p(label | preceding tokens). Logits of pictures
            are included, and if marks were read, rows are as long as with all placeholders.

        Raises:
            ValueError: inputs do not fit together, or are not known.
        """
        _check_options(kwargs)
        past = one_cache(cache, past_key_values)
        spliced = self.read_inputs(
            Tokens(input_ids, attention_mask, labels, media_offset),
            past,
            inputs_embeds=inputs_embeds,
            pixel_values=pixel_values if images is None else images,
            image_embeds=image_embeds,
            is_media=is_media,
        )
        writes = self.config.use_cache and not self.training and labels is None
        output = self.decoder(
            inputs_embeds=spliced.embeddings,
            attention_mask=spliced.attention_mask,
            position_ids=_count_positions(spliced) if position_ids is None else position_ids,
            use_cache=_chosen(use_cache, writes),
            **{CACHE: past},
            **self._shown(
                output_attentions=output_attentions, output_hidden_states=output_hidden_states
            ),
            **self.media_options(spliced.is_media),
        )
        logits, loss = logits_and_loss(
            self.get_output_embeddings(),
            output.last_hidden_state,
            spliced.labels,
            logits_to_keep,
            num_items_in_batch,
        )
        answer = CausalLMOutputWithPast(
            loss, logits, getattr(output, CACHE), output.hidden_states, output.attentions
        )
        return answer if self._returns_object(return_dict) else answer.to_tuple()

    def _returns_object(self, return_dict: bool | None) -> bool:
        return _chosen(return_dict, getattr(self.config, "return_dict", True))

    def _shown(self, **requests: Any) -> dict[str, Any]:
        """Select what is to be returned beside the output, by default as in the config."""
        chosen = {
            name: getattr(self.config, name) if value is None else value
            for name, value in requests.items()
        }
        return {name: value for name, value in chosen.items() if value}


def _count_positions(spliced: Spliced) -> Tensor | None:
    """Count the tokens computed now within their rows: [b, q]; padding is at 0."""
    mask = spliced.attention_mask
    if mask is None or mask.dim() != 2:
        return None  # the decoder counts
    return (mask.long().cumsum(dim=1) - 1).clamp(min=0)[:, -spliced.embeddings.shape[1] :]


_IGNORED = ("cache_position", "token_type_ids", "skip_logits")
"""Inputs of transformers without effect here."""


def _check_options(others: Mapping[str, Any]) -> None:
    """Raise ValueError for an argument that forward does not know, unless it requests nothing."""
    for name, value in others.items():
        if name not in _IGNORED and value is not None and value is not False:
            raise ValueError(
                f"{name} is not an argument of this model: correct its name or leave it out; the "
                "class lists them."
            )


def _check_loaded(folder: str, info: Mapping[str, Collection[str]]) -> None:
    missing = sorted(info["missing_keys"])
    if missing:
        raise ValueError(
            f"{folder} lacks {len(missing)} of the tensors that its config.json describes, among "
            f"them {', '.join(missing[:8])}. Complete the folder, or correct config.json."
        )


def _chosen(argument: bool | None, default: bool | None) -> bool:
    return bool(default if argument is None else argument)
