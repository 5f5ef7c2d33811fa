# SPDX-License-Identifier: Apache-2.0
"""The portable parts are enough for the inference code of another family, a toy made of them."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.nn.functional import rms_norm, silu
from transformers import AutoConfig, AutoModel, AutoProcessor, PreTrainedModel

from owl.hf import AUTO_CLASSES, register
from owl.hf.liger import set_kernels
from owl.portable.blocks_owl import OwlAttention, OwlMLP, OwlRMSNorm
from owl.portable.decoder_config_owl import OwlDecoderConfig
from owl.portable.loss_owl import IGNORE_INDEX
from owl.portable.marks_owl import ChatFormat, Mark, split_marks
from owl.portable.pictures_owl import load_picture
from owl.portable.pieces_owl import Text, Tile
from owl.portable.pixels_owl import resize_with_pillow
from owl.portable.processing_owl import OwlProcessor
from owl.portable.rotary_owl import TextContext, causal_mask, rotary
from owl.portable.tokenizer_owl import load_hf_tokenizer
from tests.unit.data.shard_factory import write_tokenizer


class ToyConfig(OwlDecoderConfig):
    model_type = "toyowl"

    def __init__(self, **kwargs):
        super().__init__(**kwargs)


class ToyModel(PreTrainedModel):
    config_class = ToyConfig
    _supports_sdpa = True

    def __init__(self, config):
        super().__init__(config)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.self_attn, self.mlp = OwlAttention(config, 0), OwlMLP(config)
        self.norm = OwlRMSNorm(config.hidden_size, config.rms_norm_eps)
        self.post_init()

    def forward(self, input_ids):
        rows, length = input_ids.shape
        positions = torch.arange(length).expand(rows, -1)
        table = rotary(positions, head_dim=self.config.head_dim, theta=1e4, dtype=torch.float32)
        mask = causal_mask(None, length, length, input_ids.device)
        context = TextContext(table, positions, mask, mask is None, None, length)
        hidden = self.embed_tokens(input_ids)
        hidden = hidden + self.self_attn(self.norm(hidden), context)
        return hidden + self.mlp(self.norm(hidden))


def render(turns, open_prompt):
    for turn in turns:
        yield Text(f"{turn.role}:")
        yield from turn.to_pieces().content
    if open_prompt:
        yield Text("assistant:")


def parse(text):
    return (part if isinstance(part, Mark) else Text(part) for part in split_marks(text))


class ToyProcessor(OwlProcessor):
    """One tile of 4 x 6 pixels a picture, and no control tokens in its format."""

    chat = ChatFormat(render, parse)
    settings = ()

    def __init__(self, tokenizer):
        super().__init__(tokenizer, chat_template="{{ messages }}")

    @classmethod
    def from_pretrained(cls, folder, **kwargs):
        return cls(load_hf_tokenizer(folder))

    def write_picture(self, source, options, row):
        pixels = torch.tensor(list(load_picture(source).tobytes()), dtype=torch.uint8)
        row.tiles.append(resize_with_pillow(pixels.view(8, 8, 3).numpy(), 4, 6)[None])
        yield from (Text("<"), Tile(), Text(">"))

    def normalise(self, tiles):
        return tiles / 255


@pytest.fixture
def folder(tmp_path):
    register(ToyConfig, ToyModel, ToyProcessor)
    torch.manual_seed(0)
    sizes = {"vocab_size": 259, "hidden_size": 16, "intermediate_size": 24}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2}
    ToyModel(ToyConfig(**sizes, **heads)).save_pretrained(tmp_path)
    write_tokenizer(tmp_path)
    yield tmp_path
    del AUTO_CLASSES["toyowl"]


def test_the_auto_classes_load_it(folder):
    assert isinstance(AutoConfig.from_pretrained(folder), ToyConfig)
    model = AutoModel.from_pretrained(folder)
    assert isinstance(model, ToyModel)
    assert isinstance(AutoProcessor.from_pretrained(folder), ToyProcessor)
    tokens = torch.tensor([[1, 2, 3, 4]])
    torch.testing.assert_close(model(tokens)[:, :3], model(tokens[:, :3]))  # causal


def test_its_processor_writes_its_own_format_and_tiles(folder):
    processor = AutoProcessor.from_pretrained(folder)
    picture = torch.full((8, 8, 3), 51, dtype=torch.uint8)
    messages = [{"role": "user", "content": "a<|image|>"}, {"role": "assistant", "content": "b"}]
    batch = processor(messages, images=[picture], inference_mode=False)

    text = "user:a<<|image|>>assistant:b"
    (tokens,) = batch["input_ids"].tolist()
    assert processor.tokenizer.decode(tokens) == text
    assert [tile.tolist() for tile in batch["media_offset"]] == [[text.index("<<") + 1]]
    assert batch["pixel_values"].shape == (1, 3, 4, 6)
    torch.testing.assert_close(batch["pixel_values"], torch.full((1, 3, 4, 6), 0.2))
    assert batch["labels"].tolist() == [[IGNORE_INDEX] * (len(text) - 1) + tokens[-1:]]


def test_its_blocks_take_other_kernels(folder):
    model = AutoModel.from_pretrained(folder)
    tokens = torch.tensor([[1, 2, 3, 4]])
    expected = model(tokens)
    calls = SimpleNamespace(norm=0)

    def norm(hidden_states, weight, eps):
        calls.norm += 1
        return rms_norm(hidden_states, weight.shape, weight, eps)

    assert set_kernels(model, norm, lambda gate, up: silu(gate) * up) == 2
    torch.testing.assert_close(model(tokens), expected)
    assert calls.norm == 2
