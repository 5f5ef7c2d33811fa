# SPDX-License-Identifier: Apache-2.0
import pytest

from owl.config.run import CutPolicy, LiteralPolicy
from owl.data.collate import collate
from owl.data.encode.encoder import EMPTY_KEY, SampleEncoder
from owl.data.encode.images import picture_size
from owl.data.encode.tokenizer import load_tokenizer
from owl.data.samples import RawSample
from owl.data.shards.document import Document
from owl.data.shown import CutChoice, choose_cut
from owl.errors import DataError
from owl.families.owl3.reading import Owl3Reading
from owl.portable.pieces_owl import Tile
from tests.unit.data.shard_factory import (
    IMAGE_SIZE,
    QWEN2,
    chat,
    files_of,
    picture,
    write_tokenizer,
)

EOT, START, END = 256, 257, 258  # of the byte tokenizer


@pytest.fixture
def encoder(tmp_path):
    return SampleEncoder(load_tokenizer(write_tokenizer(tmp_path)), Owl3Reading("v2", IMAGE_SIZE))


def placeholder_of(encoder):
    return encoder.reading.placeholder(encoder.tokenizer, Tile())


def raw(document, **options):
    return RawSample(
        key="k",
        shard="s.tar",
        document=Document.from_json(document),
        files=files_of(document, **options),
    )


def document(*content, media=(), **turn):
    return {
        "schema": "owl3-sample/1",
        "id": "d",
        "kind": "document",
        "media": list(media),
        "turns": [{"role": "document", "content": list(content), **turn}],
    }


def clip(*files):
    return {"type": "frames", "files": list(files)}


def readable(encoder, sample):
    """Write a sample with its control tokens, and its learned stretches in square brackets."""
    names = {EOT: "<|endoftext|>", START: "<|im_start|>", END: "<|im_end|>"}
    text, learning = "", False
    for token, weight in zip(sample.tokens.tolist(), sample.loss_weights.tolist(), strict=True):
        text += "[" * (weight > 0 and not learning) + "]" * (weight == 0 and learning)
        learning = weight > 0
        text += names.get(token) or encoder.tokenizer.decode([token])
    return text + "]" * learning


def encoded(encoder, sample, cut=CutChoice.none):
    return encoder.encode(sample, source="a", cut=cut)


def test_a_chat_has_an_empty_system_prompt_and_newlines_before_turns(encoder):
    sample = encoded(encoder, raw(chat("Who?", "Owl.", pictures=1)))
    assert readable(encoder, sample) == (
        "<|im_start|>system\n<|im_end|>\n<|im_start|>user\n<|image|>Who?<|im_end|>"
        "\n<|im_start|>assistant\n[Owl.<|im_end|><|endoftext|>]"
    )


def test_every_answer_is_learned_but_the_text_ends_once(encoder):
    sample = chat("A?", "B.")
    sample["turns"] = [
        {"role": "system", "content": [{"text": "Be kind."}]},
        *sample["turns"],
        *chat("C?", "D.")["turns"],
    ]
    assert readable(encoder, encoded(encoder, raw(sample))) == (
        "<|im_start|>system\nBe kind.<|im_end|>"
        "\n<|im_start|>user\nA?<|im_end|>\n<|im_start|>assistant\n[B.<|im_end|>]"
        "\n<|im_start|>user\nC?<|im_end|>\n<|im_start|>assistant\n[D.<|im_end|><|endoftext|>]"
    )


def test_a_document_learns_its_text_but_not_its_placeholders(encoder):
    sample = document({"text": "An "}, {"media": 0}, {"text": "owl"}, media=[image()])
    assert readable(encoder, encoded(encoder, raw(sample))) == "[An ]<|image|>[owl<|endoftext|>]"


def image(**options):
    return {"type": "image", "file": "m0.jpg", **options}


def test_loss_and_weight_can_be_set_for_a_turn_and_for_a_part(encoder):
    sample = document({"text": "no", "loss": False}, {"text": "yes", "weight": 2.0}, weight=0.5)
    weights = encoded(encoder, raw(sample)).loss_weights.tolist()
    assert weights == [0.0, 0.0, 2.0, 2.0, 2.0, 0.5]


