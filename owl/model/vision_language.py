# SPDX-License-Identifier: Apache-2.0
"""Tower, projector, decoder, loss; or the part of them that one pipeline stage holds."""

from copy import copy

import torch
from megatron.core.enums import ModelType
from megatron.core.models.common.embeddings.language_model_embedding import LanguageModelEmbedding
from megatron.core.models.common.language_module.language_module import LanguageModule
from megatron.core.process_groups_config import ProcessGroupCollection
from megatron.core.tensor_parallel import scatter_to_sequence_parallel_region
from megatron.core.transformer.transformer_block import (
    TransformerBlock,
    TransformerBlockSubmodules,
    get_num_layers_to_build,
)
from megatron.core.transformer.transformer_config import TransformerConfig
from megatron.core.transformer.transformer_layer import get_transformer_layer_offset
from torch import Tensor

from owl.config.media_entry import Splice
from owl.config.run import ModelConfig
from owl.data.samples import PackedBatch
from owl.model import pipeline_wire, sequence_sharding
from owl.model.families import BUILDS
from owl.model.media import PackContext, pack_context
from owl.model.norm import RMSNorm
from owl.model.output_layer import OutputLayer


class VisionLanguageModel(LanguageModule):
    """A packed batch in; losses, logits, or the next stage's input out.

    Args:
        config: of the decoder.
        tower_config: of the vision tower.
        model: what the family and its variant choose.
        padded_vocab_size: rows of embedding and output layer over all ranks of the tensor group.
        pg_collection: Megatron's process groups.
        tower_pg_collection: those of the tower; its tensor group is this rank alone when the tower
            is image-parallel.
        pre_process: this stage embeds tokens and encodes pictures.
        post_process: this stage computes losses.
        vp_stage: virtual pipeline stage, if there are several.
    """

    def __init__(
        self,
        config: TransformerConfig,
        tower_config: TransformerConfig,
        model: ModelConfig,
        *,
        padded_vocab_size: int,
        pg_collection: ProcessGroupCollection,
        tower_pg_collection: ProcessGroupCollection,
        pre_process: bool = True,
        post_process: bool = True,
        vp_stage: int | None = None,
    ) -> None:
        super().__init__(config=config, pg_collection=pg_collection)
        self.model_config, build = model, BUILDS[model.family]
        self.pre_process, self.post_process, self.vp_stage = pre_process, post_process, vp_stage
        self.model_type = ModelType.encoder_or_decoder
        self.share_embeddings_and_output_weights = model.tie_word_embeddings
        self.input_tensor: Tensor | None = None
        pp_rank = pg_collection.pp.rank()
        first = get_transformer_layer_offset(config, vp_stage, pp_rank)
        here = range(first, first + get_num_layers_to_build(config, vp_stage, pp_rank))
        self.media_needed_later = any(i >= here.stop for i in model.enters.layers)
        self.splices = isinstance(model.enters, Splice)

        if pre_process:
            self.vision_tower = build.tower(
                tower_config, model, pg_collection=tower_pg_collection, tile_group=pg_collection.tp
            )
            # Every rank projects complete tiles: rows are sharded afterwards.
            whole_rows = copy(config)
            whole_rows.sequence_parallel = False
            self.projector = build.projector(whole_rows, model, pg_collection)
            self.embedding = LanguageModelEmbedding(
                config,
                vocab_size=padded_vocab_size,
                max_sequence_length=model.max_position_embeddings,
                position_embedding_type="rope",
                # Media are spliced into complete rows; they are shared out afterwards.
                scatter_to_sequence_parallel=not self.splices,
                tp_group=pg_collection.tp,
            )
        self.decoder = self._build_decoder(here)
        if post_process:
            self.output_layer = OutputLayer(
                model.hidden_size,
                padded_vocab_size,
                vocab_size=model.vocab_size,
                config=config,
                init_method=config.init_method,
                skip_weight_param_allocation=pre_process and model.tie_word_embeddings,
                tp_group=pg_collection.tp,
            )
        if pre_process or post_process:
            self.setup_embeddings_and_output_layer()

    def _build_decoder(self, here: range) -> TransformerBlock:
        """Build the decoder layers of this stage."""
        specs = BUILDS[self.model_config.family].decoder_layers(self.model_config)
        return TransformerBlock(
            config=self.config,
            spec=TransformerBlockSubmodules(
                layer_specs=[specs[i] for i in here], layer_norm=RMSNorm
            ),
            pre_process=self.pre_process,
            post_process=self.post_process,
            pg_collection=self.pg_collection,
            vp_stage=self.vp_stage,
        )

    def set_input_tensor(self, input_tensor: list[Tensor | None]) -> None:
        """Take what the previous pipeline stage sent (called by Megatron's schedule)."""
        self.input_tensor = input_tensor[0]

    def forward(self, batch: PackedBatch, *, return_logits: bool = False) -> Tensor:
        """Run this stage.

        Args:
            batch: on the device of the model.
            return_logits: logits instead of losses, for evaluation and parity tests.

        Returns:
            On the last stage: [t] float32 losses, 0 where nothing is learned; or [t, v] logits.
            On earlier stages: what the next one needs (see owl/model/pipeline_wire.py).
        """
        batch.check()
        num_tokens = batch.num_tokens
        if self.config.sequence_parallel:
            batch = sequence_sharding.pad_batch(batch, self.pg_collection.tp.size())
        pack = pack_context(batch, self.model_config, self.config.params_dtype)
        if self.pre_process:
            hidden_states, media_features = self._embed(batch, pack)
        else:
            assert self.input_tensor is not None
            rows_here = batch.num_tokens // self._rows_shared_by()
            hidden_states, media_features = pipeline_wire.split(self.input_tensor, rows_here)
            self.decoder.set_input_tensor(hidden_states)
        hidden_states = self.decoder(
            hidden_states,
            attention_mask=None,
            context=media_features,
            packed_seq_params=pack,
        )
        if not self.post_process:
            return pipeline_wire.join(
                hidden_states, media_features if self.media_needed_later else None
            )
        tied = self.share_embeddings_and_output_weights
        result: Tensor = self.output_layer(
            hidden_states,
            None if return_logits else batch.labels,
            rows=batch.supervised_rows,
            tied_weight=self.shared_embedding_or_output_weight() if tied else None,
        )
        return result[:num_tokens]

    def _embed(self, batch: PackedBatch, pack: PackContext) -> tuple[Tensor, Tensor | None]:
        """Embed the tokens and encode the tiles of a pack.

        Returns:
            Hidden states [t, 1, h], spliced media included, and media features for the layers that
            look at them, [m * p, 1, h], or None. Under sequence parallelism this rank's rows.
        """
        hidden_states = self.embedding(batch.tokens[None], position_ids=None)
        media_features = self.encode(batch.pixel_values)
        if torch.is_grad_enabled() and not media_features.requires_grad:
            # Recomputed layers learn only where one of their inputs has a gradient.
            hidden_states.requires_grad_()
        if not self.splices:
            return hidden_states, media_features
        # Without tiles nothing moves, but the projector still stands behind the result.
        hidden_states = hidden_states.index_copy(0, pack.media_rows, media_features)
        if self.config.sequence_parallel:
            hidden_states = scatter_to_sequence_parallel_region(
                hidden_states, group=self.pg_collection.tp
            )
        return hidden_states, None

    def encode(self, pixel_values: Tensor) -> Tensor:
        """Encode tiles and project them to decoder width: [m, 3, s, s] to [m * p, 1, h].

        With no tiles the result is empty but still has the projector behind it, so that every
        parameter gets a gradient in every micro-batch, on every rank. Under sequence parallelism
        each rank keeps its share of the rows that layers look at; rows to splice stay complete.
        """
        with torch.set_grad_enabled(torch.is_grad_enabled() and self._tower_learns()):
            features = self.vision_tower(pixel_values)
        projected = self.projector(features.flatten(0, 1)[:, None])
        if self.config.sequence_parallel and not self.splices:
            return sequence_sharding.share_rows(projected, self.pg_collection.tp)
        return projected

    def _tower_learns(self) -> bool:
        return any(parameter.requires_grad for parameter in self.vision_tower.parameters())

    def _rows_shared_by(self) -> int:
        """Ranks that share the rows of hidden states between linear layers."""
        return self.pg_collection.tp.size() if self.config.sequence_parallel else 1
