# SPDX-License-Identifier: Apache-2.0
"""Published folders become checkpoints that training loads, or one clear error and nothing."""

import json
import re
import resource
import shutil
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from owl.checkpoint.load import load_model_config, load_weights
from owl.checkpoint.stream import CheckpointTensors
from owl.config.run import DeviceKind, ParallelConfig, Precision
from owl.convert.files.atomic_folder import atomic_folder
from owl.convert.files.reader import HfFolder
from owl.convert.from_hf import import_checkpoint
from owl.errors import CheckpointError
from owl.families.owl3.published import entries
from owl.mcore.parameters import global_names
from owl.mcore.process_groups import process_groups
from owl.mcore.provider import build_model
from tests.published import (
    VARIANTS,
    VOCABULARY,
    published_model,
    random_weights,
    small_config,
    write_published,
)

Q_PROJ = "language_model.model.layers.3.self_attn.q_proj.weight"
OUR_QKV = "decoder.layers.3.self_attention.linear_qkv.weight"
LM_HEAD = "language_model.lm_head.weight"
EMBEDDING = "language_model.model.embed_tokens.weight"
OUR_EMBEDDING = "embedding.word_embeddings.weight"


CONFIG, TIED_CONFIG = small_config("240728"), small_config("241014")


@pytest.fixture(scope="module")
def weights() -> dict[str, torch.Tensor]:
    return random_weights("240728", CONFIG)


def write_small(folder: Path, weights: dict[str, torch.Tensor], **changes) -> Path:
    return write_published(folder, "240728", **({"config": CONFIG, "weights": weights} | changes))


def loaded_weights(checkpoint: Path) -> dict[str, torch.Tensor]:
    """What a training run that starts from the checkpoint holds."""
    model, one = load_model_config(checkpoint), ParallelConfig(device=DeviceKind.cpu)
    with process_groups(one, alone=True) as groups:
        chunks = build_model(model, one, Precision.bf16, groups)
        load_weights(checkpoint, chunks, model, groups)
        return {name: weight.detach().clone() for name, weight in global_names(chunks)}


@pytest.mark.parametrize("variant", VARIANTS)
def test_training_starts_from_the_published_weights(tmp_path, variant):
    hf = write_published(tmp_path / "hf", variant)

    import_checkpoint(hf, tmp_path / "start")

    published = random_weights(variant)
    ours = loaded_weights(tmp_path / "start")
    for entry in entries(published_model(variant)):
        expected = entry.to_ours(tuple(published[name] for name in entry.published))
        assert torch.equal(ours.pop(entry.ours), expected), entry.ours
    assert not ours


def test_training_starts_from_large_weights_which_are_stored_in_pieces(tmp_path, monkeypatch):
    hf = write_published(tmp_path / "hf", "240728", config=CONFIG)
    import_checkpoint(hf, tmp_path / "whole")
    monkeypatch.setattr("owl.convert.from_hf.PIECE_BYTES", 1000)

    import_checkpoint(hf, tmp_path / "pieces")

    assert len(list(CheckpointTensors(tmp_path / "pieces").pieces(OUR_EMBEDDING))) > 10
    whole, pieces = loaded_weights(tmp_path / "whole"), loaded_weights(tmp_path / "pieces")
    assert whole.keys() == pieces.keys()
    assert all(torch.equal(weight, pieces[name]) for name, weight in whole.items())


def test_the_architecture_is_read_from_config_and_names(tmp_path):
    hf = write_published(tmp_path / "hf", "241014")

    model = import_checkpoint(hf, tmp_path / "start", name="one")

    assert model == load_model_config(tmp_path / "start")
    assert model.hyper_attention.layer_indices == [5, 12, 19, 21]
    assert (model.name, model.vocab_size, model.tie_word_embeddings) == ("one", VOCABULARY, True)


def test_several_files_give_the_same_checkpoint_as_one(tmp_path, weights):
    for files in (1, 3):
        hf = write_small(tmp_path / f"hf{files}", weights, files=files)
        import_checkpoint(hf, tmp_path / f"start{files}", name="small")

    one, three = (
        {path.name: path.read_bytes() for path in (tmp_path / f"start{files}").iterdir()}
        for files in (1, 3)
    )
    assert one == three


def without_hyper_layers(hf: Path) -> None:
    config = {k: v for k, v in CONFIG.items() if k != "hyper_layers"}
    (hf / "config.json").write_text(json.dumps(config))


