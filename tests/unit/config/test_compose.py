# SPDX-License-Identifier: Apache-2.0
"""What YAML files and overrides compose to, and what is set aside on the way."""

from pathlib import Path

import pytest
import yaml

from owl.config.load import CONFIGS, MACHINES, compose, to_yaml
from owl.config.run import (
    CutPolicy,
    LoraTarget,
    Precision,
    Recompute,
    RunConfig,
    ScaleKind,
    SourceConfig,
    Trainable,
)
from owl.families.owl3.config import FusionKind

FILES = (path.relative_to(CONFIGS).with_suffix("") for path in CONFIGS.glob("*/**/*.yaml"))
CHOICES = sorted(
    f"{file.parts[0]}={'/'.join(file.parts[1:])}" for file in FILES if file.parts[0] != MACHINES
)


def composed(*overrides: str, config: str = "pretrain") -> RunConfig:
    run, problems = compose(config, overrides)
    assert problems == []
    return run


def problems_of(*overrides: str) -> list[str]:
    return compose("pretrain", overrides)[1]


@pytest.mark.parametrize("config", ["pretrain", "finetune"])
@pytest.mark.parametrize("choice", CHOICES)
def test_every_yaml_file_composes(config: str, choice: str):
    composed(choice, config=config)


def test_the_bare_default_is_the_tiny_model_on_demo_data_in_one_process():
    run = composed()

    assert run.model.name == "owl3_tiny"
    assert run.data.demo
    assert run.scale == ScaleKind.demo
    assert run.precision == Precision.fp32
    assert run.parallel.tensor * run.parallel.pipeline == 1
    assert list(run.problems()) == []


@pytest.mark.parametrize("spelling", ["+experiment=stage2", "experiment=stage2"])
def test_an_experiment_is_chosen_with_or_without_a_plus(spelling: str):
    assert composed(spelling).stage.name == "stage2"


@pytest.mark.parametrize(
    ("experiment", "steps", "samples", "text_tokens", "rate", "least", "recompute"),
    [
        ("stage1", 20_000, 2048, 768, 1e-3, 1e-5, Recompute.none),
        ("stage2", 3_000, 1024, 4096, 2e-5, 1e-7, Recompute.full),
        ("stage3", 11_000, 1024, 4096, 2e-5, 1e-7, Recompute.full),
    ],
)
def test_published_amounts_are_those_of_the_paper(
    experiment, steps, samples, text_tokens, rate, least, recompute
):
    run = composed(f"+experiment={experiment}", "scale=published")

    assert (run.stage.train_steps, run.batch.samples_per_step) == (steps, samples)
    assert run.pack.text_tokens == text_tokens
    assert (run.optim.learning_rate, run.optim.min_learning_rate) == (rate, least)
    assert run.optim.warmup_fraction == 0.03
    assert run.parallel.recompute == recompute
    assert run.precision == Precision.bf16
    assert not run.stage.trainable.vision_tower
    assert run.stage.trainable.language_model == (experiment != "stage1")


@pytest.mark.parametrize(
    ("experiment", "steps", "samples", "text_tokens", "rate", "least", "warmup_steps", "trained"),
    [
        ("owl2/stage1", 42_500, 8192, 256, 1e-4, 1e-6, 1000, "vision_tower projector fusion"),
        ("owl2/stage2", 4_800, 256, 2048, 2e-5, 1e-7, 250,
         "vision_tower projector language_model fusion"),
        ("owl2/sft", 5_197, 128, 2048, 2e-5, 0.0, 156, "projector language_model fusion"),
        ("owl1/stage1", 50_000, 4096, 512, 1e-4, 1e-6, 2000, "vision_tower projector"),
        ("owl1/stage2", 2_000, 256, 1024, 2e-5, 0.0, 50, ""),
    ],
)  # fmt: skip
def test_earlier_families_are_trained_as_their_papers_and_scripts_say(
    experiment, steps, samples, text_tokens, rate, least, warmup_steps, trained
):
    family = experiment.split("/")[0]
    run = composed(f"+experiment={experiment}", f"model={family}_7b", "scale=published")

    assert (run.stage.train_steps, run.batch.samples_per_step) == (steps, samples)
    assert run.pack.text_tokens == text_tokens
    assert (run.optim.learning_rate, run.optim.min_learning_rate) == (rate, least)
    assert round(run.optim.warmup_fraction * steps) == pytest.approx(warmup_steps, rel=0.01)
    assert [p for p, learns in vars(run.trained_parts).items() if learns] == trained.split()
    assert run.model.family == family
    assert list(run.problems()) == []


