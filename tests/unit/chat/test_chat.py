# SPDX-License-Identifier: Apache-2.0
"""The chat: input, answers, history."""

import json
import os
import shutil
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from owl.chat.__main__ import main
from owl.chat.session import Chat, ChatOptions, load_model
from owl.chat.terminal import HELP, talk
from tests.unit.data.shard_factory import write_tokenizer
from tests.unit.families.owl3.hf.conftest import build


def typed(*lines: str):
    """Give one line after another, then the end of input."""
    left = iter(lines)

    def read() -> str:
        try:
            return next(left)
        except StopIteration:
            raise EOFError from None

    return read


def run(chat: Chat, *lines: str) -> str:
    written: list[str] = []
    talk(chat, typed(*lines), written.append)
    return "".join(written)


def test_an_answer_comes_in_pieces_and_is_remembered(chat):
    pieces = list(chat.ask("Hi"))
    assert chat.history[0] == {"role": "user", "content": [{"type": "text", "text": "Hi"}]}
    assert chat.history[1] == {"role": "assistant", "content": "".join(pieces)}


def test_a_streamed_answer_is_what_generate_gives(chat, photo):
    chat.show("image", photo)
    asked = [
        {
            "role": "user",
            "content": [{"type": "image", "path": photo}, {"type": "text", "text": "?"}],
        }
    ]
    processor, network = chat.model.processor, chat.model.network
    inputs = processor.apply_chat_template(
        asked, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
    )
    expected = network.generate(
        **inputs, tokenizer=processor.tokenizer, decode_text=True, max_new_tokens=5, do_sample=False
    )
    assert "".join(chat.ask("?")) == expected[0]


def test_pictures_go_with_the_next_question_and_stay_in_the_history(chat, photo):
    message = run(chat, f"/image {photo}", "What?", "And now?")
    assert "shown with your next question" in message
    first, _, second, _ = chat.history
    assert [part["type"] for part in first["content"]] == ["image", "text"]
    assert [part["type"] for part in second["content"]] == ["text"]
    assert not chat.waiting


def test_commands_are_run(chat, photo):
    output = run(
        chat, "/help", "/image", "/image nowhere.png", "/dance", "", "/quit", "never asked"
    )
    assert HELP in output
    assert "/image needs a file" in output
    assert "nowhere.png does not exist" in output
    assert "/dance is not a command" in output
    assert not chat.history
    run(chat, "Hi", f"/image {photo}", "/reset")
    assert not chat.history
    assert not chat.waiting


def test_a_picture_that_cannot_be_read_leaves_the_conversation_as_it_was(chat, tmp_path):
    (tmp_path / "bad.png").write_bytes(b"no picture")
    message = run(chat, "Hi", f"/image {tmp_path}/bad.png", "What?", "Still there?")
    assert "bad.png cannot be decoded" in message
    assert len(chat.history) == 4


def test_an_error_while_generating_reaches_the_reader(chat, monkeypatch):
    def fail(**_):
        raise ValueError("out of ink")

    monkeypatch.setattr(chat.model.network, "generate", fail)
    with pytest.raises(ValueError, match="out of ink"):
        list(chat.ask("Hi"))
    assert not chat.history


def test_an_answer_that_is_no_longer_read_stops(chat):
    chat.options = ChatOptions(max_new_tokens=10_000, greedy=True)
    answer = chat.ask("Hi")
    next(answer)
    answer.close()  # joins the thread that generates: the test's timeout would tell
    assert not chat.history


def test_one_question_on_the_command_line(folder, photo, monkeypatch, capsys):
    command = ["chat", "--model", str(folder), "--image", str(photo), "--ask", "What?", "--greedy"]
    monkeypatch.setattr(sys, "argv", [*command, "--max-new-tokens", "4", "--device", "cpu"])
    main()
    assert capsys.readouterr().out.endswith("\n")


@pytest.mark.parametrize("extra", [[], ["--image", "nowhere.png", "--ask", "Hm?"]])
def test_what_is_missing_is_one_line(folder, tmp_path, monkeypatch, capsys, extra):
    model = folder if extra else tmp_path
    monkeypatch.setattr(sys, "argv", ["chat", "--model", str(model), "--device", "cpu", *extra])
    with pytest.raises(SystemExit) as stopped:
        main()
    message = capsys.readouterr().out + str(stopped.value.code)
    assert ("nowhere.png cannot be read" if extra else "holds no config.json") in message


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (["--image", "a.png"], "leave --image out"),
        (["--video", "a.gif", "--ask", "Hm?"], "leave --video and --ask out"),
    ],
)
def test_what_a_page_would_not_use_is_refused(folder, monkeypatch, extra, message):
    monkeypatch.setattr(sys, "argv", ["chat", "--model", str(folder), "--web", *extra])
    with pytest.raises(SystemExit, match=message):
        main()


