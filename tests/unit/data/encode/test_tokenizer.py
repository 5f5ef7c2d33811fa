# SPDX-License-Identifier: Apache-2.0
import json
import re

import pytest

from owl.data.encode.tokenizer import load_tokenizer
from owl.errors import DataError
from tests.llama_tokenizer import write_llama_tokenizer
from tests.unit.data.shard_factory import QWEN2, write_tokenizer


@pytest.mark.parametrize(
    ("text", "ids"),
    [
        ("<|image|>", [27, 91, 1805, 91, 29]),
        ("<|start_cut|>", [27, 91, 2468, 41317, 91, 29]),
        ("<|end_cut|>", [27, 91, 408, 41317, 91, 29]),
        ("<|start_video_frame|>", [27, 91, 2468, 19815, 8929, 91, 29]),
        ("<|end_video_frame|>", [27, 91, 408, 19815, 8929, 91, 29]),
        ("2*3\n", [17, 9, 18, 198]),
        (
            "Two owls,\n\n three mice. 1234",
            [11613, 15570, 4730, 3554, 2326, 23627, 13, 220, 16, 17, 18, 19],
        ),
        ("e\u0301t\u00e9 \u9e7f", [38783, 18137, 117, 123]),
        ("  x's  \t\n", [220, 856, 594, 98251]),
    ],
)
def test_text_and_markup_have_the_ids_of_the_real_qwen2_tokenizer(text, ids):
    assert load_tokenizer(QWEN2).encode(text) == ids


def test_qwen2_control_tokens_follow_its_vocabulary(tmp_path):
    vocabulary = json.loads((QWEN2 / "vocab.json").read_text(encoding="utf-8"))
    text_only = {token: number for token, number in vocabulary.items() if number < 151643}
    (tmp_path / "vocab.json").write_text(json.dumps(text_only))
    (tmp_path / "merges.txt").write_bytes((QWEN2 / "merges.txt").read_bytes())
    tokenizer = load_tokenizer(tmp_path)
    assert (tokenizer.end_of_text, tokenizer.im_start, tokenizer.im_end) == (151643, 151644, 151645)
    assert tokenizer.vocab_size == 151646


def test_qwen2_agrees_with_transformers_on_text():
    transformers = pytest.importorskip("transformers")
    theirs = transformers.Qwen2TokenizerFast(
        vocab=str(QWEN2 / "vocab.json"), merges=str(QWEN2 / "merges.txt")
    )
    ours = load_tokenizer(QWEN2)
    for text in ["Two owls,\n\n three mice. 1234", "e\u0301t\u00e9 \u9e7f", "  x's  \t\n", "(<|a"]:
        assert ours.encode(text) == theirs.encode(text, add_special_tokens=False)
        assert ours.decode(ours.encode(text)) == theirs.decode(theirs.encode(text))


@pytest.mark.parametrize("literal", ["<|im_start|>", "<|im_end|>", "<|endoftext|>"])
def test_typed_control_tokens_stay_text(tmp_path, literal):
    tokenizer = load_tokenizer(write_tokenizer(tmp_path))
    ids = tokenizer.encode(literal)
    assert len(ids) == len(literal)
    assert tokenizer.control_id(literal) not in ids
    assert tokenizer.decode(ids) == literal


def test_control_tokens_are_taken_from_tokenizer_json(tmp_path):
    tokenizer = load_tokenizer(write_tokenizer(tmp_path))
    assert (tokenizer.end_of_text, tokenizer.im_start, tokenizer.im_end) == (256, 257, 258)
    assert tokenizer.vocab_size == 259


def test_a_folder_without_a_tokenizer_is_named(tmp_path):
    with pytest.raises(DataError, match=r"neither tokenizer\.json nor vocab\.json"):
        load_tokenizer(tmp_path)


def test_a_tokenizer_without_control_tokens_is_refused(tmp_path):
    file = write_tokenizer(tmp_path) / "tokenizer.json"
    file.write_text(file.read_text().replace("im_end", "im_fin"))
    with pytest.raises(DataError, match=re.escape("no token <|im_end|>")):
        load_tokenizer(tmp_path)


def test_the_content_hash_follows_the_content(tmp_path):
    folder = write_tokenizer(tmp_path)
    before = load_tokenizer(folder).content_hash
    file = folder / "tokenizer.json"
    file.write_text(file.read_text().replace('"1.0"', '"1.0" '))
    assert load_tokenizer(folder).content_hash != before


@pytest.mark.parametrize(
    "content", ["{", "[]", "{}", '{"model": {"vocab": 3}}', "\ufeff{", '{"model": {"vocab": {}}}']
)
def test_a_damaged_tokenizer_is_named_with_its_folder(tmp_path, content):
    (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(DataError, match="E404"):
        load_tokenizer(tmp_path)
    whole = write_tokenizer(tmp_path) / "tokenizer.json"
    whole.write_text(whole.read_text()[:-20])
    with pytest.raises(DataError, match=f"E404.*{tmp_path.name}.*JSONDecodeError.*Copy them again"):
        load_tokenizer(tmp_path)


def test_a_damaged_vocabulary_is_named_too(tmp_path):
    (tmp_path / "vocab.json").write_text('{"a": 0}')
    (tmp_path / "merges.txt").write_bytes(b"\xff\xfe not merges")
    with pytest.raises(DataError, match=r"E404.*Copy them again"):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize("text", ["a b", " a", "", "  a\n b ", "</s> a"])
def test_a_llama_tokenizer_reads_alike_whichever_transformers_wrote_it(tmp_path, text):
    old, new = (
        load_tokenizer(write_llama_tokenizer(tmp_path / str(new), metaspace=new), ("<s>", "</s>"))
        for new in (False, True)
    )
    assert old.encode(text) == new.encode(text)
    assert old.decode(old.encode(text)) == text
    assert len(old.encode(" a")) == 3  # SentencePiece puts a space before every text


def test_a_folder_of_sentencepiece_alone_is_told_how_to_convert_it(tmp_path):
    (tmp_path / "tokenizer.model").write_bytes(b"...")
    with pytest.raises(DataError, match=r"tokenizer.model.*LlamaTokenizerFast.from_pretrained"):
        load_tokenizer(tmp_path)