def test_media_offsets_point_at_the_first_token_of_each_placeholder(encoder):
    sample = encoded(encoder, raw(chat("x", pictures=2)))
    placeholder = placeholder_of(encoder)
    for offset in sample.media_offset:
        assert sample.tokens[offset : offset + len(placeholder)].tolist() == placeholder
    assert sample.media_offset[1] - sample.media_offset[0] == len(placeholder)
    assert sample.tiles.shape == (2, 3, IMAGE_SIZE, IMAGE_SIZE)


def test_a_sample_without_pictures_has_no_tiles(encoder):
    sample = encoded(encoder, raw(chat()))
    assert sample.media_offset == []
    assert sample.tiles.shape == (0, 3, IMAGE_SIZE, IMAGE_SIZE)


def test_a_clip_shows_the_frames_it_is_asked_for(encoder):
    media = clip("f0.jpg", "f1.jpg", "f2.jpg")
    sample = document({"media": 0, "frames": [1, 3]}, {"text": "x"}, media=[media])
    files = {name: picture(seed=number) for number, name in enumerate(media["files"])}
    whole = RawSample(key="k", shard="s", document=Document.from_json(sample), files=files)
    result = encoded(encoder, whole)
    assert readable(encoder, result) == "<|image|><|image|>[x<|endoftext|>]"
    alone = RawSample(
        key="k",
        shard="s",
        files={"m0.jpg": files["f2.jpg"]},
        document=Document.from_json(document({"media": 0}, {"text": "x"}, media=[image()])),
    )
    assert result.tiles[1].equal(encoded(encoder, alone).tiles[0])


def test_the_three_marks_of_v3_surround_cells_and_frames(tmp_path):
    encoder = SampleEncoder(
        load_tokenizer(write_tokenizer(tmp_path)), Owl3Reading("v3", IMAGE_SIZE)
    )
    sample = raw(chat("x", "y", pictures=1), width=64, height=48)
    assert "<|start_cut|>2*3\n<|image|> <|image|> <|image|>\n<|image|> <|image|> <|image|>\n" + (
        "<|image|><|end_cut|>x"
    ) in readable(encoder, encoded(encoder, sample, CutChoice.single))


def test_v2_writes_a_coordinate_before_each_cell(encoder):
    sample = raw(chat("x", "y", pictures=1), width=48, height=48)
    text = readable(encoder, encoded(encoder, sample, CutChoice.single))
    assert (
        "Cut to 2 rows 2 columns with a global view\n"
        "subimg(0,0)<|image|> subimg(0,1)<|image|>\nsubimg(1,0)<|image|> subimg(1,1)<|image|>\n"
        "global_view<|image|>x"
    ) in text


def test_offsets_of_a_cut_picture_are_those_recorded_from_a_published_run():
    encoder = SampleEncoder(load_tokenizer(QWEN2), Owl3Reading("v3", 378))
    sample = raw(chat("What is it?", pictures=1), width=640, height=480)
    result = encoded(encoder, sample, CutChoice.single)
    assert result.media_offset == [18, 24, 30, 36, 42, 48, 54]


def test_a_text_only_chat_has_the_published_ids():
    encoder = SampleEncoder(load_tokenizer(QWEN2), Owl3Reading("v3", 378))
    tokens = encoded(encoder, raw(chat("Hi", "Yes"))).tokens.tolist()
    question, answer = encoder.tokenizer.encode("Hi"), encoder.tokenizer.encode("Yes")
    assert tokens == [
        *(151644, 8948, 198, 151645, 198, 151644, 872, 198, *question, 151645),
        *(198, 151644, 77091, 198, *answer, 151645, 151643),
    ]


def test_an_answer_reads_the_same_after_an_open_prompt():
    # "\n" + "\nNo" would be one token for the two newlines, were the header part of the text.
    encoder = SampleEncoder(load_tokenizer(QWEN2), Owl3Reading("v2", 384))
    for loss in (True, False):
        sample = chat("Hi", "\nNo")
        sample["turns"][1]["loss"] = loss
        prompt = encoder.encode_prompt(raw(sample)).tokens.tolist()
        assert encoded(encoder, raw(sample)).tokens.tolist()[: len(prompt)] == prompt


