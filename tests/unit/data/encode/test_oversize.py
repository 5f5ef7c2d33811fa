# SPDX-License-Identifier: Apache-2.0
from itertools import islice

import pytest
from hypothesis import given
from hypothesis import strategies as st

from owl.config.run import CutPolicy, DataConfig, OversizePolicy, PackConfig, SourceConfig
from owl.curate.prepare import prepare_folder
from owl.data.encode.cuts import UNIT_CHARACTERS, break_text
from owl.data.encode.oversize import choose_frames
from owl.data.encode.tokenizer import Tokenizer
from owl.data.loader import Loader
from owl.data.samples import Cursor
from owl.data.shown import CutChoice
from owl.errors import DataError
from owl.portable.pieces_owl import Tile
from tests.unit.data.shard_factory import (
    QWEN2,
    chat,
    data_config,
    make_loader,
    picture,
    write_shard,
)

PLACEHOLDER = len("<|image|>")  # tokens of the byte tokenizer


def document(*content, media=()):
    return {
        "schema": "owl3-sample/1",
        "id": "d",
        "kind": "document",
        "media": list(media),
        "turns": [{"role": "document", "content": list(content)}],
    }


def long_chat(rounds, length=20):
    sample = chat("q" * length, "a" * length)
    sample["turns"] = sample["turns"] * rounds
    return sample


def clip(frames):
    return {"type": "frames", "files": [f"f{i:02}.jpg" for i in range(frames)]}


def one(tmp_path, sample, policy, *, tokens=200, tiles=4, size=(20, 12), **settings) -> Loader:
    """Load a folder that holds this sample alone, each pack a sample."""
    names = [file for media in sample["media"] for file in media.get("files", [media.get("file")])]
    files = {name: picture(*size, seed=number) for number, name in enumerate(names)}
    write_shard(tmp_path / "a/s.tar", [("k", sample, files)])
    assert prepare_folder(tmp_path / "a") == []
    config = data_config(tmp_path, tmp_path / "a", oversize=policy, **settings)
    return make_loader(config, PackConfig(text_tokens=tokens, tiles=tiles, window=8))


def epoch(loader):
    """Planned samples and batches of one epoch."""
    packs = loader.plan.window(0, 0).packs
    steps = list(islice(loader.steps(1), len(packs)))
    return packs, [microbatch for step in steps for microbatch in step.microbatches], steps


def text_of(loader, batch):
    return loader.tokenizer.decode(batch.tokens.tolist())


def first_unit(batch):
    """Where the excerpt begins that a batch holds: its key is k[first:end]."""
    return int(batch.keys[0].removeprefix("k[").partition(":")[0])


def test_what_is_too_long_is_dropped_unless_told_otherwise(tmp_path):
    loader = one(tmp_path, long_chat(9), OversizePolicy.drop)
    assert loader.plan.window(0, 0).dropped == {"E401": 1}


def test_a_chat_keeps_the_leading_questions_that_fit(tmp_path):
    loader = one(tmp_path, long_chat(9), OversizePolicy.truncate)
    packs, (batch,), (step,) = epoch(loader)
    assert 100 < batch.num_tokens <= 200
    assert batch.num_tokens == packs[0][0].tokens
    assert text_of(loader, batch).count("a" * 20) == text_of(loader, batch).count("q" * 20) == 3
    assert batch.tokens[-1] == loader.tokenizer.end_of_text
    assert batch.keys == ("k[0:3]",)
    assert step.report.shortened == {"E401": 1}
    assert step.report.skipped == {}


def test_a_chat_is_never_split(tmp_path):
    loader = one(tmp_path, long_chat(9), OversizePolicy.split)
    assert len(loader.plan.window(0, 0).packs) == 1


@pytest.mark.parametrize("policy", [OversizePolicy.truncate, OversizePolicy.split])
def test_a_chat_whose_first_answer_does_not_fit_is_dropped_with_a_code_of_its_own(tmp_path, policy):
    loader = one(tmp_path, long_chat(3, length=300), policy)
    assert loader.plan.window(0, 0).dropped == {"E403": 1}


def pictured(count, words="x" * 30):
    """A document: picture, words, picture, words..."""
    media = [{"type": "image", "file": f"m{i}.jpg"} for i in range(count)]
    parts = [part for i in range(count) for part in ({"media": i}, {"text": f"{i}{words}"})]
    return document(*parts, media=media)


