# SPDX-License-Identifier: Apache-2.0
"""Both forms of a request give the tokens, offsets and tiles of training."""

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import pipeline

from owl.data.encode.encoder import SampleEncoder
from owl.data.encode.tokenizer import load_tokenizer
from owl.data.samples import RawSample
from owl.data.shards.document import Document
from owl.data.shown import CutChoice
from owl.families.owl3.hf.processing_owl3 import grids_within
from owl.families.owl3.reading import Owl3Reading
from owl.families.owl3.tiles_owl3 import PUBLISHED_GRIDS, Grid, choose_grid
from owl.hf import Owl3Processor
from owl.portable.pictures_owl import MediaError
from owl.portable.requests_owl import RequestError
from owl.portable.tokenizer_owl import load_hf_tokenizer
from tests.unit.data.shard_factory import QWEN2, chat, files_of, picture

SIZE = 28


def image(seed: int = 0, width: int = 50, height: int = 37) -> Image.Image:
    noise = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(noise)


def ask(text: str) -> list[dict]:
    """Write a question in the form of the model cards."""
    return [{"role": "user", "content": text}, {"role": "assistant", "content": ""}]


def entries(*content) -> list[dict]:
    """Write a question in the form of current transformers."""
    return [{"role": "user", "content": list(content)}]


def show(source) -> dict:
    return {"type": "image", "image": source}


def say(text: str) -> dict:
    return {"type": "text", "text": text}


def assert_same(one, other) -> None:
    assert set(one) == set(other)
    torch.testing.assert_close(dict(one), dict(other), rtol=0, atol=0)


def encoder_for(folder, template: str) -> SampleEncoder:
    return SampleEncoder(load_tokenizer(folder), Owl3Reading(template, SIZE))


@pytest.fixture(params=["v2", "v3"])
def roads(request, folder):
    """Training's encoder and the processor, with the byte tokenizer."""
    processor = Owl3Processor.from_pretrained(folder, template=request.param)
    return encoder_for(folder, request.param), processor


def raw(document) -> RawSample:
    return RawSample(
        key="a",
        shard="s",
        document=Document.from_json(document),
        files=files_of(document, codec="PNG"),
    )


def as_messages(document, *, answered: bool) -> list[dict]:
    """The same conversation in the model cards' form."""
    marked = [
        {
            "role": turn["role"],
            "content": "".join(part.get("text", "<|image|>") for part in turn["content"]),
        }
        for turn in document["turns"]
    ]
    return marked if answered else [*marked[:-1], {"role": "assistant", "content": ""}]


@pytest.mark.parametrize("pictures", [0, 1, 2])
@pytest.mark.parametrize("cut", [True, False])
def test_prompts_are_those_of_training(roads, pictures, cut):
    encoder, processor = roads
    document = chat("What is <|im_end|> this?\n", pictures=pictures, cut="on" if cut else "off")
    sample = raw(document)

    ours = processor(
        as_messages(document, answered=False),
        images=list(sample.files.values()) or None,
        cut_enable=cut,
    )
    theirs = encoder.encode_prompt(sample, cut=CutChoice.marked)

    assert torch.equal(ours["input_ids"][0], theirs.tokens)
    assert ours["attention_mask"].all()
    if pictures:
        assert ours["media_offset"][0].tolist() == theirs.media_offset
        assert torch.equal(ours["pixel_values"], (theirs.tiles.float() / 255 - 0.5) / 0.5)
    else:
        assert set(ours) == {"input_ids", "attention_mask"}


def test_answers_and_labels_are_those_of_training(roads):
    encoder, processor = roads
    document = chat("Hm?", "\n  An owl.", pictures=1)
    sample = raw(document)

    ours = processor(
        as_messages(document, answered=True),
        images=list(sample.files.values()),
        cut_enable=False,
        inference_mode=False,
    )
    theirs = encoder.encode(sample, source="", cut=CutChoice.none)

    assert torch.equal(ours["input_ids"][0], theirs.tokens)
    learned = torch.where(theirs.loss_weights > 0, theirs.tokens, -100)
    assert torch.equal(ours["labels"][0], learned)


@pytest.fixture(scope="module")
def qwen2():
    return load_hf_tokenizer(QWEN2)


