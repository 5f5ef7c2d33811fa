# SPDX-License-Identifier: Apache-2.0
"""transformers' own tests of models, generation and configs, for the three variants of Owl3.

Copied into a tests tree of transformers, whose package `tests` this file imports; see __main__.
"""

import copy
import unittest

import torch

from owl.families.owl3.variants_owl3 import VARIANTS
from owl.hf import Owl3Config, Owl3ForConditionalGeneration
from tests.generation.test_utils import GenerationTesterMixin
from tests.test_configuration_common import ConfigTester
from tests.test_modeling_common import ModelTesterMixin, floats_tensor, ids_tensor


class Owl3Tester:
    """A batch of three samples of one tile each, and a config with one hyper layer."""

    variant = ""
    batch_size, seq_length, vocab_size = 3, 11, 99
    encoder_seq_length = key_length = seq_length
    num_hidden_layers, hidden_size, num_attention_heads = 2, 32, 4
    is_training = True
    vision_config = {  # noqa: RUF012 - read by the mixins
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": 28,
        "patch_size": 14,
    }

    def get_config(self):
        choices = VARIANTS[self.variant]
        return Owl3Config(
            vocab_size=self.vocab_size,
            hidden_size=self.hidden_size,
            intermediate_size=48,
            num_hidden_layers=self.num_hidden_layers,
            num_attention_heads=self.num_attention_heads,
            num_key_value_heads=2,
            max_position_embeddings=512,
            hyper_layers=[2],
            fusion=choices.fusion,
            projector=choices.projector,
            media_position_shift=choices.media_position_shift,
            template=choices.template,
            tie_word_embeddings=self.variant == "241014",
            pad_token_id=0,
            bos_token_id=1,
            eos_token_id=2,
            vision_config=dict(self.vision_config),
        )

    def prepare_config_and_inputs_for_common(self):
        tokens = ids_tensor([self.batch_size, self.seq_length], self.vocab_size - 3) + 3
        side = self.vision_config["image_size"]
        return self.get_config(), {
            "input_ids": tokens,
            "attention_mask": torch.ones_like(tokens),
            "pixel_values": floats_tensor([self.batch_size, 3, side, side]),
            "media_offset": torch.full((self.batch_size, 1), 2),
        }


class Owl3Suite(ModelTesterMixin, GenerationTesterMixin):
    """What the mixins ask of a model's tests."""

    variant = ""
    all_model_classes = all_generative_model_classes = (Owl3ForConditionalGeneration,)
    pipeline_model_mapping = {"image-text-to-text": Owl3ForConditionalGeneration}  # noqa: RUF012
    # Tests that transformers 5 no longer has.
    test_headmasking = test_pruning = test_torchscript = fx_compatible = False
    _is_composite = True

    def setUp(self):
        self.model_tester = Owl3Tester()
        self.model_tester.variant = self.variant
        choices = VARIANTS[self.variant]
        names = ["hidden_size", "num_attention_heads", "num_hidden_layers", "vocab_size"]
        self.config_tester = ConfigTester(
            self, config_class=Owl3Config, has_text_modality=True, common_properties=names,
            hyper_layers=[2], fusion=choices.fusion, projector=choices.projector,
            media_position_shift=choices.media_position_shift, template=choices.template,
        )  # fmt: skip

    def _prepare_for_class(self, inputs_dict, model_class, return_labels=False):
        # The mixin makes labels only for classes in transformers' own lists.
        made = dict(super()._prepare_for_class(inputs_dict, model_class, return_labels))
        return made | ({"labels": copy.deepcopy(made["input_ids"])} if return_labels else {})

    def test_config(self):
        self.config_tester.run_common_tests()


class Owl3V240728Test(Owl3Suite, unittest.TestCase):
    variant = "240728"


class Owl3V241014Test(Owl3Suite, unittest.TestCase):
    variant = "241014"


class Owl3V241101Test(Owl3Suite, unittest.TestCase):
    variant = "241101"