def test_an_open_prompt_ends_where_the_answer_begins_and_learns_nothing(encoder):
    whole = raw(chat("Who?", "Owl.", pictures=1))
    prompt = encoder.encode_prompt(whole)
    assert readable(encoder, prompt).endswith("Who?<|im_end|>\n<|im_start|>assistant\n")
    assert prompt.loss_weights.sum() == 0
    assert prompt.tiles.equal(encoded(encoder, whole).tiles)


def test_earlier_answers_in_an_open_prompt_are_context(encoder):
    sample = chat("A?", "B.")
    sample["turns"] += chat("C?", "D.")["turns"]
    prompt = encoder.encode_prompt(raw(sample))
    assert "B.<|im_end|>" in readable(encoder, prompt)
    assert prompt.loss_weights.tolist() == [0.0] * prompt.num_tokens


def test_an_open_prompt_may_come_without_an_answer(encoder):
    asked = chat("Who?")
    asked["turns"].pop()
    assert encoder.encode_prompt(raw(asked)).tokens.equal(
        encoder.encode_prompt(raw(chat("Who?"))).tokens
    )


@pytest.mark.parametrize("template", ["v2", "v3"])
@pytest.mark.parametrize("cut", list(CutChoice))
@pytest.mark.parametrize("mode", ["auto", "on", "off"])
@pytest.mark.parametrize("pictures", [0, 1, 2])
def test_measured_lengths_are_those_of_the_encoded_sample(tmp_path, template, cut, mode, pictures):
    encoder = SampleEncoder(
        load_tokenizer(write_tokenizer(tmp_path)), Owl3Reading(template, IMAGE_SIZE)
    )
    sample = raw(chat("Wh\u00f6?", pictures=pictures, cut=mode), width=40, height=20)
    sizes = {name: picture_size(data) for name, data in sample.files.items()}
    result = encoded(encoder, sample, cut)
    assert encoder.measure(sample.document, sizes, cut) == (result.num_tokens, result.num_tiles)


def test_only_marked_pictures_and_single_ones_are_cut(encoder):
    def tiles(cut, pictures, mode):
        sample = raw(chat(pictures=pictures, cut=mode), width=16, height=16)
        return encoded(encoder, sample, cut).num_tiles

    assert [tiles(cut, 1, "auto") for cut in CutChoice] == [1, 1, 5]
    assert [tiles(cut, 1, "on") for cut in CutChoice] == [1, 5, 5]
    assert [tiles(cut, 1, "off") for cut in CutChoice] == [1, 1, 1]
    assert [tiles(cut, 2, "auto") for cut in CutChoice] == [2, 2, 2]


def test_a_fifth_of_the_single_pictures_is_cut_as_published():
    choices = [
        choose_cut(
            CutPolicy.published, published_share=0.2, seed=1, source="a", epoch=0, index=index
        )
        for index in range(4000)
    ]
    assert set(choices) == {CutChoice.marked, CutChoice.single}
    assert choices.count(CutChoice.single) / 4000 == pytest.approx(0.2, abs=0.02)


def test_the_cut_choice_depends_on_its_key_alone():
    def choose(**key):
        full = {"seed": 1, "source": "a", "epoch": 0, "index": 0} | key
        return choose_cut(CutPolicy.published, published_share=0.2, **full)

    assert [choose(index=i) for i in range(50)] == [choose(index=i) for i in range(50)]
    assert [choose(index=i) for i in range(50)] != [choose(index=i, epoch=1) for i in range(50)]
    assert (
        choose_cut(CutPolicy.off, published_share=0.2, seed=1, source="a", epoch=0, index=0)
        is CutChoice.none
    )
    assert (
        choose_cut(CutPolicy.on, published_share=0.2, seed=1, source="a", epoch=0, index=0)
        is CutChoice.single
    )


LITERALS = ["<|image|>", "<|im_start|>", "<|im_end|>", "<|endoftext|>", "<image>", "<|end_cut|>"]


def contains(tokens, ids):
    return any(tokens[i : i + len(ids)] == ids for i in range(len(tokens) - len(ids) + 1))