def test_a_split_document_loses_nothing(tmp_path):
    loader = one(tmp_path, pictured(9), OversizePolicy.split)
    _, batches, steps = epoch(loader)
    assert len(batches) == 3
    in_order = sorted(batches, key=first_unit)
    text = "".join(text_of(loader, batch) for batch in in_order)
    assert text == "".join(f"<|image|>{i}{'x' * 30}" for i in range(9))
    assert sum(batch.num_tiles for batch in batches) == 9
    assert all(batch.num_tokens <= 200 and batch.num_tiles <= 4 for batch in batches)
    assert sum(step.report.shortened.get("E401", 0) for step in steps) == 3


@pytest.mark.parametrize("policy", [OversizePolicy.truncate, OversizePolicy.split])
def test_a_part_that_no_pack_can_hold_is_counted(tmp_path, policy):
    grid = {"type": "image", "file": "m0.jpg", "cut": "on"}
    sample = document({"text": "before"}, {"media": 0}, {"text": "after"}, media=[grid])
    loader = one(tmp_path, sample, policy, tokens=300, cut=CutPolicy.on, size=(48, 32))
    assert loader.plan.sources[0].lengths.of(0, CutChoice.marked)[1] == 7
    packs, (batch,), (step,) = epoch(loader)
    assert {planned.excerpt.code for planned in packs[0]} == {"E402"}
    if policy == OversizePolicy.split:
        assert batch.keys == ("k[0:6]", "k[7:12]")  # "before" and "after", in one pack
        assert loader.plan.window(0, 0).dropped == step.report.skipped == {"E403": 1}
    else:  # what lies behind a truncated sample's end is not looked at
        assert batch.keys == ("k[0:6]",)
        assert loader.plan.window(0, 0).dropped == {}


def test_leading_parts_that_no_pack_can_hold_are_counted_too(tmp_path):
    grid = {"type": "image", "file": "m0.jpg", "cut": "on"}
    sample = document({"media": 0}, {"media": 0}, {"text": "after"}, media=[grid])
    loader = one(tmp_path, sample, OversizePolicy.truncate, cut=CutPolicy.on, size=(48, 32))
    (batch,) = epoch(loader)[1]
    assert text_of(loader, batch) == "after"
    assert loader.plan.window(0, 0).dropped == {"E403": 2}


def test_a_picture_stays_with_the_text_after_it(tmp_path):
    loader = one(tmp_path, pictured(9), OversizePolicy.split)
    for batch in epoch(loader)[1]:
        assert text_of(loader, batch).startswith("<|image|>")
        assert not text_of(loader, batch).endswith("<|image|>")
        placeholder = loader.reading.placeholder(loader.tokenizer, Tile())
        for offset in batch.media_offset[0]:
            assert batch.tokens[offset : offset + PLACEHOLDER].tolist() == placeholder


def test_tiles_follow_their_placeholders_into_an_excerpt(tmp_path):
    whole = one(tmp_path, pictured(9), OversizePolicy.split, tokens=900, tiles=9)
    tiles = epoch(whole)[1][0].pixel_values
    parts = one(tmp_path, pictured(9), OversizePolicy.split)
    for batch in epoch(parts)[1]:
        first = int(text_of(parts, batch).removeprefix("<|image|>")[0])
        assert batch.pixel_values.equal(tiles[first : first + batch.num_tiles])


def test_a_truncated_document_keeps_its_leading_parts(tmp_path):
    loader = one(tmp_path, pictured(9), OversizePolicy.truncate)
    _, (batch,), _ = epoch(loader)
    assert text_of(loader, batch) == "".join(f"<|image|>{i}{'x' * 30}" for i in range(4))


def test_too_many_tiles_are_told_from_too_much_text(tmp_path):
    loader = one(tmp_path, pictured(9, words="x"), OversizePolicy.truncate)
    assert epoch(loader)[2][0].report.shortened == {"E402": 1}


def test_a_part_without_text_to_learn_is_left_out_and_counted(tmp_path):
    sample = pictured(5, words="x" * 150)
    sample["turns"][0]["content"][3]["loss"] = False
    loader = one(tmp_path, sample, OversizePolicy.split)
    assert len(loader.plan.window(0, 0).packs) == 4
    assert loader.plan.window(0, 0).dropped == {"E204": 1}


def test_a_picture_that_is_alone_in_an_excerpt_is_not_cut_for_that(tmp_path):
    loader = one(
        tmp_path, pictured(3, words="x" * 150), OversizePolicy.split, cut=CutPolicy.on, tiles=7
    )
    assert {batch.num_tiles for batch in epoch(loader)[1]} == {1}


def test_a_video_shows_fewer_frames_before_any_text_goes(tmp_path):
    sample = document({"media": 0}, {"text": "a b"}, media=[clip(12)])
    loader = one(tmp_path, sample, OversizePolicy.truncate)
    _, (batch,), (step,) = epoch(loader)
    assert batch.num_tiles == 4
    assert text_of(loader, batch) == "<|image|>" * 4 + "a b"
    assert (batch.keys, step.report.shortened) == (("k",), {"E402": 1})


