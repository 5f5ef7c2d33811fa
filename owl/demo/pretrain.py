# SPDX-License-Identifier: Apache-2.0
"""Train the two tiny models that a demo starts from: one on text, one on pictures.

Both are trained and saved by transformers, so that `owl.convert init` reads the same files as with
the published ones. Sizes are those of `model=owl3_tiny`.
"""

from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from random import Random
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from owl.config.run import FamilyKind
from owl.demo.digits import TRAINING, WORDS, distort, load_digits
from owl.demo.families import DEMOS, tiny_model
from owl.demo.text import TextSample, draw_text, text_encoders

SEED = 1
LANGUAGE_STEPS = 500
LANGUAGE_BATCH = 32
VISION_STEPS = 800
VISION_BATCH = 128
PROMPT_WEIGHT = 0.05
"""Weight in the loss of text other than answers: it is random, so there is little to learn."""
PATCH_WEIGHT = 0.3
"""Weight of the loss on each patch relative to that on their mean: Owl3 reads patches."""
REPORT_EVERY = 100

Report = Callable[[str], None]


def train_language_model(
    output: Path,
    tokenizer: Path,
    report: Report = print,
    *,
    family: FamilyKind = FamilyKind.owl3,
) -> None:
    """Train a language model on text about digits, and save it.

    Args:
        output: folder to write.
        tokenizer: folder of the demo's tokenizer.
        report: gets lines of progress.
        family: whose demo it is for.
    """
    torch.manual_seed(SEED)
    model = DEMOS[family].language_model(tiny_model(family))
    batches = _text_batches(draw_text(text_encoders(tokenizer, family), Random(SEED)))

    def loss() -> Tensor:
        tokens, weights = next(batches)
        return language_loss(model(input_ids=tokens).logits, tokens, weights)

    _fit(model, loss, steps=LANGUAGE_STEPS, learning_rate=3e-3, name="language", report=report)
    _save(model, output)


def train_vision_model(
    output: Path, report: Report = print, *, family: FamilyKind = FamilyKind.owl3
) -> None:
    """Train a tower to classify the training digits, and save it without the classifier.

    The classifier reads what the family's projector will read.
    """
    torch.manual_seed(SEED)
    demo, model = DEMOS[family], tiny_model(family)
    tower = demo.vision_model(model)
    classifier = nn.Linear(model.vision_tower.hidden_size, len(WORDS))
    digits = load_digits(TRAINING)
    pictures, labels = torch.from_numpy(digits.pictures), torch.from_numpy(digits.labels)
    generator = torch.Generator().manual_seed(SEED)

    def loss() -> Tensor:
        rows = torch.randint(len(digits), (VISION_BATCH,), generator=generator)
        features = demo.features(tower, distort(pictures[rows], generator))
        return naming_loss(classifier(features), labels[rows])

    both = nn.ModuleList([tower, classifier])
    _fit(both, loss, steps=VISION_STEPS, learning_rate=2e-3, name="vision", report=report)
    _save(tower, output)


def _save(model: Any, output: Path) -> None:
    """Save as transformers does, without its progress bar for one small file."""
    from transformers.utils import logging

    logging.disable_progress_bar()
    model.save_pretrained(output)


def language_loss(logits: Tensor, tokens: Tensor, weights: Tensor) -> Tensor:
    """Return the mean loss of predicting each next token.

    Args:
        logits: [b, s, v].
        tokens: [b, s] int64.
        weights: [b, s] how much each token counts as a target; 0 for padding.
    """
    losses = nn.functional.cross_entropy(
        logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten(), reduction="none"
    )
    counted = weights[:, 1:].flatten()
    return (losses * counted).sum() / counted.sum()


def naming_loss(scores: Tensor, labels: Tensor) -> Tensor:
    """Return the loss of classifying digits, from all patches together and from each alone.

    Args:
        scores: [n, p, 10], one row of scores per patch.
        labels: [n] 0..9.
    """
    together = nn.functional.cross_entropy(scores.mean(dim=1), labels)
    each = labels[:, None].expand(-1, scores.shape[1])
    alone = nn.functional.cross_entropy(scores.flatten(0, 1), each.flatten())
    return together + PATCH_WEIGHT * alone


def _text_batches(text: Iterator[TextSample]) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield (tokens, weights), each [b, s], padded to the longest sample."""
    while True:
        samples = list(islice(text, LANGUAGE_BATCH))
        weights = [sample.loss_weights.clamp(min=PROMPT_WEIGHT) for sample in samples]
        yield (
            pad_sequence([sample.tokens for sample in samples], batch_first=True),
            pad_sequence(weights, batch_first=True),
        )


def _fit(
    model: nn.Module,
    loss_of_next_batch: Callable[[], Tensor],
    *,
    steps: int,
    learning_rate: float,
    name: str,
    report: Report,
) -> None:
    """Train with AdamW: a short warm-up, then a cosine to zero."""
    parameters = list(model.parameters())
    optimizer = torch.optim.AdamW(parameters, lr=learning_rate, betas=(0.9, 0.95))
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, learning_rate, total_steps=steps, pct_start=0.05
    )
    model.train()
    for step in range(1, steps + 1):
        optimizer.zero_grad()
        loss = loss_of_next_batch()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        if step % REPORT_EVERY == 0 or step == steps:
            report(f"{name} model: step {step}/{steps}, loss {loss.item():.3f}")
