# SPDX-License-Identifier: Apache-2.0
"""What came from a published folder goes back to the same bytes, and parts load elsewhere."""

import ast
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import Qwen2ForCausalLM, SiglipVisionModel

from owl.checkpoint.inference import loaded_model
from owl.checkpoint.stream import CheckpointTensors
from owl.checkpoint.tensor_spec import TensorSpec
from owl.config.load import CONFIGS
from owl.config.node import build_node
from owl.config.run import DeviceKind, ModelConfig, ParallelConfig, Precision, ProjectorKind
from owl.convert.check import check_ours
from owl.convert.command_line import parse
from owl.convert.export_part import Part
from owl.convert.families import PUBLISHED, weight_table
from owl.convert.from_hf import PIECE_BYTES, import_checkpoint
from owl.convert.to_hf import ExportOptions, export_checkpoint
from owl.errors import CheckpointError
from owl.families.owl3.config import FusionKind
from owl.families.owl3.published_config import read_config, write_config
from owl.mcore.parameters import global_names
from owl.mcore.process_groups import process_groups
from owl.mcore.provider import build_model
from tests.published import (
    VARIANTS,
    VOCABULARY,
    assert_same_bytes,
    random_weights,
    read_weights,
    small_config,
    write_published,
)
from tests.published import published_config as config_of
from tests.tiny_run import tiny_model
from tests.unit.data.shard_factory import write_tokenizer
from tests.unit.model.packs import make_pack

ROOT = Path(__file__).parents[3]
KEYS = ROOT / "tests/golden/owl3-7b-240728-keys.txt"
CONFIG = small_config("240728")
TOWER_END = "vision_model.encoder.layers.2.mlp.fc1.weight"


@pytest.fixture(scope="module")
def hf(tmp_path_factory) -> Path:
    """A small published folder."""
    return write_published(tmp_path_factory.mktemp("published") / "owl", "240728", config=CONFIG)


@pytest.fixture(scope="module")
def checkpoint(hf) -> Path:
    """The checkpoint imported from it."""
    output = hf.with_name("start")
    import_checkpoint(hf, output)
    return output


def export(checkpoint: Path, output: Path, **options) -> Path:
    export_checkpoint(checkpoint, output, ExportOptions(**options))
    return output


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("piece_bytes", [PIECE_BYTES, 1000])
def test_import_then_export_gives_the_same_bytes(tmp_path, monkeypatch, variant, piece_bytes):
    monkeypatch.setattr("owl.convert.from_hf.PIECE_BYTES", piece_bytes)
    hf = write_published(tmp_path / "hf", variant, files=2)
    import_checkpoint(hf, tmp_path / "start")

    exported = export(tmp_path / "start", tmp_path / "out", with_code=False)

    assert_same_bytes(read_weights(exported), random_weights(variant))
    before, after = config_of(variant), json.loads((exported / "config.json").read_text())
    # Token ids belong to a tokenizer, which this folder has not; the others belong to its code.
    dropped = {"auto_map", "transformers_version", "bos_token_id", "eos_token_id"}
    kept = {name: value for name, value in before.items() if name not in dropped}
    assert after == kept | {"sliding_window": after["sliding_window"]}


def test_the_file_is_what_safetensors_would_have_written(hf, checkpoint, tmp_path):
    exported = export(checkpoint, tmp_path / "out", with_code=False)

    expected = (hf / "model.safetensors").read_bytes()
    assert (exported / "model.safetensors").read_bytes() == expected
    assert sorted(path.name for path in exported.iterdir()) == [
        "README.md", "config.json", "model.safetensors",
    ]  # fmt: skip


def test_dtypes_may_differ_from_weight_to_weight(tmp_path):
    weights = random_weights("240728", CONFIG)
    weights["language_model.model.norm.weight"] = torch.randn(32)
    weights["vision_model.head.probe"] = torch.randn(1, 1, 16).half()
    hf = write_published(tmp_path / "hf", "240728", config=CONFIG, weights=weights)
    import_checkpoint(hf, tmp_path / "start")

    assert_same_bytes(read_weights(export(tmp_path / "start", tmp_path / "out")), weights)


def test_tensors_that_were_not_published_do_not_appear(tmp_path):
    weights = random_weights("240728", CONFIG)
    weights = {name: tensor for name, tensor in weights.items() if ".head." not in name}
    hf = write_published(tmp_path / "hf", "240728", config=CONFIG, weights=weights)
    import_checkpoint(hf, tmp_path / "start")

    assert_same_bytes(read_weights(export(tmp_path / "start", tmp_path / "out")), weights)


