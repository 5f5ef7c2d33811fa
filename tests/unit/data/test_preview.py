# SPDX-License-Identifier: Apache-2.0
"""The page shows the trainer's batch, and nothing but that batch."""

import dataclasses
import json
import re
from html.parser import HTMLParser
from typing import ClassVar

import pytest
import torch

from owl.config.load import compose
from owl.config.run import PackConfig
from owl.curate.prepare import prepare_folder
from owl.curate.preview.batch import load_sample, load_step
from owl.curate.preview.page import render_page
from owl.curate.preview.view import PageView, RankView, sample_views, token_texts
from owl.data.encode.tokenizer import load_tokenizer
from owl.data.samples import IGNORE_INDEX
from owl.errors import UsageError
from owl.families.owl3.work import batch_flops, visible_pairs
from owl.portable.pieces_owl import Tile
from tests.unit.data.shard_factory import (
    QWEN2,
    chat,
    data_config,
    files_of,
    make_loader,
    write_chats,
    write_shard,
)

PACK = PackConfig(text_tokens=400, tiles=6, window=10)


@pytest.fixture
def data(tmp_path):
    return data_config(tmp_path, write_chats(tmp_path / "a"))


@pytest.fixture
def loader(data):
    return make_loader(data, PACK, dp_rank=1, dp_size=2)


def choose(loader, step=1, microbatch=0):
    return load_step(
        loader,
        step=step,
        rank=1,
        microbatch=microbatch,
        global_batch_size=4,
        micro_batch_size=1,
    )


def page_of(batch, loader, **changes):
    view = PageView(
        title="a title",
        facts=[("model", "tiny")],
        text_tokens=batch.num_tokens,
        tiles=batch.num_tiles,
        text_budget=400,
        tile_budget=6,
        samples=views(batch, loader),
        num_samples=batch.num_samples,
        work={"vision tower": 3e12, "head": 1e9},
        ranks=[RankView(rank=0, packs=[5.0]), RankView(rank=1, packs=[2.0, 1.0])],
    )
    return render_page(dataclasses.replace(view, **changes))


@pytest.mark.parametrize("step", [1, 2, 5])
def test_the_batch_is_the_one_that_training_gets_at_that_step(loader, step):
    stream = loader.steps(4)
    trained = [next(stream) for _ in range(step)][-1]
    for number, expected in enumerate(trained.microbatches):
        choice = choose(loader, step, number)
        assert choice.batch.keys == expected.keys
        assert torch.equal(choice.batch.tokens, expected.tokens)
        assert torch.equal(choice.batch.pixel_values, expected.pixel_values)
        # The steps before it were not loaded, so nobody knows what they would have skipped.
        assert dataclasses.replace(choice.step.cursor, skips=trained.cursor.skips) == trained.cursor


def test_a_micro_batch_that_is_not_there_is_refused(loader):
    with pytest.raises(UsageError, match="--microbatch 2: a rank has 2"):
        choose(loader, microbatch=2)


def views(batch, loader):
    return list(
        sample_views(batch, loader.tokenizer, loader.reading, [], position_shift=1, show=99)
    )


def test_every_token_is_shown_as_the_batch_has_it(loader):
    batch = choose(loader).batch
    tokens = [
        t
        for s in sample_views(
            batch, loader.tokenizer, loader.reading, [], position_shift=1, show=99
        )
        for t in s.tokens
    ]
    assert [t.id for t in tokens] == batch.tokens.tolist()
    assert [t.position for t in tokens] == batch.position_ids.tolist()
    assert [t.row for t in tokens] == list(range(batch.num_tokens))
    assert [t.weight for t in tokens] == batch.loss_weights.tolist()
    labels = [IGNORE_INDEX if t.label is None else t.label for t in tokens]
    assert labels == batch.labels.tolist()
    assert sum(t.is_learned for t in tokens) == sum(t.label is not None for t in tokens)


def test_what_a_token_sees_is_what_attention_lets_it_see(loader):
    batch = choose(loader).batch
    sample = torch.repeat_interleave(torch.arange(batch.num_samples), batch.cu_seqlens.diff())
    owner = torch.repeat_interleave(torch.arange(batch.num_samples), batch.cu_media.diff())
    visible = (sample[:, None] == owner) & (
        batch.position_ids[:, None] >= batch.flat_media_offset + 1
    )
    tokens = [
        t
        for s in sample_views(
            batch, loader.tokenizer, loader.reading, [], position_shift=1, show=99
        )
        for t in s.tokens
    ]
    assert [t.sees for t in tokens] == visible.sum(1).tolist()
    assert visible_pairs(batch, 1) == int(visible.sum())


def test_placeholders_and_tiles_belong_together(loader):
    batch = choose(loader).batch
    span = len(loader.reading.placeholder(loader.tokenizer, Tile()))
    for sample in views(batch, loader):
        for tile in sample.tiles:
            part = [t for t in sample.tokens if t.placeholder == tile.number]
            assert [t.position for t in part] == list(range(tile.offset, tile.offset + span))
            assert "".join(t.text for t in part) == "<|image|>"
            assert tile.position == tile.offset + 1


