# SPDX-License-Identifier: Apache-2.0
"""A conversation with a model: its history, its pictures, and answers that come word by word."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event, Thread
from typing import Any

import torch
from transformers import StoppingCriteria, StoppingCriteriaList, TextIteratorStreamer

from owl.hf import Owl3ForConditionalGeneration, Owl3Processor


@dataclass(frozen=True)
class ChatOptions:
    """How questions are shown and answers are drawn."""

    max_new_tokens: int = 512
    greedy: bool = False
    cut: bool = True
    max_tiles: int | None = None
    max_frames: int = 16


@dataclass
class Model:
    """A loaded model and what reads for it."""

    network: Owl3ForConditionalGeneration
    processor: Owl3Processor


def load_model(folder: Path, *, device: str | None = None, dtype: str = "auto") -> Model:
    """Load a published or exported folder.

    Args:
        folder: with weights, config.json and tokenizer.
        device: such as cpu or cuda; by default a GPU where there is one.
        dtype: auto is that of the weights.

    Raises:
        ValueError: the device is not there, or the tokenizer is of another model.
    """
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise ValueError(f"--device {device}: torch {torch.__version__} finds no GPU. Say cpu.")
    network = Owl3ForConditionalGeneration.from_pretrained(folder, dtype=dtype)
    processor = Owl3Processor.from_pretrained(folder)
    ids, rows = len(processor.tokenizer), network.config.vocab_size
    if ids > rows:
        raise ValueError(
            f"the tokenizer in {folder} has {ids} ids, the model only {rows} rows. Put the files "
            "of the tokenizer there that the model was trained with."
        )
    return Model(network.to(device).eval(), processor)


@dataclass
class Chat:
    """One conversation."""

    model: Model
    options: ChatOptions = field(default_factory=ChatOptions)
    history: list[dict[str, Any]] = field(default_factory=list)
    waiting: list[dict[str, Any]] = field(default_factory=list)
    """Media that go in front of the next question."""

    def show(self, kind: str, source: Any) -> None:
        """Put an image or a video (`kind`) in front of the next question."""
        self.waiting.append({"type": kind, kind: source})

    def reset(self) -> None:
        """Forget everything said and shown."""
        self.history.clear()
        self.waiting.clear()

    def ask(self, question: str) -> Iterator[str]:
        """Ask, and yield the answer piece by piece.

        A question that fails leaves no trace: its media are dropped, the history stays.

        Raises:
            ValueError: a picture or video cannot be read.
        """
        content = [*self.waiting, {"type": "text", "text": question}]
        self.waiting = []
        asked = [*self.history, {"role": "user", "content": content}]
        inputs = self.model.processor.apply_chat_template(
            asked,
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            cut_enable=self.options.cut,
            max_tiles=self.options.max_tiles,
            max_frames=self.options.max_frames,
        )
        pieces = []
        for piece in self._stream(inputs):
            pieces.append(piece)
            yield piece
        self.history = [*asked, {"role": "assistant", "content": "".join(pieces)}]

    def _stream(self, inputs: Mapping[str, Any]) -> Iterator[str]:
        """Generate in a thread of its own, so that text can be shown as it comes."""
        network, tokenizer = self.model.network, self.model.processor.tokenizer
        streamer = TextIteratorStreamer(tokenizer, skip_prompt=True, skip_special_tokens=True)
        stopped, failures = Event(), []
        settings: dict[str, Any] = {"max_new_tokens": self.options.max_new_tokens}
        if self.options.greedy:
            settings["do_sample"] = False

        def generate() -> None:
            try:
                network.generate(
                    **_to_device(inputs, network.device),
                    **settings,
                    tokenizer=tokenizer,
                    streamer=streamer,
                    stopping_criteria=StoppingCriteriaList([_StopWhen(stopped)]),
                )
            except Exception as error:  # handed to the thread that reads
                failures.append(error)
                streamer.end()

        thread = Thread(target=generate, daemon=True)
        thread.start()
        try:
            yield from streamer
        finally:
            stopped.set()  # also when the reader went away in the middle of an answer
            thread.join()
        if failures:
            raise failures[0]


class _StopWhen(StoppingCriteria):
    """Ends generation once an event is set."""

    def __init__(self, event: Event) -> None:
        self.event = event

    def __call__(self, input_ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
        return torch.full((len(input_ids),), self.event.is_set(), device=input_ids.device)


def _to_device(inputs: Mapping[str, Any], device: torch.device) -> dict[str, Any]:
    return {
        name: value.to(device) if isinstance(value, torch.Tensor) else value
        for name, value in inputs.items()
    }