def test_shards_keep_their_bound_and_the_index_names_every_tensor(checkpoint, tmp_path):
    exported = export(checkpoint, tmp_path / "out", shard_bytes=40_000)

    files = sorted(exported.glob("*.safetensors"))
    index = json.loads((exported / "model.safetensors.index.json").read_text())
    contents = {file.name: load_file(file) for file in files}
    sizes = {name: sum(t.nbytes for t in tensors.values()) for name, tensors in contents.items()}
    assert files[0].name == f"model-00001-of-{len(files):05d}.safetensors"
    assert len(files) > 2 and max(sizes.values()) <= 40_000
    assert index["metadata"]["total_size"] == sum(sizes.values())
    assert index["weight_map"] == {n: f for f, tensors in contents.items() for n in tensors}
    assert_same_bytes(read_weights(exported), random_weights("240728", CONFIG))


def test_what_was_exported_in_shards_imports_again(checkpoint, tmp_path):
    exported = export(checkpoint, tmp_path / "out", shard_bytes=40_000)

    import_checkpoint(exported, tmp_path / "again")

    before, after = CheckpointTensors(checkpoint), CheckpointTensors(tmp_path / "again")
    assert before.specs == after.specs
    assert all(torch.equal(before.read(name), after.read(name)) for name in before.specs)


def test_another_dtype_rounds_every_tensor(checkpoint, tmp_path):
    exported = export(checkpoint, tmp_path / "out", dtype=torch.float16)

    expected = {n: t.half() for n, t in random_weights("240728", CONFIG).items()}
    assert_same_bytes(read_weights(exported), expected)
    assert json.loads((exported / "config.json").read_text())["torch_dtype"] == "float16"


@pytest.fixture
def base(tmp_path) -> Path:
    folder = tmp_path / "base"
    folder.mkdir()
    for name in (
        "merges.txt",
        "generation_config.json",
        "modeling_x.py",
        "preprocessor_config.json",
    ):
        (folder / name).write_text(name)
    (folder / "model.safetensors").write_text("not to be copied")
    (folder / "config.json").write_text(json.dumps(CONFIG | {"vocab_size": 5, "mood": "good"}))
    return folder


def test_tokenizer_and_code_come_from_the_base_folder(checkpoint, base, tmp_path):
    exported = export(checkpoint, tmp_path / "out", base=base, with_code=False)

    config = json.loads((exported / "config.json").read_text())
    assert (exported / "merges.txt").read_text() == "merges.txt"
    assert (exported / "generation_config.json").read_text() == "generation_config.json"
    assert (exported / "modeling_x.py").is_file()
    assert config["auto_map"] == CONFIG["auto_map"]
    assert (config["mood"], config["eos_token_id"], config["vocab_size"]) == (
        "good", 151645, VOCABULARY,
    )  # fmt: skip
    assert load_file(exported / "model.safetensors")


@pytest.fixture
def trained(checkpoint, tmp_path) -> Path:
    """The folder of a run that saved the checkpoint, trained with a tokenizer elsewhere."""
    tokenizer = write_tokenizer(tmp_path / "Qwen2")
    for name in ("config.json", "generation_config.json"):  # of another model
        (tokenizer / name).write_text('{"model_type": "qwen2", "of_another_model": true}')
    run = tmp_path / "run"
    shutil.copytree(checkpoint, run / "checkpoints/step_00000002")
    (run / "config.yaml").write_text(f"data:\n  tokenizer: {tokenizer}\n")
    return run


def test_the_tokenizer_of_the_run_is_taken_and_named(trained, tmp_path):
    said: list[str] = []
    options = ExportOptions(with_code=False)
    export_checkpoint(trained, tmp_path / "out", options, report=said.append)
    tokenizer = tmp_path / "Qwen2"
    expected = (tokenizer / "tokenizer.json").read_bytes()
    assert (tmp_path / "out/tokenizer.json").read_bytes() == expected
    assert not (tmp_path / "out/generation_config.json").exists()
    config = json.loads((tmp_path / "out/config.json").read_text())
    assert config["eos_token_id"] == 258
    assert "of_another_model" not in config
    (line,) = (line for line in said if "tokenizer" in line)
    assert f"data.tokenizer in {trained}/config.yaml), copied from {tokenizer}" in line


def test_a_tokenizer_in_the_base_folder_comes_before_that_of_the_run(trained, tmp_path):
    base = write_tokenizer(tmp_path / "base")
    (base / "tokenizer_config.json").write_text('{"model_max_length": 77}')
    said: list[str] = []
    export_checkpoint(
        trained, tmp_path / "out", ExportOptions(base=base, with_code=False), report=said.append
    )
    assert json.loads((tmp_path / "out/tokenizer_config.json").read_text()) == {
        "model_max_length": 77
    }
    assert not [line for line in said if "of the run" in line]