def test_a_stage_of_another_family_brings_its_tiny_model_and_its_demo():
    run = composed("+experiment=owl1/stage2")
    assert run.model.name == "owl1_tiny"
    assert run.checkpoint.start_from == "demo_data/owl1/start"
    assert {name: (source.path, source.weight) for name, source in run.data.sources.items()} == {
        "demo": ("demo_data/owl1/shards/stage2", 1.0),
        "text": ("demo_data/owl1/shards/text", 1.0),
    }
    assert run.lora.is_on
    assert composed("+experiment=owl2/stage1", "model=owl2_7b_224").model.name == "owl2_7b_224"


def test_fine_tuning_trains_the_abstractor_beside_adapters():
    run = composed("+experiment=owl2/sft", "lora=all")
    assert [p for p, learns in vars(run.trained_parts).items() if learns] == ["projector"]
    assert list(run.problems()) == []


def test_demo_amounts_are_small():
    run = composed("+experiment=stage1")
    assert run.stage.train_steps < 1000
    assert run.pack.enabled


def test_published_scale_switches_packing_off():
    assert not composed("scale=published").pack.enabled


def test_packing_stays_on_at_published_scale_when_the_user_says_so():
    assert composed("scale=published", "pack.enabled=true").pack.enabled


def test_stage3_cuts_pictures_as_published_but_the_demo_does_not():
    run = composed("+experiment=stage3")
    assert run.data.cut == CutPolicy.published
    assert run.data.sources["demo"].cut == CutPolicy.off


@pytest.mark.parametrize(
    ("experiment", "shards"),
    [("stage1", "stage1"), ("stage2", "stage2"), ("stage3", "stage2"), ("sft", "stage2")],
)
def test_the_demo_reads_the_shards_of_its_stage(experiment: str, shards: str):
    run = composed(f"+experiment={experiment}")
    assert run.data.sources["demo"].path == f"demo_data/shards/{shards}"


def test_a_new_entry_has_the_defaults_of_its_kind():
    run = composed("evaluate.sources.chats.path=/data/chats", "data.sources.demo.held_out=0.1")
    assert run.evaluate.sources == {"chats": SourceConfig(path="/data/chats")}
    assert run.data.sources["demo"].held_out == 0.1


def test_own_data_brings_no_demo_start():
    run = composed("data=example")
    assert run.checkpoint.start_from is None
    assert "demo" not in run.data.sources


@pytest.mark.parametrize(
    ("model", "vocabulary", "layers", "fusion", "tied"),
    [
        ("owl3_7b_240728", 151851, [0, 8, 16, 24], FusionKind.token_gate, False),
        ("owl3_7b_241101", 151651, [6, 14, 22, 25], FusionKind.joint_softmax, False),
        ("owl3_2b_241014", 151851, [6, 14, 22, 25], FusionKind.static_gate, True),
        ("owl3_1b_241014", 151851, [5, 12, 19, 21], FusionKind.static_gate, True),
    ],
)
def test_published_models_have_their_sizes(model, vocabulary, layers, fusion, tied):
    config = composed(f"model={model}").model

    assert config.vocab_size == vocabulary
    assert config.hyper_attention.layer_indices == layers
    assert config.hyper_attention.fusion == fusion
    assert config.tie_word_embeddings == tied
    assert config.vision_tower.patches_per_tile == 729
    assert list(config.problems()) == []


def test_interpolations_are_resolved():
    assert composed("+experiment=stage2", "output=out/${stage.name}").output == "out/stage2"


def test_an_interpolation_that_refers_to_nothing_is_a_problem():
    (problem,) = problems_of("output=${stage.nam}")
    assert problem.startswith("output=${stage.nam} refers to no setting")


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("parallel.tensr=2", "parallel.tensor"),
        ("paralell.tensor=2", "parallel.tensor"),
        ("tensor=2", "parallel.tensor"),
        ("optim.lerning_rate=1", "optim.learning_rate"),
        ("+model.hyper_attention.layer_index=[1]", "model.hyper_attention.layer_indices"),
        ("experimnt=stage1", "experiment=stage1"),
        ("model=owl3_tiney", "owl3_tiny"),
        ("precision=bf17", "bf16"),
        ("stage1", "experiment=stage1"),
    ],
)
def test_a_misspelling_is_answered_with_what_was_meant(typed: str, meant: str):
    (problem,) = problems_of(typed)
    assert typed.lstrip("+") in problem
    assert f"id you mean {meant}?" in problem