@pytest.mark.parametrize("template", ["v2", "v3"])
def test_qwen2_tokens_are_those_of_training(qwen2, template):
    encoder = encoder_for(QWEN2, template)
    processor = Owl3Processor(qwen2, SIZE, template)
    document = chat(
        "  Was ist <|image|x|>\n\n 12345 \u00e9e\u0301 <|im_start|>?", pictures=2, cut="on"
    )
    sample = raw(document)

    ours = processor(as_messages(document, answered=False), images=list(sample.files.values()))
    theirs = encoder.encode_prompt(sample, cut=CutChoice.marked)

    assert torch.equal(ours["input_ids"][0], theirs.tokens)
    assert ours["media_offset"][0].tolist() == theirs.media_offset


def test_a_published_run_is_reproduced(qwen2):
    # One picture cut 2 x 3 as the first thing a user shows (owl3.md section 1: 241101).
    processor = Owl3Processor(qwen2, SIZE, "v3")
    ours = processor(ask("<|image|>\nDescribe it."), images=[image(width=64, height=48)])
    assert ours["media_offset"][0].tolist() == [18, 24, 30, 36, 42, 48, 54]
    assert ours["input_ids"][0, :9].tolist() == [
        151644, 8948, 198, 151645, 198, 151644, 872, 198, 27
    ]  # fmt: skip


def test_a_last_answer_is_left_out_of_a_prompt(processor):
    answered = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
    assert_same(processor(answered), processor(ask("Hi")))


def test_both_forms_and_rendered_strings_agree(processor):
    picture_one, clip, picture_two = image(1), [image(2), image(3)], image(4)
    conversation = entries(
        show(picture_one),
        say("\nand "),
        {"type": "video", "video": clip},
        say(" then "),
        show(picture_two),
    )
    cards = processor(
        ask("<|image|>\nand <|video|> then <|image|>"),
        images=[picture_one, picture_two],
        videos=[clip],
    )
    today = processor.apply_chat_template(
        conversation,
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
    )
    rendered = processor(
        processor.apply_chat_template(conversation, add_generation_prompt=True),
        images=[picture_one, picture_two],
        videos=[clip],
    )
    assert_same(cards, today)
    assert_same(cards, rendered)


def test_a_batch_of_mixed_media_is_its_rows_padded(processor):
    conversations = [
        entries(show(image(1)), say("What?")),
        entries(say("Nothing to see.")),
        entries({"type": "video", "video": [image(2), image(3)]}, show(image(4)), say("Well?")),
    ]
    options = {"add_generation_prompt": True, "tokenize": True, "return_dict": True}
    options |= {"return_tensors": "pt"}
    rows = [processor.apply_chat_template(one, **options) for one in conversations]
    for side in ("left", "right"):
        batch = processor.apply_chat_template(conversations, padding_side=side, **options)
        assert torch.equal(
            batch["pixel_values"], torch.cat([row["pixel_values"] for row in rows[::2]])
        )
        for index, row in enumerate(rows):
            real = batch["attention_mask"][index].bool()
            assert torch.equal(batch["input_ids"][index][real], row["input_ids"][0])
            assert real[-1 if side == "left" else 0]
            mine = row["media_offset"][0] if "media_offset" in row else torch.tensor([]).long()
            assert torch.equal(batch["media_offset"][index], mine)


def test_pictures_of_a_batch_come_by_row_or_in_one_list(processor):
    texts = [ask("<|image|>?"), ask("none"), ask("<|image|><|image|>")]
    one, two, three = image(1), image(2), image(3)
    by_row = processor(texts, images=[[one], [], [two, three]])
    assert_same(by_row, processor(texts, images=[one, two, three]))
    assert_same(by_row, processor(texts, images=[[one], None, [two, three]]))
    alone = processor(texts[2], images=[two, three])
    assert_same(alone, processor(texts[2], images=[[two, three]]))
    assert_same(processor(texts[0], images=one), processor(texts[0], images=[one]))


def test_videos_come_as_frames_or_as_a_list_of_videos(processor):
    frames = [image(1), image(2)]
    bare = processor(ask("<|video|>?"), videos=frames)
    assert_same(bare, processor(ask("<|video|>?"), videos=[frames]))
    assert len(bare["pixel_values"]) == 2
    texts = [ask("<|video|>"), ask("<|video|>")]
    assert_same(
        processor(texts, videos=[frames, frames]), processor(texts, videos=[[frames], [frames]])
    )