def test_a_tokenizer_of_the_run_that_is_gone_is_said(trained, tmp_path):
    shutil.rmtree(tmp_path / "Qwen2")
    said: list[str] = []
    options = ExportOptions(with_code=False)
    export_checkpoint(trained, tmp_path / "out", options, report=said.append)
    assert any("with --base (data.tokenizer=" in line and "no such folder" in line for line in said)


def test_a_tokenizer_of_a_larger_model_is_refused(checkpoint, tmp_path):
    (tmp_path / "base").mkdir()
    tokenizer = write_tokenizer(tmp_path / "base") / "tokenizer.json"
    definition = json.loads(tokenizer.read_text())
    definition["model"]["vocab"]["more"] = 300
    tokenizer.write_text(json.dumps(definition))
    with pytest.raises(CheckpointError, match="its tokenizer has 301 ids, the model only 259 rows"):
        export(checkpoint, tmp_path / "out", base=tmp_path / "base")
    assert not (tmp_path / "out").exists()


def test_without_code_there_is_no_auto_map(checkpoint, base, tmp_path):
    (base / "modeling_x.py").unlink()

    exported = export(checkpoint, tmp_path / "out", base=base, with_code=False)

    assert "auto_map" not in json.loads((exported / "config.json").read_text())


STRANGER = """
import sys
sys.modules["owl"] = None  # importing it now fails, installed or not
import torch
from transformers import AutoModelForCausalLM, AutoProcessor, AutoTokenizer
folder = sys.argv[1]
tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=True)
model = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True).eval()
assert type(AutoProcessor.from_pretrained(folder, trust_remote_code=True)).__module__ != "owl"
processor = model.init_processor(tokenizer)
messages = [{"role": "user", "content": "<|image|>?"}, {"role": "assistant", "content": ""}]
inputs = processor(messages, images=[torch.full((9, 9, 3), 99, dtype=torch.uint8)])
inputs.update({"tokenizer": tokenizer, "max_new_tokens": 2, "decode_text": True})
print(type(model.generate(**inputs)[0]).__name__)
"""