def with_other_model_type(hf: Path) -> None:
    config = CONFIG | {"model_type": "llava"}
    (hf / "config.json").write_text(json.dumps(config))


def with_broken_json(hf: Path) -> None:
    (hf / "config.json").write_text('{"hidden_size": 32,')


def with_hyper_layers_beyond_the_end(hf: Path) -> None:
    config = CONFIG | {"hyper_layers": [1, 29]}
    (hf / "config.json").write_text(json.dumps(config))


def with_config(**changes):
    def spoil(hf: Path) -> None:
        (hf / "config.json").write_text(json.dumps(CONFIG | changes))

    return spoil


def with_tower(**changes):
    return with_config(vision_config=CONFIG["vision_config"] | changes)


def with_file(name: str, text: str):
    return lambda hf: (hf / name).write_text(text)


def with_a_header_that_lacks_dtypes(hf: Path) -> None:
    header = b'{"a":{"data_offsets":[0,4]}}'.ljust(32)
    file = hf / "model.safetensors"
    file.write_bytes(len(header).to_bytes(8, "little") + header + b"1234")


def truncated(hf: Path) -> None:
    file = hf / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])


def without_its_weights(hf: Path) -> None:
    (hf / "model.safetensors").unlink()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (without_hyper_layers, "config.json lacks hyper_layers"),
        (with_other_model_type, "model_type='llava', which is none of .*: owl3"),
        (with_broken_json, "config.json is not JSON"),
        (with_hyper_layers_beyond_the_end, r"hyper_layers=\[1, 29\] must be in 1\.\.4"),
        (with_config(hyper_layers=None), "hyper_layers=None must list"),
        (with_config(hyper_layers=[2, 2]), "must name no layer twice"),
        (with_config(hidden_size="32"), "hidden_size='32' must be a whole number"),
        (with_config(head_dim=16), "head_dim=16 must be hidden_size / num_attention_heads = 4"),
        (with_config(hidden_act="gelu"), "hidden_act='gelu' must be 'silu'"),
        (with_config(use_sliding_window=True), "use_sliding_window=True must be false"),
        (with_config(fusion="bogus"), "fusion='bogus' must be one of token_gate, static_gate"),
        (with_config(projector="abstractor"), "projector='abstractor' must be one of linear, mlp"),
        (with_config(vision_config=None), "vision_config=None, which must hold the sizes"),
        (with_tower(hidden_act="relu"), "vision_config.hidden_act='relu'"),
        (with_config(rope_scaling={"type": "linear", "factor": 2}), "rope_scaling=.*linear"),
        (with_config(rope_parameters={"rope_type": "yarn"}), "rope_parameters=.*yarn"),
        (with_file("config.json", "[]"), "config.json contains a list"),
        (with_file("model.safetensors.index.json", "{}"), "has no weight_map"),
        (with_file("model.safetensors.index.json", "[]"), "contains a list"),
        (with_a_header_that_lacks_dtypes, "missing field `dtype`"),
        (truncated, "not a complete safetensors file"),
        (without_its_weights, "none of model.safetensors"),
    ],
)
def test_a_bad_folder_gets_one_error_and_nothing_is_written(tmp_path, weights, spoil, message):
    hf = write_small(tmp_path / "hf", weights)
    spoil(hf)

    with pytest.raises(CheckpointError, match=message):
        import_checkpoint(hf, tmp_path / "start")
    assert list(tmp_path.iterdir()) == [hf]


def test_a_checkpoint_or_a_file_in_place_of_the_folder_says_what_to_do(tmp_path, weights):
    hf = write_small(tmp_path / "hf", weights)
    import_checkpoint(hf, tmp_path / "start")

    with pytest.raises(CheckpointError, match=r"start is a checkpoint.*owl\.convert export"):
        import_checkpoint(tmp_path / "start", tmp_path / "again")
    with pytest.raises(CheckpointError, match=r"config\.json is a file\. Name the folder"):
        import_checkpoint(hf / "config.json", tmp_path / "again")


def test_a_missing_file_of_several_is_named(tmp_path, weights):
    hf = write_small(tmp_path / "hf", weights, files=3)
    (hf / "model-00002-of-00003.safetensors").unlink()

    with pytest.raises(CheckpointError, match=r"model-00002-of-00003\.safetensors does not exist"):
        import_checkpoint(hf, tmp_path / "start")


