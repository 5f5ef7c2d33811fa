# SPDX-License-Identifier: Apache-2.0
"""The one line a step, and which ranks log."""

import logging

import pytest

from owl.logging import StepFigures, duration, logger, set_up_logging, step_line


@pytest.fixture(autouse=True)
def _as_found():
    handlers, level, propagate = logger.handlers[:], logger.level, logger.propagate
    megatron = logging.getLogger("megatron.core").level
    yield
    logger.handlers[:], logger.propagate = handlers, propagate
    logger.setLevel(level)
    logging.getLogger("megatron.core").setLevel(megatron)


def figures(**changes: float) -> StepFigures:
    values = {
        **{"step": 1200, "train_steps": 20000, "loss": 2.3141, "grad_norm": 1.21},
        **{"learning_rate": 9.8e-4, "samples": 2048, "target_tokens": 61234},
        **{"text_tokens_per_second": 412_300, "tiles_per_second": 3100, "text_fill": 0.97},
        **{"tile_fill": 0.88, "tflops_per_device": 405.2, "mfu": 0.41, "imbalance": 0.02},
        **{"measured_imbalance": 0.034, "step_seconds": 6.21, "wait_seconds": 0.02},
        **{"eta_seconds": 116_748},
    }
    return StepFigures(**{**values, **changes})


def test_a_step_is_one_line_with_units():
    assert step_line(figures()) == (
        "step 1200/20000 | loss 2.3141 | grad_norm 1.21 | lr 9.8e-04 | 2048 samples | 61k targets "
        "| 412k text tok/s | 3.1k img/s | fill 97% tok 88% img | 405 TFLOP/s per device, mfu 41% "
        "| imbalance 2% (measured 3%) | 6.21 s (0.02 for data) | eta 1d 8h"
    )


def test_what_is_not_known_is_left_out():
    assert "| 405 TFLOP/s per device |" in step_line(figures(mfu=None))
    assert "imbalance" not in step_line(figures(imbalance=None, measured_imbalance=None))


def test_a_part_with_a_rate_of_its_own_is_named():
    line = step_line(figures(part_rates={"vision_tower": 2e-5, "fusion": 1e-3}))

    assert "| lr 9.8e-04 (vision_tower 2.0e-05, fusion 1.0e-03) |" in line


def test_skipped_samples_are_shown_when_there_are_any():
    assert "skipped" not in step_line(figures())
    assert step_line(figures(skipped_samples=3)).endswith("| skipped 3")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0s"), (9.4, "9s"), (725, "12m 5s"), (3600, "1h 0m"), (116_748, "1d 8h"), (-1, "0s")],
)
def test_a_time_has_its_two_largest_units(seconds: float, text: str):
    assert duration(seconds) == text


def test_rank_0_informs_and_others_only_warn(capsys: pytest.CaptureFixture[str]):
    set_up_logging(rank=0)
    logger.info("here")
    set_up_logging(rank=3)
    logger.info("not logged")
    logger.warning("%s is late", "a shard")

    assert capsys.readouterr().err == "here\n[rank 3] WARNING a shard is late\n"