@pytest.mark.parametrize(
    ("typed", "rule"),
    [
        ("parallel.tensor=two", "a whole number"),
        ("parallel.tensor=2.5", "a whole number"),
        ("parallel.tensor=null", "a whole number"),
        ("parallel.sequence=3", "true or false"),
        ("model.hyper_attention.layer_indices=[1,x]", "a list such as [0, 8]"),
        ("model.hyper_attention.layer_indices=1", "a list such as [0, 8]"),
        ("data.cut=maybe", "one of off, on, published"),
        ("batch.global_batch_size=many", "a whole number or null"),
        ("parallel=7", "names no file in configs/parallel/"),
        ("model.vision_tower=7", "a group of settings"),
        ("optim.beta1=0.8,0.9", "several values"),
        ("optim.beta1=(", "cannot be read as name=value"),
        ("hydra.run.dir=x", "output=FOLDER"),
        ("~data.sources.nobody", "data.sources has: demo"),
        ("~parallel.tensor", "only entries of data.sources, evaluate.sources"),
    ],
)
def test_a_value_that_does_not_fit_names_the_rule(typed: str, rule: str):
    (problem,) = problems_of(typed)
    assert typed.split("=")[0] in problem
    assert rule in problem


def test_problems_are_gathered_and_the_rest_still_counts():
    run, problems = compose("pretrain", ["nonsense.key=1", "parallel.tensor=x", "seed=7"])
    assert len(problems) == 2
    assert run.seed == 7
    assert run.parallel.tensor == 1


def test_sources_are_added_and_dropped_by_name():
    run = composed("data.sources.mine.path=shards", "~data.sources.demo")
    assert {name: source.path for name, source in run.data.sources.items()} == {"mine": "shards"}


@pytest.mark.parametrize("word", ["off", "on"])
def test_off_and_on_are_words_for_an_enum(word: str):
    assert composed(f"data.cut={word}").data.cut == CutPolicy(word)


def test_several_settings_may_be_given_as_one_dictionary():
    run = composed("optim={beta1: 0.8, decay: linear}")
    assert (run.optim.beta1, run.optim.decay.name) == (0.8, "linear")


def test_own_yaml_is_found_and_its_mistakes_are_named(tmp_path: Path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "mine.yaml").write_text(
        "sources: {mine: {path: shards}}\ntokeniser: folder\ncut: off\n"
    )

    run, problems = compose("pretrain", ["data=mine"], config_dirs=[tmp_path])

    assert list(run.data.sources) == ["mine"]
    assert run.data.cut == CutPolicy.off
    assert len(problems) == 1
    assert "Did you mean data.tokenizer?" in problems[0]


def test_yaml_that_does_not_compose_is_one_problem_beside_others(tmp_path: Path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "mine.yaml").write_text("defaults: [nobody]\n")

    _, problems = compose("pretrain", ["data=mine", "seeed=1"], config_dirs=[tmp_path])

    assert len(problems) == 2
    assert "do not compose" in problems[0]


def test_scale_without_settings_is_reported_once(tmp_path: Path):
    (tmp_path / "mine.yaml").write_text(
        "defaults: [{scale: published}, _self_]\nstage: {name: mine}\n"
    )

    _, problems = compose("mine", [], config_dirs=[tmp_path])

    assert len(problems) == 1
    assert "no YAML file of this run sets recipe.published" in problems[0]


def test_a_run_survives_the_way_to_yaml_and_back(tmp_path: Path):
    run = composed("+experiment=stage3", "model=owl3_7b_241101", "scale=published")
    path = tmp_path / "config.yaml"
    path.write_text(to_yaml(run))

    assert compose("config", [], config_dirs=[tmp_path]) == (run, [])
    assert "${" not in path.read_text()
    assert yaml.safe_load(path.read_text())["stage"]["name"] == "stage3"


def test_the_unknown_settings_of_a_run_of_another_version_are_named(tmp_path: Path):
    path = tmp_path / "config.yaml"
    path.write_text("parallel: {tensr: 2}\n")
    _, (problem,) = compose("config", [], config_dirs=[tmp_path])
    assert "parallel.tensr=2" in problem
    assert "Did you mean parallel.tensor" in problem


@pytest.mark.parametrize("experiment", ["stage1", "stage2", "stage3", "sft"])
def test_lora_goes_with_any_experiment(experiment: str):
    run = composed(f"+experiment={experiment}", "lora=qv", "lora.rank=4")

    assert (run.lora.targets, run.lora.rank) == ([LoraTarget.q, LoraTarget.v], 4)
    # Everything but adapters is frozen, whatever the stage trains; part rates and logs follow.
    assert run.trained_parts.frozen == list(vars(run.stage.trainable))
    assert run.learning_parts == Trainable(
        vision_tower=False, projector=False, language_model=True, fusion=False
    )
    assert run.learns_from_text
    assert list(run.problems()) == []


def test_parts_can_be_trained_beside_adapters():
    run = composed("+experiment=stage1", "lora=all", "lora.also_train=[projector]")

    assert run.trained_parts.frozen == ["vision_tower", "language_model", "fusion"]
    assert composed("+experiment=stage1", "lora=off").trained_parts == run.stage.trainable


def test_a_part_has_adapters_or_is_trained_itself():
    run = composed("lora=all", "lora.also_train=[language_model]")

    (problem,) = run.problems()
    assert "lora.also_train has language_model, but lora.targets has adapters in it" in problem
