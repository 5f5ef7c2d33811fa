# SPDX-License-Identifier: Apache-2.0
"""Tools must open a run's data exactly as the trainer does, or they would show another stream."""

from owl.config.run import RunConfig
from owl.data import opening
from owl.train import run as trainer


def recorded(module, monkeypatch):
    calls = []
    monkeypatch.setattr(module, "build_loader", lambda *nodes, **rest: calls.append((nodes, rest)))
    module.open_loader(RunConfig(), dp_rank=1, dp_size=4)
    ((nodes, rest),) = calls
    # How a rank gets its pixels is the trainer's own business.
    return nodes, {k: v for k, v in rest.items() if k not in ("read_pixels", "share_skips")}


def test_tools_and_trainer_ask_for_the_same_loader(monkeypatch):
    assert recorded(opening, monkeypatch) == recorded(trainer, monkeypatch)
