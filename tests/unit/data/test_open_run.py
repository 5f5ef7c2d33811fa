# SPDX-License-Identifier: Apache-2.0
"""How many packs make a step, and whether a model can read the data at all."""

from dataclasses import replace
from pathlib import Path

import pytest

from owl.config.run import BatchConfig
from owl.data.open_run import check_vocabulary, data_lines, open_loader, packs_per_step
from owl.errors import ConfigError
from tests.tiny_run import tiny_run


def test_a_tokenizer_with_more_ids_than_the_model_is_refused(tmp_path):
    run = tiny_run(tmp_path)
    loader = open_loader(run)
    small = replace(run, model=replace(run.model, vocab_size=loader.tokenizer.vocab_size - 1))

    check_vocabulary(run, loader)
    with pytest.raises(ConfigError, match=r"model\.vocab_size=\d+ is too small"):
        check_vocabulary(small, loader)


def test_the_header_says_what_becomes_of_the_samples(tmp_path):
    run = tiny_run(tmp_path)
    folder = Path(next(iter(run.data.sources.values())).path)
    (folder / "later.tar").write_bytes(b"")
    header = "\n".join(data_lines(run, open_loader(run)))
    assert header.startswith("data, by ")
    assert "nothing is dropped" in header
    assert "later.tar" in header

    small = replace(run, pack=replace(run.pack, text_tokens=20))
    header = "\n".join(data_lines(small, open_loader(small)))
    assert "dropped: 100.0% of the samples, E401" in header
    assert "to keep them: data.oversize=split" in header


def test_a_number_of_packs_is_taken_as_it_is():
    batch = BatchConfig(global_batch_size=24)

    assert packs_per_step(batch, mean_samples_per_pack=7.5, dp_size=4) == 24


@pytest.mark.parametrize(
    ("samples", "mean", "micro", "dp_size", "packs"),
    [
        (256, 1.0, 1, 8, 256),  # packing off: as published
        (256, 8.0, 1, 1, 32),
        (256, 7.9, 1, 8, 32),
        (256, 7.9, 2, 8, 32),
        (100, 1.0, 3, 4, 96),  # the nearest multiple of 12
        (4, 100.0, 2, 8, 16),  # never less than one micro-batch a rank
    ],
)
def test_packs_hold_about_the_wanted_samples_in_whole_micro_batches(
    samples, mean, micro, dp_size, packs
):
    batch = BatchConfig(samples_per_step=samples, micro_batch_size=micro)

    assert packs_per_step(batch, mean_samples_per_pack=mean, dp_size=dp_size) == packs