def test_a_tokenizer_of_a_larger_model_is_refused(tmp_path):
    build("joint_softmax", vocab_size=200).save_pretrained(tmp_path)
    write_tokenizer(tmp_path)
    with pytest.raises(ValueError, match=r"has 259 ids, the model only 200 rows\. Put the files"):
        load_model(tmp_path, device="cpu")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_one_clear_error(folder):
    with pytest.raises(ValueError, match=r"--device cuda:1: torch .* finds no GPU\. Use cpu"):
        load_model(folder, device="cuda:1")


def config_without(folder, name, **changes):
    config = json.loads((folder / "config.json").read_text()) | changes
    config.pop(name, None)
    (folder / "config.json").write_text(json.dumps(config))


def weights_with(folder, change):
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


PROJECTION = "vision2text_model.0.weight"


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: os.truncate(f / "model.safetensors", 9000), "not a complete safetensors file"),
        (lambda f: (f / "model.safetensors").unlink(), "model.safetensors"),
        (lambda f: config_without(f, "hyper_layers"), "lacks hyper_layers"),
        (lambda f: config_without(f, "", model_type="qwen2"), "model_type='qwen2'"),
        (lambda f: weights_with(f, lambda w: w.pop(PROJECTION)), f"{PROJECTION} .* is missing"),
        (
            lambda f: weights_with(f, lambda w: w.update({PROJECTION: torch.zeros(32, 15)})),
            r"has shape \(32, 15\), not \(32, 16\)",
        ),
    ],
)
def test_an_incomplete_folder_is_one_clear_error(folder, tmp_path, monkeypatch, damage, message):
    bad = Path(shutil.copytree(folder, tmp_path / "bad"))
    damage(bad)
    monkeypatch.setattr(sys, "argv", ["chat", "--model", str(bad), "--ask", "Hm?"])
    with pytest.raises(SystemExit, match=message) as stopped:
        main()
    assert str(stopped.value.code).startswith("CheckpointError: ")


def test_pictures_of_earlier_questions_are_not_encoded_again(chat, photo, tmp_path, monkeypatch):
    chat.options = ChatOptions(max_new_tokens=5, greedy=True, cut=False)
    encoded = []
    encode = chat.model.network.get_image_features

    def count(tiles):
        encoded.append(len(tiles))
        return encode(tiles)

    monkeypatch.setattr(chat.model.network, "get_image_features", count)
    other = tmp_path / "other.png"
    Image.new("RGB", (20, 20), "blue").save(other)
    chat.show("image", photo)
    list(chat.ask("What?"))
    list(chat.ask("And its colour?"))
    assert encoded == [1]
    chat.show("image", other)
    list(chat.ask("This one?"))
    assert encoded == [1, 1]
    chat.reset()
    chat.show("image", photo)
    list(chat.ask("What?"))
    assert encoded == [1, 1, 1]


def test_a_later_answer_is_what_the_model_gives_to_the_entire_conversation(chat, photo):
    chat.show("image", photo)
    list(chat.ask("What?"))
    asked = [*chat.history, {"role": "user", "content": [{"type": "text", "text": "Sure?"}]}]
    processor, network = chat.model.processor, chat.model.network
    inputs = processor.apply_chat_template(
        asked, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
    )
    expected = network.generate(
        **inputs, tokenizer=processor.tokenizer, decode_text=True, max_new_tokens=5, do_sample=False
    )
    assert "".join(chat.ask("Sure?")) == expected[0]


def test_a_stopped_answer_keeps_its_beginning(chat):
    chat.options = ChatOptions(max_new_tokens=10_000, greedy=True)
    answer = chat.ask("Hi")
    first = next(answer)
    chat.stop()
    rest = "".join(answer)  # ends: the test's timeout would tell
    assert chat.history[-1] == {"role": "assistant", "content": first + rest}


def test_an_answer_of_a_conversation_that_was_ended_is_not_remembered(chat):
    chat.options = ChatOptions(max_new_tokens=10_000, greedy=True)
    answer = chat.ask("Hi")
    next(answer)
    chat.reset()
    list(answer)
    assert not chat.history