def test_a_frame_budget_is_no_excess(tmp_path):
    sample = document({"media": 0}, {"text": "a b"}, media=[clip(12)])
    loader = one(tmp_path, sample, OversizePolicy.drop, max_frames=3)
    _, (batch,), (step,) = epoch(loader)
    assert (batch.num_tiles, step.report.shortened) == (3, {})


def test_a_source_has_a_frame_budget_and_a_policy_of_its_own(tmp_path):
    sample = document({"media": 0}, {"text": "a b"}, media=[clip(12)])
    files = {name: picture() for name in sample["media"][0]["files"]}
    write_shard(tmp_path / "a/s.tar", [("k", sample, files)])
    prepare_folder(tmp_path / "a")
    config = data_config(tmp_path, max_frames=2)
    for name, frames, policy in (("a", None, None), ("b", 12, OversizePolicy.truncate)):
        config.sources[name] = SourceConfig(
            path=str(tmp_path / "a"), max_frames=frames, oversize=policy
        )
    loader = make_loader(config, PackConfig(text_tokens=200, tiles=4, window=8))
    planned = [sample for pack in loader.plan.window(0, 0).packs for sample in pack]
    assert {(sample.source, sample.tiles) for sample in planned} == {(0, 2), (1, 4)}


@pytest.mark.parametrize(
    ("count", "limit", "chosen"),
    [(5, None, [0, 1, 2, 3, 4]), (3, 8, [0, 1, 2]), (8, 4, [1, 3, 5, 7]), (9, 1, [4])],
)
def test_frames_are_the_middles_of_even_stretches(count, limit, chosen):
    assert choose_frames(range(count), limit) == chosen
    assert choose_frames(range(10, 10 + count), limit) == [10 + frame for frame in chosen]


@given(st.text(alphabet="a \n\u96ea", max_size=3 * UNIT_CHARACTERS))
def test_a_broken_text_joins_to_itself(text):
    pieces = list(break_text(text))
    assert "".join(pieces) == text
    assert all(0 < len(piece) <= UNIT_CHARACTERS for piece in pieces)


def test_a_long_text_is_broken_at_lines_and_before_words():
    line = "owl " * 300
    assert next(break_text(f"{line}\n{line}")) == f"{line}\n"
    first, *_ = break_text("owl " * 1000)
    assert first.endswith("owl")


def test_one_long_text_is_split_without_loss(tmp_path):
    text = " ".join(f"owl{i}" for i in range(2000))
    loader = one(tmp_path, document({"text": text}), OversizePolicy.split, tokens=5000)
    _, batches, _ = epoch(loader)
    assert len(batches) == 3
    in_order = sorted(batches, key=first_unit)
    assert "".join(text_of(loader, batch) for batch in in_order) == text


def test_excerpts_resume_as_they_were(tmp_path):
    loader = one(tmp_path, pictured(9), OversizePolicy.split)
    straight = list(islice(loader.plan.stream(Cursor()), 9))
    again = one(tmp_path, pictured(9), OversizePolicy.split)
    resumed = list(islice(again.plan.stream(straight[3][1]), 5))
    assert [pack for pack, _, _ in resumed] == [pack for pack, _, _ in straight[4:]]


def test_an_epoch_of_which_nothing_fits_is_an_error_and_not_a_hang(tmp_path):
    loader = one(tmp_path, long_chat(3, length=300), OversizePolicy.truncate)
    with pytest.raises(DataError, match="E403"):
        next(loader.steps(1))


def test_the_other_policy_is_another_plan(tmp_path):
    made = one(tmp_path, pictured(2), OversizePolicy.split).fingerprint
    assert made != one(tmp_path, pictured(2), OversizePolicy.drop).fingerprint


def qwen_loader(tmp_path, content, *, media=(), tokens=768, tiles=4, policy=OversizePolicy.split):
    """One document, read with the tokens of Qwen2's vocabulary."""
    files = {entry["file"]: picture(seed=n) for n, entry in enumerate(media)}
    write_shard(tmp_path / "q/s.tar", [("k", document(*content, media=media), files)])
    assert prepare_folder(tmp_path / "q") == []
    data = DataConfig(
        sources={"q": SourceConfig(path=str(tmp_path / "q"))}, tokenizer=str(QWEN2), oversize=policy
    )
    return make_loader(data, PackConfig(text_tokens=tokens, tiles=tiles, window=8))