def test_an_index_that_points_elsewhere_is_refused(tmp_path, weights):
    hf = write_small(tmp_path / "hf", weights, files=2)
    index = hf / "model.safetensors.index.json"
    index.write_text(index.read_text().replace("00001-of", "00003-of", 1))
    (hf / "model-00003-of-00002.safetensors").write_bytes(
        (hf / "model-00002-of-00002.safetensors").read_bytes()
    )

    with pytest.raises(CheckpointError, match=r"lists .* in model-00003"):
        import_checkpoint(hf, tmp_path / "start")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({Q_PROJ: None}, rf"{Q_PROJ} \({OUR_QKV}\) is missing; its shape would be \(32, 32\)"),
        ({Q_PROJ: (32, 31)}, rf"{Q_PROJ} \({OUR_QKV}\) has shape \(32, 31\), not \(32, 32\)"),
        ({"language_model.adapter": (2,)}, r"language_model\.adapter \(2,\) belongs to no weight"),
        (
            {"vision_model.head.probe": (1, 1, 8)},
            r"head\.probe \(carried along for export\) has shape \(1, 1, 8\), not \(1, 1, 16\)",
        ),
    ],
    ids=["missing", "misshapen", "unexpected", "carried"],
)
def test_a_wrong_tensor_is_named_on_both_sides(tmp_path, weights, change, message):
    changed = dict(weights)
    for name, shape in change.items():
        changed.pop(name, None)
        if shape:
            changed[name] = torch.zeros(shape, dtype=torch.bfloat16)
    hf = write_small(tmp_path / "hf", changed)

    with pytest.raises(CheckpointError, match=message):
        import_checkpoint(hf, tmp_path / "start")
    assert list(tmp_path.iterdir()) == [hf]


def test_parts_of_one_weight_must_have_one_dtype(tmp_path, weights):
    changed = weights | {Q_PROJ: weights[Q_PROJ].float()}
    hf = write_small(tmp_path / "hf", changed)

    with pytest.raises(CheckpointError, match=f"{OUR_QKV} is one tensor here"):
        import_checkpoint(hf, tmp_path / "start")


def test_integers_are_no_weights(tmp_path, weights):
    changed = weights | {Q_PROJ: torch.zeros(32, 32, dtype=torch.int8)}
    hf = write_small(tmp_path / "hf", changed)

    with pytest.raises(CheckpointError, match=r"has dtype I8\. .* quantised"):
        import_checkpoint(hf, tmp_path / "start")


def test_an_output_layer_that_repeats_the_embedding_is_stored_once(tmp_path):
    weights = random_weights("241014", TIED_CONFIG)
    weights[LM_HEAD] = weights[EMBEDDING].clone()
    hf = write_published(tmp_path / "hf", "241014", config=TIED_CONFIG, weights=weights)
    lines: list[str] = []

    import_checkpoint(hf, tmp_path / "start", report=lines.append)

    assert "output_layer.weight" not in loaded_weights(tmp_path / "start")
    assert any("stored once" in line for line in lines)


def test_an_output_layer_that_only_claims_to_be_tied_is_refused(tmp_path):
    weights = random_weights("241014", TIED_CONFIG)
    weights[LM_HEAD] = weights[EMBEDDING] + 1
    hf = write_published(tmp_path / "hf", "241014", config=TIED_CONFIG, weights=weights)

    with pytest.raises(CheckpointError, match="tie_word_embeddings=true, but"):
        import_checkpoint(hf, tmp_path / "start")


def test_what_is_there_already_is_only_replaced_when_asked(tmp_path, weights):
    hf = write_small(tmp_path / "hf", weights)
    (tmp_path / "start").mkdir()
    (tmp_path / "start" / "mine.txt").write_text("keep")

    with pytest.raises(CheckpointError, match="exists and is not empty"):
        import_checkpoint(hf, tmp_path / "start")
    assert (tmp_path / "start" / "mine.txt").read_text() == "keep"

    import_checkpoint(hf, tmp_path / "start", replace=True)
    assert not (tmp_path / "start" / "mine.txt").exists()


