# SPDX-License-Identifier: Apache-2.0
"""transformers' own tests of models, generation and configs, for mPLUG-Owl2 and mPLUG-Owl.

Copied into a tests tree of transformers, whose package `tests` this file imports; see __main__.
"""

import copy
import unittest

import torch

from owl.hf import (
    Owl1Config,
    Owl1ForConditionalGeneration,
    Owl2Config,
    Owl2ForConditionalGeneration,
)
from tests.generation.test_utils import GenerationTesterMixin
from tests.test_configuration_common import ConfigTester
from tests.test_modeling_common import ModelTesterMixin, floats_tensor, ids_tensor

TOWER = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
}
ABSTRACTOR = {"num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 20}
QUERIES = 2
TEXT = {
    "vocab_size": 99,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "max_position_embeddings": 512,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


def owl1_fields() -> dict:
    return {
        "text_config": dict(TEXT),
        "vision_config": dict(TOWER),
        "visual_abstractor_config": dict(ABSTRACTOR),
        "num_query_tokens": QUERIES,
    }


def owl2_fields() -> dict:
    abstractor = ABSTRACTOR | {"num_learnable_queries": QUERIES}
    return TEXT | {"visual_config": {"visual_model": dict(TOWER), "visual_abstractor": abstractor}}


class Tester:
    """A batch of three rows with one picture each."""

    batch_size, seq_length, vocab_size = 3, 11, 99
    encoder_seq_length = key_length = seq_length
    num_hidden_layers, hidden_size, num_attention_heads = 2, 32, 4
    is_training = True

    def __init__(self, config_class, fields):
        self.config_class, self.fields = config_class, fields

    def get_config(self):
        return self.config_class(**self.fields())

    def prepare_config_and_inputs_for_common(self):
        tokens = ids_tensor([self.batch_size, self.seq_length], self.vocab_size - 3) + 3
        side = TOWER["image_size"]
        return self.get_config(), {
            "input_ids": tokens,
            "attention_mask": torch.ones_like(tokens),
            "pixel_values": floats_tensor([self.batch_size, 3, side, side]),
            "media_offset": torch.full((self.batch_size, 1), 2),
        }


class SplicedSuite(ModelTesterMixin, GenerationTesterMixin):
    """What the mixins ask of a model's tests."""

    # Tests that transformers 5 no longer has.
    test_headmasking = test_pruning = test_torchscript = fx_compatible = False
    _is_composite = True

    def setUp(self):
        self.model_tester = Tester(self.config_class, type(self).fields)
        names = ["hidden_size", "num_attention_heads", "num_hidden_layers", "vocab_size"]
        self.config_tester = ConfigTester(
            self, config_class=self.config_class, has_text_modality=True, common_properties=names
        )

    def _prepare_for_class(self, inputs_dict, model_class, return_labels=False):
        # The mixin makes labels only for classes in transformers' own lists.
        made = dict(super()._prepare_for_class(inputs_dict, model_class, return_labels))
        return made | ({"labels": copy.deepcopy(made["input_ids"])} if return_labels else {})

    def test_config(self):
        self.config_tester.run_common_tests()


class Owl2Test(SplicedSuite, unittest.TestCase):
    config_class, fields = Owl2Config, staticmethod(owl2_fields)
    all_model_classes = all_generative_model_classes = (Owl2ForConditionalGeneration,)
    pipeline_model_mapping = {"image-text-to-text": Owl2ForConditionalGeneration}  # noqa: RUF012


class Owl1Test(SplicedSuite, unittest.TestCase):
    config_class, fields = Owl1Config, staticmethod(owl1_fields)
    all_model_classes = all_generative_model_classes = (Owl1ForConditionalGeneration,)
    pipeline_model_mapping = {"image-text-to-text": Owl1ForConditionalGeneration}  # noqa: RUF012