def parts_in_order(loader):
    """Tokens of each part of the one document, its last (end of text) left out."""
    batches = epoch(loader)[1]
    rows = []
    for batch in batches:
        bounds = batch.cu_seqlens.tolist()
        for key, first, end in zip(batch.keys, bounds, bounds[1:], strict=False):
            rows.append((int(key.removeprefix("k[").partition(":")[0]), batch.tokens[first:end]))
    assert all(row[-1] == loader.tokenizer.end_of_text for _, row in rows)
    return [row[:-1].tolist() for _, row in sorted(rows, key=lambda pair: pair[0])]


CHINESE = "".join(chr(0x4E00 + number * 7 % 3000) for number in range(6000))


@pytest.mark.parametrize(
    "text",
    [
        CHINESE,
        "".join(chr(0xAC00 + number * 11 % 9000) for number in range(3000)),
        "owl" * 4000,
        "".join(f"{number} owls sat.\n" for number in range(900)),
        "\U0001f989" * 2500,
    ],
    ids=["chinese", "korean", "one word", "lines", "emoji"],
)
def test_every_token_of_a_long_text_is_kept(tmp_path, text):
    loader = qwen_loader(tmp_path, [{"text": text}])
    parts = parts_in_order(loader)
    assert loader.plan.window(0, 0).dropped == {}
    assert "".join(loader.tokenizer.decode(part) for part in parts) == text
    assert [token for part in parts for token in part] == loader.tokenizer.encode(text)
    assert all(len(part) > 0.8 * 768 for part in parts[:-1])


def test_a_long_text_is_cut_where_lines_end(tmp_path):
    text = "".join(f"{number} owls sat.\n" for number in range(900))
    loader = qwen_loader(tmp_path, [{"text": text}])
    assert all(loader.tokenizer.decode(part).endswith("\n") for part in parts_in_order(loader))


def test_pictures_between_long_texts_stay_where_they_were(tmp_path):
    media = [{"type": "image", "file": f"m{i}.jpg"} for i in range(3)]
    content = [{"text": CHINESE}, {"media": 0}, {"media": 1}, {"text": CHINESE[::-1]}, {"media": 2}]
    loader = qwen_loader(tmp_path, content, media=media)
    parts = parts_in_order(loader)
    mark = loader.reading.placeholder(loader.tokenizer, Tile())
    tokens = [token for part in parts for token in part]
    encode = loader.tokenizer.encode
    assert tokens == [*encode(CHINESE), *mark, *mark, *encode(CHINESE[::-1]), *mark]
    assert not any(part[-len(mark) :] == mark for part in parts[:-1])
    assert sum(batch.num_tiles for batch in epoch(loader)[1]) == 3


def test_a_picture_and_a_text_that_only_together_are_too_long_are_both_kept(tmp_path):
    media = [{"type": "image", "file": "m0.jpg"}]
    loader = one(
        tmp_path, document({"media": 0}, {"text": "x" * 195}, media=media), OversizePolicy.split
    )
    assert loader.plan.window(0, 0).dropped == {}
    text = "".join(text_of(loader, batch) for batch in sorted(epoch(loader)[1], key=first_unit))
    assert text == "<|image|>" + "x" * 195


def test_a_budget_below_one_character_ends_and_is_counted(tmp_path):
    loader = qwen_loader(tmp_path, [{"text": "\U0001f989" * 9}], tokens=2)
    assert loader.plan.window(0, 0).dropped == {"E403": 1}


class CountingTokenizer(Tokenizer):
    """Counts the characters that are tokenised."""

    characters = 0

    def encode(self, text):
        self.characters += len(text)
        return super().encode(text)

    def token_ends(self, text):
        self.characters += len(text)
        return super().token_ends(text)


@pytest.mark.parametrize(
    ("policy", "most"), [(OversizePolicy.split, 2.1), (OversizePolicy.truncate, 0.4)]
)
def test_a_document_is_tokenised_twice_at_most_and_a_truncated_one_only_as_far_as_it_is_kept(
    tmp_path, policy, most
):
    media = [{"type": "image", "file": f"m{i}.jpg"} for i in range(20)]
    content = [part for i in range(20) for part in ({"media": i}, {"text": CHINESE[i * 300 :]})]
    length = sum(len(part["text"]) for part in content if "text" in part)
    loader = qwen_loader(tmp_path, content, media=media, policy=policy)
    (source,) = loader.plan.sources
    source.lengths.of(0, CutChoice.none)  # counted once for a shard, and stored
    source.lengths.encoder.tokenizer.__class__ = CountingTokenizer
    assert loader.plan.window(0, 0).packs
    assert source.lengths.encoder.tokenizer.characters < most * length