def test_media_are_numbered_on_request(processor):
    conversation = entries(show(image(1)), show(image(2)), say("Which?"))
    text = processor.apply_chat_template(conversation, number_media=True)
    assert "user\nPicture 1: <|image|>Picture 2: <|image|>Which?" in text
    numbered = processor.apply_chat_template(
        conversation,
        number_media=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
        cut_enable=False,
    )
    assert "Picture 2: <|image|>Which?" in processor.decode(numbered["input_ids"][0])
    assert_same(numbered, processor(text, images=[image(1), image(2)], cut_enable=False))


@pytest.mark.parametrize(("most", "tiles"), [(None, 7), (7, 7), (5, 5), (3, 1)])
def test_tiles_of_a_picture_are_bounded(processor, most, tiles):
    wide = image(width=64, height=48)
    ours = processor(ask("<|image|>"), images=[wide], max_tiles=most)
    assert len(ours["pixel_values"]) == tiles == len(ours["media_offset"][0])


GRIDS = [
    ((500, 500), Grid(2, 2)), ((640, 480), Grid(2, 3)), ((480, 640), Grid(3, 2)),
    ((1920, 1080), Grid(2, 3)), ((1000, 800), Grid(2, 3)), ((2000, 500), Grid(1, 4)),
    ((3000, 400), Grid(1, 4)), ((400, 3000), Grid(4, 1)), ((100, 100), Grid(2, 2)),
]  # fmt: skip


def pillow_tiles(picture: Image.Image, size: int, grid: Grid) -> torch.Tensor:
    """Cut a picture as the published processor does: [m, 3, s, s] uint8."""
    large = np.asarray(picture.resize((grid.columns * size, grid.rows * size), Image.BICUBIC))
    cells = [
        large[row * size : (row + 1) * size, column * size : (column + 1) * size]
        for row in range(grid.rows)
        for column in range(grid.columns)
    ]
    whole = np.asarray(picture.resize((size, size), Image.BICUBIC))
    return torch.from_numpy(np.stack([*cells, whole])).permute(0, 3, 1, 2)


