# SPDX-License-Identifier: Apache-2.0
"""Questions about a composed run: within a node, and across nodes."""

import pytest

from owl.config.check import check_run, run_problems
from owl.config.load import compose
from owl.config.run import RunConfig
from owl.errors import ConfigError


def run_of(*overrides: str) -> RunConfig:
    run, problems = compose("pretrain", overrides)
    assert problems == []
    return run


def test_the_bare_demo_has_no_problems():
    assert run_problems(run_of(), world_size=1) == []


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("model.num_attention_heads=3", "model.num_attention_heads=3 does not divide"),
        ("model.num_kv_heads=3", "model.num_kv_heads=3 does not divide"),
        ("model.hyper_attention.layer_indices=[1,4]", "names layers [4]"),
        ("model.hyper_attention.layer_indices=[3,1]", "Write [1, 3] instead"),
        ("model.hyper_attention.layer_indices=[1,1,3]", "Write [1, 3] instead"),
        ("model.hyper_attention.layer_indices=[]", "no layer that sees images"),
        ("model.hyper_attention.media_position_shift=2", "neither 1"),
        ("model.vision_tower.num_layers=1", "model.vision_tower.num_layers=1 is below 2"),
        ("model.vision_tower.image_size=7", "model.vision_tower.image_size=7 is below 14"),
        ("model.vision_tower.num_attention_heads=5", "does not divide model.vision_tower.hidden"),
        ("model.vocab_size=0", "model.vocab_size=0 is below 1"),
        ("data.num_workers=-1", "data.num_workers=-1 is below 0"),
        ("data.max_skipped_fraction=2", "data.max_skipped_fraction=2.0 is outside"),
        ("pack.tiles=0", "pack.tiles=0 is below 1"),
        ("pack.window=0", "pack.window=0 is below 1"),
        ("batch.micro_batch_size=0", "batch.micro_batch_size=0 is below 1"),
        ("batch.samples_per_step=null", "are both null"),
        ("stage.train_steps=0", "stage.train_steps=0 is below 1"),
        ("lora.rank=0", "lora.rank=0 is below 1"),
        ("lora.alpha=0", "lora.alpha=0.0 must be above 0"),
        ("lora.dropout=1", "lora.dropout=1.0 is outside 0 <= value < 1"),
        ("optim.learning_rate=0", "optim.learning_rate=0.0 must be above 0"),
        ("optim.min_learning_rate=1", "optim.min_learning_rate=1.0 must be between 0"),
        ("optim.rates.projector=0", "optim.rates.projector=0.0 must be above 0"),
        ("optim.tower_layer_decay=0", "optim.tower_layer_decay=0.0 is outside"),
        ("optim.tower_layer_decay=1.1", "optim.tower_layer_decay=1.1 is outside"),
        ("optim.warmup_fraction=1.5", "optim.warmup_fraction=1.5 is outside"),
        ("optim.beta2=1", "optim.beta2=1.0 is outside"),
        ("optim.eps=0", "optim.eps=0.0 must be above 0"),
        ("optim.clip_grad_norm=-1", "optim.clip_grad_norm=-1.0 is below 0"),
        ("parallel.tensor=0", "parallel.tensor=0 is below 1"),
        (
            "parallel.sequence=true",
            "parallel.sequence=true shares rows inside a tensor-parallel group",
        ),
        ("parallel={backend: nccl, device: cpu}", "parallel.backend=nccl moves GPU tensors"),
        ("parallel.timeout_minutes=0", "parallel.timeout_minutes=0.0 must be above 0"),
        ("checkpoint.every_steps=0", "checkpoint.every_steps=0 is below 1"),
        ("log.every_steps=0", "log.every_steps=0 is below 1"),
    ],
)
def test_a_node_names_what_cannot_work(override: str, sentence: str):
    found = list(run_of(override).problems())
    assert any(sentence in problem for problem in found), found


@pytest.mark.parametrize(
    ("overrides", "world_size", "sentence"),
    [
        (["stage.trainable={projector: false, fusion: false}"], 1, "every part frozen"),
        (["parallel.tensor=3"], 3, "parallel.tensor=3 does not divide model.num_attention_heads=4"),
        (["parallel.tensor=4"], 4, "parallel.tensor=4 does not divide model.num_kv_heads=2"),
        (["parallel.tensor=2"], 1, "2 ranks do not divide the 1 process(es)"),
        (
            ["parallel.pipeline=3"],
            3,
            "parallel.pipeline=3 x parallel.virtual_pipeline=1 do not divide",
        ),
        (["batch.global_batch_size=33"], 2, "batch.global_batch_size=33 is not a multiple"),
        (["scale=published", "batch.samples_per_step=2047"], 2, "Use 2046 or 2048."),
        (["model=owl3_7b_240728"], 1, "made for model=owl3_tiny"),
        (["scale=published", "checkpoint.start_from=null"], 1, "checkpoint.start_from=null"),
    ],
)
def test_a_question_across_nodes_is_asked(overrides: list[str], world_size: int, sentence: str):
    found = run_problems(run_of(*overrides), world_size)
    assert len(found) == 1
    assert sentence in found[0]


def test_the_tower_counts_in_tensor_parallelism():
    run = run_of("model=owl3_7b_240728", "parallel.tensor=4", "dry_run=true")
    run.model.vision_tower.ffn_hidden_size = 4306
    (problem,) = run_problems(run, world_size=4)
    assert "model.vision_tower.ffn_hidden_size=4306" in problem
    assert "Use 1 or 2." in problem


@pytest.mark.parametrize("layout", ["one", "tp2", "tp4", "tp4_pp2"])
def test_the_published_7b_fits_the_layouts_on_offer(layout: str):
    run = run_of("model=owl3_7b_240728", "scale=published", f"parallel={layout}", "dry_run=true")
    assert run_problems(run, world_size=8) == []


def test_a_plan_for_many_ranks_is_made_on_one():
    run = run_of("model=owl3_7b_240728", "scale=published", "parallel=tp4", "dry_run=true")
    assert run_problems(run, world_size=1) == []


def test_a_start_that_does_not_exist_is_named():
    run = run_of("data=example", "checkpoint.start_from=/no/such/start")
    assert any("checkpoint.start_from=/no/such/start" in p for p in run_problems(run, 1))


def test_a_package_that_is_asked_for_must_be_installed():
    found = run_problems(run_of("model.layer_backend=transformer_engine"), world_size=1)
    assert [p for p in found if "needs the package transformer_engine" in p]


def test_check_run_raises_with_all_of_them():
    run = run_of("parallel.tensor=3", "optim.beta1=2", "pack.tiles=0")
    with pytest.raises(ConfigError, match="3 problems") as caught:
        check_run(run, world_size=3)
    assert len(caught.value.problems) == 3
