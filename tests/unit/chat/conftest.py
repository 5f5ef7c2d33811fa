# SPDX-License-Identifier: Apache-2.0
"""A tiny model to chat with."""

import pytest
from PIL import Image

from owl.chat.session import Chat, ChatOptions, load_model
from tests.unit.data.shard_factory import write_tokenizer
from tests.unit.families.owl3.hf.conftest import build


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("owl3")
    build("joint_softmax").save_pretrained(path)
    write_tokenizer(path)
    return path


@pytest.fixture
def chat(folder) -> Chat:
    return Chat(load_model(folder, device="cpu"), ChatOptions(max_new_tokens=5, greedy=True))


@pytest.fixture
def photo(tmp_path):
    path = tmp_path / "photo.png"
    Image.new("RGB", (30, 20), "red").save(path)
    return path
