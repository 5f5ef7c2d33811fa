# SPDX-License-Identifier: Apache-2.0
"""The entry scripts as a user meets them: real processes, real exit codes."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

REPOSITORY = Path(__file__).parents[3]
FOUR_MISTAKES = (
    "parallel.tensor=3",
    "optim.lerning_rate=1e-4",
    "data.sources.demo.path=/no/such/shards",
    "model.hyper_attention.layer_indices=[1,99]",
)


def start(script: str, *words: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, script, *words],
        cwd=REPOSITORY,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=60,
    )


def assert_names_four_mistakes(text: str) -> None:
    assert "4 problems" in text
    assert "parallel.tensor=3 does not divide" in text
    assert "Use 1 or 2." in text
    assert "Did you mean optim.learning_rate?" in text
    assert "/no/such/shards" in text
    assert "layer_indices=[1, 99] names layers [99]" in text


@pytest.mark.parametrize("script", ["pretrain_owl3.py", "finetune_owl3.py"])
def test_four_mistakes_are_reported_at_once_before_anything_starts(script: str):
    done = start(script, *FOUR_MISTAKES)

    assert done.returncode == 2
    assert_names_four_mistakes(done.stderr)
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_only_rank_0_prints_but_all_ranks_stop():
    done = start("pretrain_owl3.py", *FOUR_MISTAKES, RANK="1", LOCAL_RANK="1", WORLD_SIZE="2")
    assert (done.returncode, done.stdout, done.stderr) == (2, "", "")


def test_a_config_mistake_needs_neither_torch_nor_megatron():
    code = (
        "import sys; from owl.config.load import compose; compose('pretrain', []);"
        "sys.exit('torch' in sys.modules or 'megatron' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY).returncode == 0


def test_cfg_job_prints_the_complete_resolved_run():
    done = start(
        "pretrain_owl3.py",
        *("+experiment=stage2", "model=owl3_7b_240728", "scale=published", "parallel=tp4"),
        *("--cfg", "job"),
    )

    assert done.returncode == 0
    assert "${" not in done.stdout
    run = yaml.safe_load(done.stdout)
    assert run["parallel"]["tensor"] == 4
    assert run["stage"]["train_steps"] == 3000
    assert run["model"]["hidden_size"] == 3584


def test_help_lists_choices_and_a_sentence_for_a_setting():
    done = start("pretrain_owl3.py", "--help")

    assert done.returncode == 0
    assert "owl2/stage1 | owl2/stage2 | sft | stage1 | stage2 | stage3" in done.stdout
    assert "parallel.tensor=1  (a whole number)" in done.stdout
    assert "Shard optimizer state over the data-parallel ranks" in done.stdout


def test_options_of_other_trainers_are_answered_with_the_setting():
    done = start("pretrain_owl3.py", "--tensor-parallel=2", "--cfg", "job")
    assert done.returncode == 2
    assert "--tensor-parallel=2 is not an option" in done.stderr


def test_a_config_dir_that_is_not_there_is_a_problem():
    done = start("pretrain_owl3.py", "--config-dir", "/no/such/dir", "--cfg", "job")
    assert done.returncode == 2
    assert "--config-dir /no/such/dir is not a folder" in done.stderr


def test_ctrl_c_ends_a_run_with_a_sentence():
    code = (
        "from owl.config.load import run_with_config\n"
        "def main(run): raise KeyboardInterrupt\n"
        "run_with_config('pretrain', main)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "output=runs/mine"], cwd=REPOSITORY, capture_output=True
    )
    assert done.returncode == 130
    assert done.stderr.decode().strip() == (
        "interrupted; the same command resumes from the newest checkpoint in runs/mine"
    )
