# SPDX-License-Identifier: Apache-2.0
"""The training state goes through JSON unchanged."""

import json

from owl.checkpoint.state import TrainState
from owl.data.samples import Cursor


def test_a_state_comes_back_from_json():
    state = TrainState(
        step=7,
        consumed_tokens=700,
        consumed_tiles=70,
        skipped={"E301": 2},
        cursor=Cursor(epoch=1, window=2, pack=3, samples_consumed=40, fingerprint={"seed": "1"}),
    )

    assert TrainState.from_dict(json.loads(json.dumps(state.to_dict()))) == state


def test_keys_of_others_are_ignored():
    values = TrainState(step=7).to_dict() | {"layout": {"tensor": 2}}

    assert TrainState.from_dict(values) == TrainState(step=7)


def test_the_cursor_counts_the_samples():
    assert TrainState(cursor=Cursor(samples_consumed=5)).consumed_samples == 5