def photograph(width: int, height: int) -> Image.Image:
    """Make smooth colours with sharp edges and grain, such as photographs have."""
    random = np.random.default_rng(width + height)
    row, column = np.mgrid[0:height, 0:width]
    smooth = 127 + 90 * np.sin(row / 31)[..., None] * np.cos(
        column / 47 + np.arange(3)[:, None, None]
    ).transpose(1, 2, 0)
    smooth[height // 3 : height // 2, width // 4 : width // 2] = (240, 20, 60)
    grain = random.normal(0, 6, (height, width, 3))
    return Image.fromarray((smooth + grain).clip(0, 255).astype(np.uint8))


@pytest.mark.parametrize(("size", "grid"), GRIDS)
@pytest.mark.parametrize("parity", ["torch", "pillow"])
def test_tiles_are_pillows(folder, size, grid, parity):
    processor = Owl3Processor.from_pretrained(folder, image_size=378, parity=parity)
    picture = photograph(*size)

    pixels = processor(ask("<|image|>"), images=[picture])["pixel_values"]
    tiles = ((pixels * 0.5 + 0.5) * 255).round()
    levels = (tiles - pillow_tiles(picture, 378, grid)).abs()

    assert levels.max() <= (2 if parity == "torch" else 0)
    assert (levels > 0).float().mean() <= 0.01


def test_tiles_of_real_pictures_are_close_to_pillows(folder):
    datasets = pytest.importorskip("sklearn.datasets")
    processor = Owl3Processor.from_pretrained(folder, image_size=378)
    shares = []
    photographs = [Image.fromarray(array) for array in datasets.load_sample_images().images]
    boxes = [(0, 0, 640, 427), (0, 0, 300, 427), (100, 50, 613, 240), (200, 100, 321, 229)]
    for photo in (photograph.crop(box) for photograph in photographs for box in boxes):
        pixels = processor(ask("<|image|>"), images=[photo])["pixel_values"]
        theirs = pillow_tiles(photo, 378, choose_grid(*photo.size, 378))
        levels = (((pixels * 0.5 + 0.5) * 255).round() - theirs).abs()
        assert levels.max() <= 2, photo.size
        shares.append(float((levels > 0).float().mean()))

    print(f"mean {np.mean(shares):.4f}, largest {max(shares):.4f} of {len(shares)}")
    assert np.mean(shares) <= 0.01
    assert max(shares) <= 0.02


def test_a_parity_that_does_not_exist_is_one_clear_error(folder):
    with pytest.raises(ValueError, match="parity='opencv' must be one of torch, pillow"):
        Owl3Processor.from_pretrained(folder, parity="opencv")


def test_what_was_saved_comes_back(folder, tmp_path):
    processor = Owl3Processor.from_pretrained(folder, template="v2", parity="pillow")
    processor.save_pretrained(tmp_path)
    again = Owl3Processor.from_pretrained(tmp_path)
    assert (again.image_size, again.template, again.parity) == (SIZE, "v2", "pillow")
    request = ask("<|image|> <|im_end|>?")
    assert_same(again(request, images=[image()]), processor(request, images=[image()]))
    assert again.tokenizer.chat_template == processor.chat_template


def test_another_jinja_template_renders_strings(processor):
    message = processor.apply_chat_template(
        [{"role": "user", "content": "Hi"}], "{{ messages[0]['content'] }}!"
    )
    assert message == "Hi!"


@pytest.mark.parametrize(
    ("request_", "images", "error", "message"),
    [
        ("<|image|><|image|>", [image()], RequestError, r"2 <\|image\|> but 1 images"),
        ("<|image|>", [image(), image()], RequestError, r"1 <\|image\|> but 2 images"),
        ("<|image|>", None, RequestError, r"1 <\|image\|> but 0 images"),
        ("<|video|>", None, RequestError, r"1 <\|video\|> but 0 videos"),
        ("<|image|>", ["nowhere.png"], MediaError, r"nowhere\.png cannot be read"),
        ("<|image|>", [picture()[:99]], MediaError, "cannot be decoded"),
    ],
)
def test_a_request_that_contradicts_itself_is_one_clear_error(
    processor, request_, images, error, message
):
    with pytest.raises(error, match=message):
        processor(ask(request_), images=images)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda p: p(None), "there is no text"),
        (lambda p: p([]), "there is no text"),
        (lambda p: p("Hi", return_tensors="np"), "return_tensors='np'"),
        (lambda p: p("Hi", padding_side="up"), "padding_side='up'"),
        (lambda p: p(["Hi", "Hello"], padding=False), "Leave padding=True"),
        (lambda p: p("Hi", inference_mode=False), "labels need messages"),
        (lambda p: p(ask("<|image|>"), images=[image()], max_tiles=0), "max_tiles=0"),
        (lambda p: p([{"role": "user"}]), "needs role and content"),
        (lambda p: p(entries(say("Hi"))), "go through apply_chat_template"),
        (lambda p: p.apply_chat_template([]), "is empty"),
        (lambda p: p.apply_chat_template(entries({"type": "audio"})), "type 'audio'"),
        (
            lambda p: p.apply_chat_template(entries({"type": "image"}), tokenize=True),
            "holds 0 sources",
        ),
    ],
)
def test_a_request_without_meaning_is_one_clear_error(processor, call, message):
    with pytest.raises(RequestError, match=message):
        call(processor)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_tile": 1}, r"max_tile=1 is not an option .* did you mean max_tiles\?"),
        ({"colour": "red"}, "colour='red' is not an option .* options are cut_enable"),
        ({"truncation": True}, "truncation=True is not supported: .* max_tiles"),
        ({"max_length": 9}, "max_length=9 is not supported"),
        ({"return_mm_token_type_ids": True}, "is not supported: the model takes none"),
        ({"tools": [{}]}, "is not supported: the published format has none"),
        ({"padding": "max_length"}, r"padding='max_length' must be True \('longest'\)"),
    ],
)
def test_an_unsupported_option_is_an_error_in_both_forms(processor, options, message):
    with pytest.raises(RequestError, match=message):
        processor("Hi", **options)
    with pytest.raises(RequestError, match=message):
        processor.apply_chat_template(entries(say("Hi")), tokenize=True, **options)
    with pytest.raises(RequestError, match=message):
        processor.apply_chat_template(entries(say("Hi")), tokenize=True, processor_kwargs=options)


def test_an_option_of_calls_is_an_error_when_a_processor_is_built(folder):
    with pytest.raises(RequestError, match="max_tiles is an option of each call"):
        Owl3Processor.from_pretrained(folder, max_tiles=4)
    with pytest.raises(TypeError, match="max_tiles"):
        Owl3Processor(None, max_tiles=4)


