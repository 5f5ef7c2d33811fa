# SPDX-License-Identifier: Apache-2.0
"""What the chat loads beside a model: an adapter, layers in 4 or 8 bits; and other families."""

import sys
from importlib.util import find_spec

import pytest
import torch
from PIL import Image

from owl.chat.__main__ import main
from owl.chat.session import Chat, ChatOptions, load_model
from owl.convert.from_hf import import_checkpoint
from owl.convert.to_hf import ExportOptions, export_checkpoint
from tests.llama_tokenizer import write_llama_tokenizer
from tests.unit.portable.spliced.spliced_models import FAMILIES, save_folder, tiny_model

OPTIONS = ChatOptions(max_new_tokens=4, greedy=True)


@pytest.fixture(scope="module", params=FAMILIES)
def spliced(request, tmp_path_factory):
    """A folder of a family whose pictures are part of the text."""
    return save_folder(request.param, tmp_path_factory.mktemp(request.param))


@pytest.fixture
def photo(tmp_path):
    path = tmp_path / "photo.png"
    Image.new("RGB", (30, 20), "red").save(path)
    return path


def test_a_conversation_shows_several_pictures(spliced, photo):
    chat = Chat(load_model(spliced, device="cpu"), OPTIONS)
    chat.show("image", photo)
    chat.show("image", str(photo))
    first = "".join(chat.ask("Which?"))
    again = "".join(chat.ask("And now?"))

    assert len(chat.history) == 4
    other = Chat(load_model(spliced, device="cpu"), OPTIONS)
    assert "".join(other.ask("Which?")) != first or "".join(other.ask("And now?")) != again


def test_the_command_answers_about_a_picture(spliced, photo, capsys):
    arguments = ["--model", str(spliced), "--image", str(photo), "--ask", "Hm?", "--greedy"]
    main([*arguments, "--max-new-tokens", "3", "--device", "cpu"])

    chat = Chat(load_model(spliced, device="cpu"), ChatOptions(max_new_tokens=3, greedy=True))
    chat.show("image", photo)
    assert capsys.readouterr().out == "".join(chat.ask("Hm?")) + "\n"


def test_an_adapter_changes_answers_and_the_model_without_it_does_not(spliced, tmp_path):
    peft = pytest.importorskip("peft")
    family = {"mplug-owl": "owl1"}.get(load_model(spliced).network.config.model_type, "owl2")
    config = peft.LoraConfig(r=2, target_modules=["q_proj", "visual_fc"], init_lora_weights=False)
    adapted = peft.get_peft_model(tiny_model(family), config)
    adapted.save_pretrained(tmp_path)
    tokens = torch.tensor([[5, 6, 7, 8]])
    with torch.no_grad():
        expected = adapted(input_ids=tokens).logits

        loaded = load_model(spliced, device="cpu", adapter=tmp_path).network
        plain = load_model(spliced, device="cpu").network

        torch.testing.assert_close(loaded(input_ids=tokens).logits, expected)
        assert (plain(input_ids=tokens).logits - expected).abs().max() > 1e-3


def test_an_adapter_of_another_model_is_an_error(spliced, tmp_path):
    peft = pytest.importorskip("peft")
    with pytest.raises(ValueError, match=r"holds no adapter_config\.json"):
        load_model(spliced, device="cpu", adapter=tmp_path)
    other = tiny_model("owl1", hidden_size=64)
    config = peft.LoraConfig(r=2, target_modules=["q_proj"])
    peft.get_peft_model(other, config).save_pretrained(tmp_path)

    with pytest.raises(ValueError, match="does not fit this model"):
        load_model(spliced, device="cpu", adapter=tmp_path)


@pytest.mark.parametrize("bits", [4, 8])
def test_without_bitsandbytes_the_option_says_what_is_missing(spliced, bits, monkeypatch):
    monkeypatch.setattr("owl.chat.session.find_spec", lambda name: None)

    with pytest.raises(SystemExit, match=f"--load-{bits}bit needs bitsandbytes"):
        main(["--model", str(spliced), f"--load-{bits}bit", "--ask", "Hm?", "--device", "cpu"])


@pytest.mark.skipif(find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed")
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("bits", "allowed"), [(8, 0.05), (4, 0.3)])
def test_a_quantised_model_answers_nearly_the_same(tmp_path, family, bits, allowed):
    model = tiny_model(family, hidden_size=64, intermediate_size=64)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" not in name:
                parameter.mul_(0.2)
    model.save_pretrained(tmp_path)
    write_llama_tokenizer(tmp_path)
    tokens = torch.tensor([[5, 6, 7, 8]])

    quantised = load_model(tmp_path, device="cpu", bits=bits).network

    with torch.no_grad():
        ours, whole = quantised(input_ids=tokens).logits, model(input_ids=tokens).logits
    kept = {name for name, part in quantised.named_modules() if type(part) is torch.nn.Linear}
    assert {name.rpartition(".")[2] for name in kept} <= {"lm_head"}
    assert 0 < (ours - whole).norm() <= allowed * whole.norm()


def test_an_exported_folder_chats(spliced, tmp_path, photo, monkeypatch, capsys):
    import_checkpoint(spliced, tmp_path / "start")
    options = ExportOptions(base=spliced, with_code=False)
    export_checkpoint(tmp_path / "start", tmp_path / "out", options)

    answers = []
    for folder in (spliced, tmp_path / "out"):
        arguments = ["chat", "--model", str(folder), "--image", str(photo), "--ask", "Hm?"]
        monkeypatch.setattr(sys, "argv", [*arguments, "--greedy", "--max-new-tokens", "3"])
        main()
        answers.append(capsys.readouterr().out)
    assert answers[0] == answers[1]
