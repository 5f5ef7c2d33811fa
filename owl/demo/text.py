# SPDX-License-Identifier: Apache-2.0
"""The demo's language: 63 words, a tokenizer for them, and text to learn its grammar from."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from random import Random

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

from owl.config.run import ModelConfig, VisionTowerConfig
from owl.data.encode.encoder import SampleEncoder
from owl.data.encode.tokenizer import load_tokenizer
from owl.data.families import Reading, reading_of
from owl.data.samples import EncodedSample, RawSample
from owl.data.shards.document import Document
from owl.data.shards.schema import CONTROL_LITERALS, Json
from owl.data.shown import CutChoice
from owl.demo.digits import IMAGE_SIZE, WORDS
from owl.demo.samples import (
    ORDINALS,
    Dialogue,
    Kind,
    draw_kind,
    draw_labels,
    make_dialogue,
    to_document,
)

VOCABULARY = (
    *CONTROL_LITERALS,
    "<unk>",
    *("\n", "<", "|", ">", ".", ",", "?", ":"),
    *("system", "user", "assistant", "image", "video"),
    *WORDS,
    *ORDINALS,
    *("What", "Which", "Name", "How", "This", "That", "The", "Here", "Yes", "No", "It", "A"),
    *("is", "are", "does", "show", "shows", "the", "this", "a", "an", "of", "and", "in", "not"),
    *("picture", "pictures", "digit", "digits", "number", "many", "last", "next"),
)
"""Token i is the i-th word. 63 is odd, so a tensor-parallel run has to pad the vocabulary."""

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


def build_tokenizer() -> Tokenizer:
    """Build a tokenizer with a token for each word, punctuation mark and newline, none for spaces.

    Decoding puts a space before every word that follows a word or one of `.,?:`, which restores
    ordinary sentences.
    """
    ids = {word: index for index, word in enumerate(VOCABULARY)}
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
    tokenizer.add_special_tokens(list(CONTROL_LITERALS))
    return tokenizer


def save_tokenizer(folder: Path) -> None:
    """Write tokenizer.json, and the config that lets transformers' AutoTokenizer load it."""
    folder.mkdir(parents=True, exist_ok=True)
    build_tokenizer().save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
        "unk_token": "<unk>",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2))


def open_encoder(tokenizer: Path) -> SampleEncoder:
    """Open the encoder that the trainer uses, with the demo's template and tile size."""
    reading = demo_reading()
    return SampleEncoder(load_tokenizer(tokenizer, reading.controls), reading)


def demo_reading() -> Reading:
    """How the demo's models read samples."""
    return reading_of(ModelConfig(vision_tower=VisionTowerConfig(image_size=IMAGE_SIZE)))


def draw_text(encoder: SampleEncoder, rng: Random) -> Iterator[EncodedSample]:
    """Draw endless text about digits, in the template that is used with pictures.

    Most of it names each digit inside the placeholder, `<|seven|>`, so that answers can be looked
    up. The rest has `<|image|>`, as in training with pictures, and random answers.
    """
    while True:
        kind = draw_kind(TEXT_MIXTURE, rng)
        dialogue = make_dialogue(kind, draw_labels(kind, rng), rng)
        blank = rng.random() < UNSEEN_SHARE
        yield encode_text(encoder, dialogue, blank=blank)


def encode_text(encoder: SampleEncoder, dialogue: Dialogue, *, blank: bool) -> EncodedSample:
    """Encode a dialogue with words for its pictures: `<|seven|>`, or `<|image|>` when blank."""
    names = ["image" if blank else WORDS[label] for label in dialogue.labels]
    turns: list[Json] = [
        {"role": turn["role"], "content": [_in_words(part, names) for part in turn["content"]]}
        for turn in dialogue.turns
    ]
    worded = Dialogue(kind=dialogue.kind, labels=dialogue.labels, turns=turns)
    document = Document.from_json(to_document(worded, "text", []))
    raw = RawSample(key="text", shard="", document=document, files={})
    return encoder.encode(raw, source="text", cut=CutChoice.none)


def _in_words(part: Json, names: list[str]) -> Json:
    if "media" not in part:
        return part
    text = f"<|{names[part['media']]}|>"
    return {"text": text, "loss": False}  # like the placeholder in its place