def test_options_of_transformers_that_request_nothing_are_accepted(processor):
    asks_nothing = {
        "truncation": None,
        "max_length": None,
        "tools": None,
        "documents": None,
        "return_assistant_tokens_mask": False,
        "add_special_tokens": False,
        "return_attention_mask": True,
        "padding": "longest",
    }
    plain = processor("Hi")
    assert_same(processor("Hi", **asks_nothing), plain)
    asked = entries(say("Hi"))
    given = {"tokenize": True, "return_dict": True}
    assert_same(
        processor.apply_chat_template(asked, **given, **asks_nothing),
        processor.apply_chat_template(asked, **given),
    )


def test_a_pipeline_generates_continues_and_passes_options(folder, processor):
    ask = pipeline("image-text-to-text", model=str(folder), processor=processor)
    asked = entries(show(image()), say("What?"))
    message = ask(text=asked, max_new_tokens=3, return_full_text=False)
    assert isinstance(message[0]["generated_text"], str)
    begun = [*asked, {"role": "assistant", "content": [say("It is")]}]
    went_on = ask(text=begun, max_new_tokens=3)
    assert went_on[0]["generated_text"][-1]["content"][0]["text"].startswith("It is")


def test_the_last_message_may_be_left_open(processor):
    begun = [*entries(say("What?")), {"role": "assistant", "content": "It is"}]
    prompt = processor.apply_chat_template(begun[:1], add_generation_prompt=True)
    assert processor.apply_chat_template(begun, continue_final_message=True) == prompt + "It is"
    for bad, message in (
        ({"add_generation_prompt": True}, "contradict each other"),
        (
            {"conversation": [*entries(say("?")), {"role": "assistant", "content": ""}]},
            "is empty",
        ),
        ({"continue_final_message": "reasoning"}, "must be True or False"),
    ):
        given = {"conversation": begun, "continue_final_message": True} | bad
        with pytest.raises(RequestError, match=message):
            processor.apply_chat_template(**given)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([{"type": "text"}], "has text=None: it must be a string"),
        ([{"type": "text", "text": 3}], "has text=3: it must be a string"),
        (["hi"], "a content entry is a str, 'hi': it must be a dict"),
        ({"type": "text", "text": "hi"}, "a content entry is a str, 'type'"),
    ],
)
def test_an_invalid_content_entry_is_one_clear_error(processor, content, message):
    with pytest.raises(RequestError, match=message):
        processor.apply_chat_template([{"role": "user", "content": content}], tokenize=True)


def test_an_invalid_message_is_one_clear_error(processor):
    with pytest.raises(RequestError, match="a message is a str: it must be a dict"):
        processor.apply_chat_template([["hi"]])


def test_an_empty_source_beside_a_full_one_is_no_error(processor):
    given = {"tokenize": True, "return_dict": True}
    both = entries(show(image()) | {"base64": None}, say("?"))
    assert_same(
        processor.apply_chat_template(both, **given),
        processor.apply_chat_template(entries(show(image()), say("?")), **given),
    )


@pytest.mark.parametrize(("most", "shown"), [(None, 20), (4, 4)])
def test_a_list_of_frames_is_taken_as_it_is_unless_bounded(processor, most, shown):
    frames = [image(seed) for seed in range(20)]
    ours = processor(ask("<|video|>"), videos=[frames], max_frames=most)
    assert len(ours["pixel_values"]) == shown
    if most:
        chosen = processor(ask("<|video|>"), videos=[[frames[i] for i in (2, 7, 12, 17)]])
        assert torch.equal(ours["pixel_values"], chosen["pixel_values"])


def test_too_many_pictures_for_a_batch_are_noticed(processor):
    with pytest.raises(RequestError, match=r"1 <\|image\|> but 2 images"):
        processor([ask("<|image|>"), ask("<|image|>")], images=[image()] * 3)


def test_a_folder_without_tokenizer_is_one_clear_error(folder, tmp_path):
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    with pytest.raises(ValueError, match="holds no tokenizer"):
        Owl3Processor.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("most", "grid"),
    [(7, Grid(2, 3)), (6, Grid(2, 2)), (5, Grid(2, 2)), (4, Grid(1, 3))],
)
def test_a_bound_on_tiles_picks_the_best_grid_below_it(most, grid):
    assert choose_grid(640, 480, 378, grids_within(most)) == grid
    assert grid.tiles <= most


def test_no_grid_is_smaller_than_four_tiles():
    assert grids_within(3) == []
    assert grids_within(None) == list(PUBLISHED_GRIDS)