@pytest.mark.parametrize("literal", LITERALS)
def test_escaped_markup_reads_the_same_but_is_neither_placeholder_nor_control(literal):
    tokenizer = load_tokenizer(QWEN2)
    escaping = SampleEncoder(tokenizer, Owl3Reading("v3", 378), literals=LiteralPolicy.escape)
    question = f"What does {literal} mean, or {literal}{literal}?"
    sample = encoded(escaping, raw(chat(question, literal)))
    tokens = sample.tokens.tolist()
    assert question in tokenizer.decode(tokens)
    assert not contains(tokens, placeholder_of(escaping))
    assert sample.media_offset == []
    controls = [token for token in tokens if tokenizer.decode([token]) == ""]
    assert len(controls) == 7  # what a chat of one question has, and no more


def test_markup_that_hides_across_parts_is_escaped_too():
    tokenizer = load_tokenizer(QWEN2)
    escaping = SampleEncoder(tokenizer, Owl3Reading("v2", 384), literals=LiteralPolicy.escape)
    for first in range(1, 9):
        halves = ("<|image|>"[:first], "<|image|>"[first:])
        parts = [{"text": half, "weight": 1.0 + n} for n, half in enumerate(halves)]
        sample = encoded(escaping, raw(document(*parts)))
        tokens = sample.tokens.tolist()
        assert tokenizer.decode(tokens) == "<|image|>"
        assert not contains(tokens, placeholder_of(escaping))


def test_text_without_markup_is_encoded_alike_under_both_policies(encoder):
    escaping = SampleEncoder(
        encoder.tokenizer, Owl3Reading("v2", IMAGE_SIZE), literals=LiteralPolicy.escape
    )
    sample = raw(chat("2 < 3 |> x <b>", pictures=2))
    assert encoded(escaping, sample).tokens.equal(encoded(encoder, sample).tokens)
    assert escaping.name != encoder.name


def test_a_clip_shows_no_more_frames_than_its_budget(tmp_path, encoder):
    few = SampleEncoder(encoder.tokenizer, Owl3Reading("v2", IMAGE_SIZE), max_frames=2)
    media = clip("f0.jpg", "f1.jpg", "f2.jpg", "f3.jpg")
    sample = document({"media": 0}, {"text": "x"}, media=[media])
    files = {name: picture(seed=number) for number, name in enumerate(media["files"])}
    whole = RawSample(key="k", shard="s", document=Document.from_json(sample), files=files)
    all_tiles = encoded(encoder, whole).tiles
    assert encoded(few, whole).tiles.equal(all_tiles[[1, 3]])
    assert few.measure(Document.from_json(sample), {}, CutChoice.none) == (2 * 9 + 2, 2)


def test_an_empty_sample_is_one_token_that_teaches_nothing(encoder):
    batch = collate([encoder.empty()])
    assert (batch.tokens.tolist(), batch.keys) == ([EOT], (EMPTY_KEY,))
    assert batch.supervised_weight == 0
    assert batch.position_ids.tolist() == [0]
    assert batch.pixel_values.shape == (0, 3, IMAGE_SIZE, IMAGE_SIZE)


def test_the_names_of_cached_lengths_stay_the_same(tmp_path):
    tokenizer = load_tokenizer(write_tokenizer(tmp_path))
    plain = SampleEncoder(tokenizer, Owl3Reading("v3", 378))
    limited = SampleEncoder(
        tokenizer, Owl3Reading("v2", 384), max_frames=8, literals=LiteralPolicy.escape
    )
    assert plain.name == f"1 {tokenizer.content_hash} v3 378"
    assert limited.name == f"1 {tokenizer.content_hash} v2 384 frames<=8 escape"


def test_a_tokenizer_that_cannot_write_the_placeholder_is_refused(tmp_path):
    file = write_tokenizer(tmp_path) / "tokenizer.json"
    file.write_text(file.read_text().replace('"|":', '"||":'))
    with pytest.raises(DataError, match=r"E404.*cannot write"):
        SampleEncoder(load_tokenizer(tmp_path), Owl3Reading("v2", IMAGE_SIZE))
