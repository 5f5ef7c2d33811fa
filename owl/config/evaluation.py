# SPDX-License-Identifier: Apache-2.0
"""The evaluation node: what a run measures on data that it does not train on."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from owl.config.choices import MetricKind
from owl.config.data import SourceConfig
from owl.config.rules import too_small


@dataclass(kw_only=True)
class EvaluateConfig:
    """Loss on held-out samples and answers to questions, at an interval and after the last step."""

    every_steps: int = 500
    """Steps between two evaluations, if there is anything to evaluate."""
    sources: dict[str, SourceConfig] = field(default_factory=dict)
    """Prepared folders whose loss is computed, by name; besides those parts of the training data
    that data.sources.NAME.held_out keeps from training."""
    samples: int = 256
    """Samples of each source, about; the same each time."""
    questions: str = ""
    """File of questions to answer, as `owl evaluate` reads it."""
    metric: MetricKind = MetricKind.exact
    max_questions: int = 64
    """Questions that are asked, evenly spaced in the file."""
    batch_size: int = 8
    """Questions that share a pack."""

    def problems(self) -> Iterator[str]:
        """Yield one problem for each setting that cannot work."""
        yield from too_small("evaluate.every_steps", self.every_steps, 1, "it counts steps")
        yield from too_small("evaluate.samples", self.samples, 1, "a loss needs a sample")
        yield from too_small("evaluate.max_questions", self.max_questions, 1, "it counts questions")
        yield from too_small("evaluate.batch_size", self.batch_size, 1, "it counts questions")
        if self.questions and not Path(self.questions).exists():
            yield (
                f"evaluate.questions={self.questions} does not exist. Name a jsonl file, or leave "
                'it out with evaluate.questions="".'
            )