def test_the_default_export_works_for_a_stranger(checkpoint, tmp_path):
    base = tmp_path / "base"
    base.mkdir()
    write_tokenizer(base)
    (base / "README.md").write_text("---\nlicense: mit\nbase_model: them/theirs\n---\n# Theirs\n")
    exported = export(checkpoint, tmp_path / "out", base=base)

    files = {file.name for file in exported.iterdir()}
    expected = {"processor_config.json", "chat_template.jinja", "generation_config.json"}
    assert files >= expected | {"tokenizer_config.json", "README.md"}
    auto_map = json.loads((exported / "config.json").read_text())["auto_map"]
    assert all((exported / f"{place.split('.')[0]}.py").is_file() for place in auto_map.values())
    card = (exported / "README.md").read_text()
    assert "license: mit\nbase_model: them/theirs\n" in card
    assert "trust_remote_code=True" in card
    assert "owl.hf" not in card
    done = subprocess.run(
        [sys.executable, "-c", STRANGER, str(exported)],
        cwd=tmp_path,
        env=os.environ | {"HF_MODULES_CACHE": str(tmp_path / "modules"), "PYTHONPATH": ""},
        capture_output=True, text=True, timeout=120, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout == "str\n"


def test_code_of_the_base_folder_does_not_mix_with_ours(checkpoint, base, tmp_path):
    exported = export(checkpoint, tmp_path / "out", base=base)
    assert not (exported / "modeling_x.py").exists()
    config = (exported / "generation_config.json").read_text()
    assert config == "generation_config.json"  # as it was
    card = (exported / "README.md").read_text()
    assert "license: unknown\nbase_model: base\n" in card


def test_a_part_that_transformers_knows_needs_no_code(checkpoint, tmp_path):
    exported = export(checkpoint, tmp_path / "out", part=Part.language_model)
    assert not list(exported.glob("*.py"))


def test_the_language_model_is_a_plain_qwen2(checkpoint, tmp_path):
    exported = export(checkpoint, tmp_path / "qwen2", part=Part.language_model)

    qwen2, info = Qwen2ForCausalLM.from_pretrained(
        exported, dtype=torch.float32, output_loading_info=True
    )
    assert not any(info.values()), info
    text = make_pack([(9, []), (5, [])])
    with loaded_model(checkpoint) as loaded:
        ours = loaded.logits(text)
    theirs = [qwen2(sample[None]).logits[0] for sample in text.tokens.split(text.seqlens)]
    torch.testing.assert_close(ours, torch.cat(theirs), rtol=0, atol=1e-5)


def test_a_tied_language_model_stays_tied(tmp_path):
    hf = write_published(tmp_path / "hf", "241014", config=small_config("241014"))
    import_checkpoint(hf, tmp_path / "start")

    exported = export(tmp_path / "start", tmp_path / "qwen2", part=Part.language_model)

    qwen2, info = Qwen2ForCausalLM.from_pretrained(exported, output_loading_info=True)
    assert not any(info.values()), info
    assert qwen2.lm_head.weight is qwen2.model.embed_tokens.weight


def test_the_vision_model_is_a_plain_siglip(checkpoint, tmp_path):
    exported = export(checkpoint, tmp_path / "siglip", part=Part.vision_model)

    siglip, info = SiglipVisionModel.from_pretrained(
        exported, dtype=torch.float32, output_loading_info=True
    )
    assert not any(info.values()), info
    state = {f"vision_model.{n.removeprefix('vision_model.')}": t
             for n, t in siglip.state_dict().items()}  # fmt: skip
    expected = random_weights("240728", CONFIG)
    assert {name for name in expected if name.startswith("vision_model.")} == set(state)
    assert all(torch.equal(tensor, expected[name].float()) for name, tensor in state.items())


def test_a_dry_run_prints_the_805_published_names_and_shapes(monkeypatch, capsys):
    command = ["convert", "export", "--dry-run", "--model", "owl3_7b_240728"]
    monkeypatch.setattr(sys, "argv", command)

    run, options = parse()
    run(options)

    printed = dict(line.split("\t") for line in capsys.readouterr().out.splitlines())
    published = dict(line.split("\t") for line in KEYS.read_text().splitlines())
    assert len(printed) == 805
    assert {n: ast.literal_eval(s) for n, s in printed.items()} == {
        n: ast.literal_eval(s) for n, s in published.items()
    }


def test_a_combination_that_was_never_published_says_so_in_its_config():
    model = tiny_model(FusionKind.static_gate, projector=ProjectorKind.mlp)

    config = write_config(model, "float32")

    names = ["language_model.model.layers.1.self_attn.gate", "layers.1.self_attn.v_kv_proj.weight"]
    assert config["projector"] == "mlp"
    again = read_config(config, names, model.name)
    assert again == build_node(ModelConfig, vars(model))


def test_an_abstractor_has_no_published_form():
    with pytest.raises(CheckpointError, match="projector=abstractor cannot be exported"):
        write_config(tiny_model(projector=ProjectorKind.abstractor), "float32")


@pytest.mark.parametrize("part", ["owl3", "language-model", "vision-model"])
def test_every_model_that_dry_run_offers_has_an_answer(part, monkeypatch, capsys):
    for path in sorted((CONFIGS / "model").glob("*.yaml")):
        command = ["convert", "export", "--dry-run", "--model", path.stem, "--part", part]
        monkeypatch.setattr(sys, "argv", command)
        run, options = parse()
        refusal = "cannot be exported" if path.stem == "owl3_tiny_abstractor" else ""
        if part != "owl3":  # only Owl3's parts are published models of their own
            refusal = "" if path.stem.startswith("owl3") else f"--part {part} is not available"
        if refusal:
            with pytest.raises(CheckpointError, match=refusal):
                run(options)
        elif not path.stem.startswith("owl3") and part != "owl3":
            with pytest.raises(CheckpointError, match=f"--part {part} is not available for this"):
                run(options)
        else:
            run(options)
            assert "\t(" in capsys.readouterr().out


def test_an_abstractors_checkpoint_has_the_shapes_that_export_expects():
    model = tiny_model(projector=ProjectorKind.abstractor)
    one = ParallelConfig(device=DeviceKind.cpu)
    with process_groups(one, alone=True) as groups:
        weights = dict(global_names(build_model(model, one, Precision.fp32, groups)))
    specs = {name: TensorSpec(tuple(w.shape), w.dtype) for name, w in weights.items()}
    check_ours("the model", specs, weight_table(PUBLISHED[model.family], model))


def test_a_checkpoint_that_carries_nothing_gets_neutral_tensors(checkpoint, hf, tmp_path):
    import_checkpoint(hf, tmp_path / "bare")
    (tmp_path / "bare" / "carried.safetensors").unlink()
    lines: list[str] = []

    export_checkpoint(tmp_path / "bare", tmp_path / "out", report=lines.append)

    weights = read_weights(tmp_path / "out")
    assert sorted(weights) == sorted(random_weights("240728", CONFIG))
    assert not weights[TOWER_END].any()
    assert torch.equal(weights["vision_model.post_layernorm.weight"], torch.ones(16).bfloat16())
    assert any("written as zeros" in line for line in lines)


def test_weights_that_do_not_fit_the_architecture_are_named(checkpoint, hf, tmp_path):
    import_checkpoint(hf, tmp_path / "odd")
    about = tmp_path / "odd" / "model.json"
    about.write_text(json.dumps(json.loads(about.read_text()) | {"ffn_hidden_size": 40}))

    with pytest.raises(CheckpointError) as raised:
        export_checkpoint(tmp_path / "odd", tmp_path / "out")
    message = str(raised.value)
    assert "decoder.layers.0.mlp.linear_fc1.weight (language_model.model.layers.0.mlp" in message
    assert "has shape (96, 32), not (80, 32)" in message
    assert not (tmp_path / "out").exists()


def test_a_checkpoint_older_than_the_family_setting_is_an_owl3(hf, tmp_path):
    import_checkpoint(hf, tmp_path / "old")
    about = tmp_path / "old" / "model.json"
    values = json.loads(about.read_text())
    assert values.pop("family") == "owl3"
    about.write_text(json.dumps(values))

    exported = export(tmp_path / "old", tmp_path / "out")

    assert_same_bytes(read_weights(exported), random_weights("240728", CONFIG))
    assert "family" not in json.loads((exported / "config.json").read_text())


def test_a_damaged_checkpoint_is_refused_and_leaves_nothing(hf, tmp_path):
    import_checkpoint(hf, tmp_path / "damaged")
    for file in (tmp_path / "damaged").glob("*.distcp"):
        file.write_bytes(file.read_bytes()[:1000])

    with pytest.raises(CheckpointError, match=r"cannot be read from .*missing or damaged"):
        export_checkpoint(tmp_path / "damaged", tmp_path / "out")
    assert list(tmp_path.iterdir()) == [tmp_path / "damaged"]


def test_an_output_that_exists_is_not_overwritten(checkpoint, tmp_path):
    (tmp_path / "mine.txt").write_text("keep")

    with pytest.raises(CheckpointError, match="exists and is not empty"):
        export_checkpoint(checkpoint, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


KILLED = """
import os, signal, sys
from pathlib import Path
from owl.convert.files.safetensors_file import ShardedSafetensors
from owl.convert.to_hf import export_checkpoint

write, written = ShardedSafetensors.write_rows, []

def write_then_die(self, name, first, rows):
    written.append(name)
    if len(written) == 50:
        os.kill(os.getpid(), signal.SIGKILL)
    write(self, name, first, rows)

ShardedSafetensors.write_rows = write_then_die
export_checkpoint(Path(sys.argv[1]), Path(sys.argv[2]))
"""


def test_a_killed_export_leaves_no_folder_that_looks_whole(checkpoint, tmp_path):
    command = [sys.executable, "-c", KILLED, str(checkpoint), str(tmp_path / "out")]
    killed = subprocess.run(command, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)})

    assert killed.returncode == -signal.SIGKILL
    assert [path.name for path in tmp_path.iterdir()] == ["out.tmp"]

    exported = export(checkpoint, tmp_path / "out")
    assert_same_bytes(read_weights(exported), random_weights("240728", CONFIG))
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_scalars_and_empty_files_are_written_as_safetensors_does(tmp_path):
    from owl.checkpoint.tensor_spec import TensorSpec
    from owl.convert.files.safetensors_file import SafetensorsFile

    for tensors in (
        {},
        {"b": torch.tensor(2.5), "ä": torch.arange(3.0).half(), "a": torch.ones(1)},
    ):
        specs = {n: TensorSpec(tuple(t.shape), t.dtype) for n, t in tensors.items()}
        file = SafetensorsFile(tmp_path / "ours", specs)
        for name, tensor in tensors.items():
            file.write(name, tensor)
        file.close()
        save_file(tensors, tmp_path / "theirs", metadata={"format": "pt"})

        assert (tmp_path / "ours").read_bytes() == (tmp_path / "theirs").read_bytes()


def test_without_transformers_the_folder_has_no_code(checkpoint, tmp_path, monkeypatch):
    monkeypatch.setattr("owl.convert.to_hf.find_spec", lambda name: None)
    lines: list[str] = []
    output = tmp_path / "out"
    export_checkpoint(checkpoint, output, ExportOptions(), lines.append)
    assert any("needs transformers" in line for line in lines)
    assert not list(output.glob("*.py"))