def test_one_sample_is_found_by_number_and_by_key(loader, data):
    by_number, planned = load_sample(loader, data, "a:13")
    by_key, _ = load_sample(loader, data, "a:s0013")
    assert by_number.keys == by_key.keys == ("s0013",)
    assert planned.index == 13
    assert by_number.num_tokens == planned.tokens


@pytest.mark.parametrize(
    ("name", "complaint"),
    [("a", "is not SOURCE:NUMBER"), ("b:1", "The sources are a"), ("a:99", "samples 0 to 19")],
)
def test_a_sample_that_is_not_there_is_refused(loader, data, name, complaint):
    with pytest.raises(UsageError, match=complaint):
        load_sample(loader, data, name)
    with pytest.raises(UsageError, match=r"no shard of .* has that key"):
        load_sample(loader, data, "a:nobody")


class Elements(HTMLParser):
    """Collects elements, their attributes, and what they link to."""

    def __init__(self):
        super().__init__()
        self.found = []

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))


def test_the_page_is_one_file_without_links_to_others(loader):
    page = page_of(choose(loader).batch, loader)
    elements = Elements()
    elements.feed(page)
    for tag, attributes in elements.found:
        for name in ("src", "href"):
            address = attributes.get(name, "")
            assert address.startswith(("data:", "#")) or not address, (tag, address)
    assert "@import" not in page
    assert "http" not in page


def test_the_page_holds_every_token_tile_and_offset_without_its_script(loader):
    batch = choose(loader).batch
    page = re.sub(r"<script.*?</script>", "", page_of(batch, loader), flags=re.DOTALL)
    elements = Elements()
    elements.feed(page)
    spans = [a for tag, a in elements.found if tag == "span" and "data-id" in a]
    assert [int(a["data-id"]) for a in spans] == batch.tokens.tolist()
    assert sum(tag == "figure" for tag, _ in elements.found) == batch.num_tiles
    for offsets in batch.media_offset:
        if offsets:
            assert f"media_offset [{', '.join(map(str, offsets))}]" in page
    assert all(key in page for key in batch.keys)


def test_text_of_a_sample_cannot_become_markup(tmp_path):
    answer = "</script><script>alert(1)</script><b>'\"&amp;"
    document = chat("<i>?</i>", answer, pictures=1)
    write_shard(tmp_path / "x" / "s.tar", [("k", document, files_of(document))])
    prepare_folder(tmp_path / "x")
    loader = make_loader(data_config(tmp_path, tmp_path / "x"), PACK)
    page = page_of(next(loader.steps(1)).microbatches[0], loader)
    elements = Elements()
    elements.feed(page)
    tags = [tag for tag, _ in elements.found]
    assert tags.count("script") == 2  # ours
    assert "i" in tags
    assert "<i>?</i>" not in page
    embedded = re.search(r"id=data>(.*?)</script>", page, re.DOTALL)
    tokens = json.loads(embedded[1])[0]["tokens"]
    assert answer in "".join(text for _, _, _, text, _ in tokens)


class Words:
    """A tokenizer that, as some do, leaves out the space before the first word it decodes."""

    vocabulary = ("an", "owl", "sees")

    control_ids: ClassVar = {"<|im_start|>": 7, "<|im_end|>": 8, "<|endoftext|>": 9}

    def decode(self, ids):
        return " ".join(self.vocabulary[token] for token in ids)


def test_words_keep_the_space_before_them():
    texts = token_texts([7, 0, 1, 2, 8], Words())
    assert texts == ["<|im_start|>", "an", " owl", " sees", "<|im_end|>"]


def test_tokens_of_text_join_to_the_text():
    tokenizer = load_tokenizer(QWEN2)
    text = "Two owls, 3 caf\u00e9s\n\tand a\u00e7a\u00ed."
    assert "".join(token_texts(tokenizer.encode(text), tokenizer)) == text


def test_samples_beyond_show_are_counted(loader):
    batch = choose(loader).batch
    some = list(sample_views(batch, loader.tokenizer, loader.reading, [], position_shift=1, show=1))
    page = page_of(batch, loader, samples=some)
    assert f"{batch.num_samples - 1} more samples are not shown" in page


@pytest.mark.parametrize(
    ("stage", "total", "shares"),
    [
        ("stage1", 294e12, {"vision tower": 0.140, "decoder weights": 0.726, "head": 0.061}),
        ("stage2", 410e12, {"vision tower": 0.100, "decoder weights": 0.782, "head": 0.065}),
    ],
)
def test_work_agrees_with_the_published_budget_of_7b(loader, stage, total, shares):
    # 8192 text tokens in 8 documents, 64 tiles, pictures first, all supervised. The budget counts a
    # projector of two layers, this variant has one: shares agree to a percentage point.
    run, _ = compose("pretrain", ["model=owl3_7b_240728", f"experiment={stage}"])
    batch = dataclasses.replace(
        choose(loader).batch,
        loss_weights=torch.ones(8192),
        seqlens=(1024,) * 8,
        media_offset=[[0] * 8] * 8,
        flat_media_offset=torch.zeros(64, dtype=torch.int64),
        cu_media=torch.arange(0, 65, 8),
    )
    work = batch_flops(batch, run.model, run.stage.trainable)
    assert sum(work.values()) == pytest.approx(total, rel=0.02)
    for part, share in shares.items():
        assert work[part] / sum(work.values()) == pytest.approx(share, abs=0.01)
