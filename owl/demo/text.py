# SPDX-License-Identifier: Apache-2.0
"""The demo's language: a few words, a tokenizer for them, and text to learn its grammar from."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import cycle
from pathlib import Path
from random import Random

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor

from owl.config.run import FamilyKind
from owl.data.encode.encoder import SampleEncoder
from owl.data.encode.template import render_sample
from owl.data.encode.tokenizer import load_tokenizer
from owl.data.families import Reading, reading_of
from owl.data.shards.document import Document
from owl.data.shards.schema import Json
from owl.data.shown import CutChoice
from owl.demo.digits import WORDS
from owl.demo.families import DEMOS, tiny_model
from owl.demo.samples import (
    ORDINALS,
    Dialogue,
    Kind,
    draw_kind,
    draw_labels,
    make_dialogue,
    to_document,
)
from owl.portable.pieces_owl import Text, Tile, join_text

_PUNCTUATION = ("\n", "<", "|", ">", ".", ",", "?", ":")
_WORDS = (
    *WORDS,
    *ORDINALS,
    *("What", "Which", "Name", "How", "This", "That", "The", "Here", "Yes", "No", "It", "A"),
    *("is", "are", "does", "show", "shows", "the", "this", "a", "an", "of", "and", "in", "not"),
    *("picture", "pictures", "digit", "digits", "number", "many", "last", "next"),
)


def vocabulary(family: FamilyKind) -> tuple[str, ...]:
    """List the words of a family's demo: token i is the i-th.

    Their number is odd, so that a tensor-parallel run has to pad the vocabulary.
    """
    demo = DEMOS[family]
    markup = re.findall(r"[A-Za-z]+|[^\sA-Za-z]", demo.MARKUP)
    words = tuple(dict.fromkeys((*demo.SPECIAL, *_PUNCTUATION, *markup, *_WORDS)))
    return words if len(words) % 2 else (*words, "<pad>")


VOCABULARY = vocabulary(FamilyKind.owl3)
"""The 63 words of Owl3's demo."""

TEXT_MIXTURE: Mapping[Kind, float] = {
    Kind.single: 1,
    Kind.several: 2,
    Kind.finding: 2,
    Kind.captions: 1,
    Kind.listing: 1,
    Kind.places: 4,
}
UNSEEN_SHARE = 0.2
"""Share of the text whose pictures are blank placeholders, so that answers must be guessed."""


def build_tokenizer(family: FamilyKind = FamilyKind.owl3) -> Tokenizer:
    """Build a tokenizer with a token for each word, punctuation mark and newline, none for spaces.

    Decoding puts a space before every word that follows a word or one of `.,?:`, which restores
    ordinary sentences.
    """
    ids = {word: index for index, word in enumerate(vocabulary(family))}
    tokenizer = Tokenizer(models.WordLevel(ids, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(" ", behavior="removed"),
            pre_tokenizers.Split(Regex(r"\n|[^\sA-Za-z]"), behavior="isolated"),
        ]
    )
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace(Regex(r"^(?=[A-Za-z])"), " "),
            decoders.Fuse(),
            decoders.Replace(Regex(r"(?<![A-Za-z.,?:]) "), ""),
        ]
    )
    tokenizer.add_special_tokens(list(demo_reading(family).controls))
    return tokenizer


def save_tokenizer(folder: Path, family: FamilyKind = FamilyKind.owl3) -> None:
    """Write tokenizer.json, and the config that lets transformers' AutoTokenizer load it."""
    folder.mkdir(parents=True, exist_ok=True)
    build_tokenizer(family).save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        **DEMOS[family].TOKENS,
        "unk_token": "<unk>",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2))


def open_encoder(tokenizer: Path, reading: Reading | None = None) -> SampleEncoder:
    """Open the encoder that the trainer uses; Owl3's demo reads if no reading is given."""
    reading = reading or demo_reading()
    return SampleEncoder(load_tokenizer(tokenizer, reading.controls), reading)


def demo_reading(family: FamilyKind = FamilyKind.owl3, template: str | None = None) -> Reading:
    """How a family's demo reads samples; with its model's own template if none is given."""
    model = tiny_model(family)
    return reading_of(replace(model, template=template or model.template))


def text_encoders(tokenizer: Path, family: FamilyKind) -> list[SampleEncoder]:
    """Open an encoder for each template in which the language model meets its text."""
    return [
        open_encoder(tokenizer, demo_reading(family, template))
        for template in DEMOS[family].TEMPLATES
    ]


@dataclass(frozen=True, slots=True)
class TextSample:
    """What a language model reads, and which of it counts."""

    tokens: Tensor  # [t] int64
    loss_weights: Tensor  # [t]


def draw_text(encoders: Sequence[SampleEncoder], rng: Random) -> Iterator[TextSample]:
    """Draw endless text about digits, in the templates that are used with pictures, by turns.

    Most of it names each digit inside the placeholder, `<|seven|>`, so that answers can be looked
    up. The rest has `<|image|>`, as in training with pictures, and random answers.
    """
    for encoder in cycle(encoders):
        kind = draw_kind(TEXT_MIXTURE, rng)
        dialogue = make_dialogue(kind, draw_labels(kind, rng), rng)
        blank = rng.random() < UNSEEN_SHARE
        yield encode_text(encoder, dialogue, blank=blank)


def encode_text(encoder: SampleEncoder, dialogue: Dialogue, *, blank: bool) -> TextSample:
    """Encode a dialogue with words in the place of its tiles: `<|seven|>`; `<|image|>` if blank."""
    names = iter(["image" if blank else WORDS[label] for label in dialogue.labels])
    media = [{"type": "image", "file": f"{place}"} for place in range(len(dialogue.labels))]
    document = Document.from_json(to_document(dialogue, "text", media))
    places = encoder.places(document, {}, CutChoice.none)
    pieces = render_sample(document, places, encoder.reading)
    worded = (Text(f"<|{next(names)}|>") if piece == Tile() else piece for piece in pieces)
    tokens: list[int] = []
    weights: list[float] = []
    for piece in join_text(worded):
        assert not isinstance(piece, Tile), "words have taken their places"
        if isinstance(piece, Text):
            ids = encoder.tokenizer.encode(piece.text)
        else:
            ids = [encoder.tokenizer.control_id(piece.literal)]
        tokens += ids
        weights += [piece.weight] * len(ids)
    return TextSample(torch.tensor(tokens), torch.tensor(weights))


def in_words(dialogue: Dialogue) -> Dialogue:
    """Write a dialogue without pictures: `<|seven|>` in the place of each."""

    def worded(part: Json) -> Json:
        if "media" not in part:
            return part
        # Read but not learned, like the placeholder in its place.
        return {"text": f"<|{WORDS[dialogue.labels[part['media']]]}|>", "loss": False}

    turns: list[Json] = [
        {**turn, "content": [worded(part) for part in turn["content"]]} for turn in dialogue.turns
    ]
    return replace(dialogue, turns=turns)
