# SPDX-License-Identifier: Apache-2.0
"""A new family is one folder and its registration lines: in a copy of the checkout, it trains.

The family (tests/families/toy) has a tower, a template and a published form of its own, and uses
the existing cross-attention.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
REGISTRATION = {
    # file: {line that is there: lines to add below it}
    "owl/config/choices.py": {
        '    owl3 = "owl3"  # mPLUG-Owl3': ['    toy = "toy"'],
    },
    "owl/config/families.py": {
        "from owl.families.owl3.config import HyperAttentionConfig": [
            "from owl.families.toy.config import ToyConfig"
        ],
        '        default_factory=HyperAttentionConfig, metadata={"family": FamilyKind.owl3}': [
            "    )",
            "    toy: ToyConfig = field(",
            '        default_factory=ToyConfig, metadata={"family": FamilyKind.toy}',
        ],
    },
    "owl/data/families.py": {
        "from owl.families.owl3.reading import Owl3Reading": [
            "from owl.families.toy import work as toy_work",
            "from owl.families.toy.reading import ToyReading",
        ],
        "    FamilyKind.owl3: Owl3Reading.of_model,": ["    FamilyKind.toy: ToyReading.of_model,"],
        "    FamilyKind.owl3: owl3_work,": ["    FamilyKind.toy: toy_work,"],
    },
    "owl/model/families.py": {
        "from owl.families.owl3 import model as owl3": [
            "from owl.families.toy import model as toy"
        ],
        "    FamilyKind.owl3: owl3,": ["    FamilyKind.toy: toy,"],
    },
    "owl/convert/families.py": {
        "from owl.families.owl3 import published as owl3": [
            "from owl.families.toy import published as toy"
        ],
        "    FamilyKind.owl3: owl3,": ["    FamilyKind.toy: toy,"],
    },
}
"""What the family adds outside its folder. It has no inference code, so nothing in owl/hf."""

RUN = """
import json, sys
from dataclasses import replace
from pathlib import Path

from owl.config.load import to_yaml
from owl.config.run import *
from tests.tiny_run import EVERYTHING, losses, tiny_run
from tests.unit.data.shard_factory import write_tokenizer

folder, name, steps, tensor, pipeline = Path(sys.argv[1]), sys.argv[2], *map(int, sys.argv[3:])
tower = VisionTowerConfig(
    hidden_size=16, ffn_hidden_size=16, num_layers=2, num_attention_heads=2, image_size=28
)
model = ModelConfig(
    name="toy", family=FamilyKind.toy, template="toy", hidden_size=32, ffn_hidden_size=48,
    num_layers=4, num_attention_heads=4, num_kv_heads=2, vocab_size=259, vision_tower=tower,
)
run = tiny_run(folder, train_steps=steps, model=model, precision=Precision.fp64)
run.output = str(folder / name)
run.parallel = replace(run.parallel, tensor=tensor, pipeline=pipeline)
(folder / f"{name}.yaml").write_text(to_yaml(run))
"""
TRAIN = """
import sys
from owl.command.train import main

if __name__ == "__main__":  # saving starts processes that import this file again
    main(sys.argv[1], ["--config-dir", sys.argv[2]])
"""


@pytest.fixture(scope="module")
def checkout(tmp_path_factory) -> Path:
    """A copy of the checkout with the family's folder and its registration, and nothing else."""
    copy = tmp_path_factory.mktemp("checkout")
    for name in ("owl", "configs", "tests"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "tests/families/toy", copy / "owl/families/toy")
    for file, additions in REGISTRATION.items():
        text = (copy / file).read_text()
        for anchor, lines in additions.items():
            assert text.count(f"{anchor}\n") == 1, f"{file} has no line {anchor!r}"
            text = text.replace(f"{anchor}\n", "\n".join([anchor, *lines, ""]))
        (copy / file).write_text(text)
    return copy


def call(checkout: Path, *command: str | Path) -> str:
    environment = os.environ | {"PYTHONPATH": str(checkout), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *map(str, command)],
        cwd=checkout,
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


def train(checkout: Path, folder: Path, name: str, steps: int, *, tensor: int, pipeline: int):
    """Train in a job of tensor * pipeline processes; return the loss of each step."""
    call(checkout, "-c", RUN, folder, name, str(steps), str(tensor), str(pipeline))
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node")
    (checkout / "train_toy.py").write_text(TRAIN)
    call(checkout, *launcher, str(tensor * pipeline), "train_toy.py", name, folder)
    lines = (folder / name / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line)["loss"] for line in lines]


@pytest.mark.timeout(900)
def test_a_family_in_one_folder_trains_resumes_exports_and_imports(checkout, tmp_path):
    alone = train(checkout, tmp_path, "alone", 5, tensor=1, pipeline=1)
    stages = train(checkout, tmp_path, "stages", 5, tensor=1, pipeline=2)
    tensor = train(checkout, tmp_path, "tensor", 5, tensor=2, pipeline=1)
    for step in (4, 5):
        shutil.rmtree(tmp_path / f"tensor/checkpoints/step_{step:08}")
    resumed = train(checkout, tmp_path, "tensor", 5, tensor=2, pipeline=1)

    assert len(alone) == 5
    # In float64 Megatron still measures the norm to clip by, and stores Adam's state, in float32.
    assert stages == pytest.approx(alone, rel=1e-9)
    assert tensor == pytest.approx(alone, rel=1e-9)
    assert resumed == pytest.approx(tensor, rel=1e-9)

    convert = ("-m", "owl.convert")
    exported, imported, again = (tmp_path / name for name in ("exported", "imported", "again"))
    call(checkout, *convert, "export", "--checkpoint", tmp_path / "tensor", "--output", exported)
    call(checkout, *convert, "import", "--hf", exported, "--output", imported)
    call(checkout, *convert, "export", "--checkpoint", imported, "--output", again)
    weights = [folder / "model.safetensors" for folder in (exported, again)]
    assert weights[0].read_bytes() == weights[1].read_bytes()
    assert json.loads((again / "config.json").read_text())["model_type"] == "toy"


def test_the_copy_keeps_the_import_rules(checkout):
    call(
        checkout,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "tests/unit/test_import_picture.py",
    )