def test_an_interrupt_leaves_nothing_behind(tmp_path, weights, monkeypatch):
    hf = write_small(tmp_path / "hf", weights)
    read = HfFolder.read_rows

    def read_or_interrupt(folder: HfFolder, name: str, first: int, rows: torch.Tensor) -> None:
        if name == Q_PROJ:
            assert (tmp_path / "start.tmp").is_dir()
            raise KeyboardInterrupt
        read(folder, name, first, rows)

    monkeypatch.setattr(HfFolder, "read_rows", read_or_interrupt)

    with pytest.raises(KeyboardInterrupt):
        import_checkpoint(hf, tmp_path / "start")
    assert list(tmp_path.iterdir()) == [hf]


def test_a_full_disk_is_one_error_and_leaves_nothing_behind(tmp_path, weights):
    hf = write_small(tmp_path / "hf", weights)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))  # of bytes in a file
    try:
        with pytest.raises(CheckpointError, match=r"was not written: .*too large\. Make room"):
            import_checkpoint(hf, tmp_path / "start")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [path.name for path in tmp_path.iterdir()] == ["hf"]


def test_a_folder_of_a_later_transformers_imports_as_well(tmp_path, weights):
    config = {name: value for name, value in CONFIG.items() if name != "rope_theta"}
    config["rope_parameters"] = {"rope_type": "default", "rope_theta": 5e5}
    kept = {name: tensor for name, tensor in weights.items() if ".head." not in name}
    hf = write_small(tmp_path / "hf", kept, config=config)
    save_file(kept, hf / "model.safetensors")  # without metadata

    assert import_checkpoint(hf, tmp_path / "start").rope_theta == 5e5


@pytest.mark.parametrize(
    ("layout", "told"),
    [
        ({"tensor": 3}, "parallel.tensor=3 does not divide model.num_attention_heads=8"),
        ({"tensor": 8}, "parallel.tensor=8 does not divide model.num_kv_heads=4"),
        ({"pipeline": 3}, "parallel.pipeline=3"),
        ({"tensor": 0}, "parallel.tensor=0"),
    ],
)
def test_a_layout_that_cannot_train_the_model_is_refused(tmp_path, weights, layout, told):
    hf = write_small(tmp_path / "hf", weights)

    with pytest.raises(CheckpointError, match=told):
        import_checkpoint(hf, tmp_path / "start", layout=ParallelConfig(**layout))
    assert list(tmp_path.iterdir()) == [hf]


def test_a_layout_that_fits_changes_nothing(tmp_path, weights):
    hf = write_small(tmp_path / "hf", weights)
    import_checkpoint(hf, tmp_path / "start", layout=ParallelConfig(tensor=2, pipeline=2))
    assert loaded_weights(tmp_path / "start")


def test_an_output_that_cannot_be_made_is_one_error(tmp_path, weights):
    hf = write_small(tmp_path / "hf", weights)
    (tmp_path / "file").touch()

    with pytest.raises(CheckpointError, match=r"--output .* was not written: .*Not a dir"):
        import_checkpoint(hf, tmp_path / "file" / "start")


def test_a_folder_of_the_users_that_ends_in_tmp_stays(tmp_path, weights):
    hf = write_small(tmp_path / "hf", weights)
    (tmp_path / "start.tmp").mkdir()
    (tmp_path / "start.tmp" / "notes.txt").write_text("keep")

    with pytest.raises(CheckpointError, match=r"start\.tmp .* was not made by a conversion"):
        import_checkpoint(hf, tmp_path / "start")
    assert (tmp_path / "start.tmp" / "notes.txt").read_text() == "keep"


def test_what_a_killed_try_left_behind_goes_away(tmp_path, weights):
    hf = write_small(tmp_path / "hf", weights)
    with suppress(GeneratorExit), atomic_folder(tmp_path / "start") as partial:
        shutil.copytree(partial, tmp_path / "as-killed")
        raise GeneratorExit
    (tmp_path / "as-killed").rename(tmp_path / "start.tmp")

    import_checkpoint(hf, tmp_path / "start")

    assert sorted(path.name for path in tmp_path.iterdir()) == ["hf", "start"]
    assert not [path for path in (tmp_path / "start").iterdir() if "owl-convert" in path.name]


def test_no_checksums_are_computed_since_nobody_compares_them(tmp_path, weights):
    import_checkpoint(write_small(tmp_path / "hf", weights), tmp_path / "start")

    for file in (tmp_path / "start").glob("*.distcp"):
        # Each weight is a zip archive, whose directory tells the checksum of every member.
        directory = re.findall(rb"PK\x01\x02.{12}(.{4})", file.read_bytes(), re.DOTALL)
        assert directory
        assert set(directory) == {bytes(4)}, file
