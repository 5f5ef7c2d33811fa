# SPDX-License-Identifier: Apache-2.0
"""A conversation with a model: its history, its media, and streamed answers."""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from threading import Event, Thread
from typing import Any

import torch
from transformers import (
    AutoModelForImageTextToText,
    AutoProcessor,
    BitsAndBytesConfig,
    PreTrainedModel,
    ProcessorMixin,
    StoppingCriteria,
    StoppingCriteriaList,
    TextIteratorStreamer,
)

import owl.hf  # noqa: F401 - registers the families with the Auto classes


@dataclass(frozen=True)
class ChatOptions:
    """How media are encoded and answers are generated."""

    max_new_tokens: int = 512
    greedy: bool = False
    cut: bool = True
    max_tiles: int | None = None
    max_frames: int = 16


@dataclass
class Model:
    """A loaded model and its processor."""

    network: PreTrainedModel
    processor: ProcessorMixin


def load_model(
    folder: Path,
    *,
    device: str | None = None,
    dtype: str = "auto",
    bits: int | None = None,
    adapter: Path | None = None,
) -> Model:
    """Load a published or exported folder.

    Args:
        folder: with weights, config.json and tokenizer.
        device: such as cpu or cuda; by default a GPU if there is one.
        dtype: such as bfloat16; auto is that of the weights.
        bits: 4 or 8 to quantise the linear layers with bitsandbytes.
        adapter: PEFT folder of a LoRA for this model.

    Raises:
        ValueError: the device or a library is missing, the tokenizer is another model's, or the
            adapter does not fit.
    """
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise ValueError(f"--device {device}: torch {torch.__version__} finds no GPU. Use cpu.")
    settings: dict[str, Any] = {"dtype": dtype}
    if bits is not None:
        settings |= _quantised(bits, device)
    network = AutoModelForImageTextToText.from_pretrained(folder, **settings)
    if adapter is not None:
        network = _with_adapter(network, adapter)
    processor = AutoProcessor.from_pretrained(folder)
    ids, rows = len(processor.tokenizer), network.config.vocab_size
    if ids > rows:
        raise ValueError(
            f"the tokenizer in {folder} has {ids} ids, the model only {rows} rows. Put the files "
            "of the tokenizer there that the model was trained with."
        )
    # Quantised layers may not be moved.
    return Model((network if bits else network.to(device)).eval(), processor)


def _quantised(bits: int, device: str) -> dict[str, Any]:
    """Arguments of from_pretrained that quantise; 4 bits as the published command does."""
    if find_spec("bitsandbytes") is None:
        raise ValueError(
            f"--load-{bits}bit needs bitsandbytes, which is not installed: pip install "
            "bitsandbytes, or leave the option out."
        )
    nf4 = {
        "load_in_4bit": True,
        "bnb_4bit_quant_type": "nf4",
        "bnb_4bit_use_double_quant": True,
        "bnb_4bit_compute_dtype": torch.float32 if device == "cpu" else torch.float16,
    }
    how = BitsAndBytesConfig(**(nf4 if bits == 4 else {"load_in_8bit": True}))
    place = {} if device == "cpu" else {"device_map": {"": device}}
    return {"quantization_config": how, **place}


def _with_adapter(network: PreTrainedModel, adapter: Path) -> PreTrainedModel:
    """Put a LoRA's matrices beside the layers that it adapts."""
    if find_spec("peft") is None:
        raise ValueError(
            "--adapter needs peft, which is not installed: pip install peft, or export a merged "
            "model."
        )
    if not (adapter / "adapter_config.json").is_file():
        raise ValueError(f"--adapter {adapter} holds no adapter_config.json. Name a PEFT folder.")
    from peft import PeftModel, get_peft_model_state_dict, load_peft_weights

    try:
        adapted = PeftModel.from_pretrained(network, adapter)
    except (RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"--adapter {adapter} does not fit this model: {reason}") from error
    # peft only warns of matrices without a layer, and of layers without matrices.
    stored = load_peft_weights(str(adapter), device="cpu")
    if unplaced := sorted(stored.keys() ^ get_peft_model_state_dict(adapted).keys()):
        raise ValueError(
            f"--adapter {adapter} does not fit this model: {len(unplaced)} names differ, such as "
            f"{unplaced[0]}."
        )
    base: PreTrainedModel = adapted.get_base_model()
    return base


@dataclass
class Chat:
    """One conversation.

    Pictures and frames are encoded once, with the question that shows them first.
    """

    model: Model
    options: ChatOptions = field(default_factory=ChatOptions)
    history: list[dict[str, Any]] = field(default_factory=list)
    waiting: list[dict[str, Any]] = field(default_factory=list)
    """Media that precede the next question."""
    number: int = 0
    """How many conversations were ended by `reset`."""
    _features: dict[bytes, torch.Tensor] = field(default_factory=dict, repr=False)
    """Digest of each tile of the conversation -> [p, h]."""
    _stopped: Event = field(default_factory=Event, repr=False)
    """Set to end the present answer."""

    def show(self, kind: str, source: Any) -> None:
        """Put an image or a video (`kind`) before the next question."""
        self.waiting.append({"type": kind, kind: source})

    def reset(self) -> None:
        """Clear the history and the media; an answer that is being written ends, unremembered."""
        self.stop()
        self.number += 1
        self.history.clear()
        self.waiting.clear()
        self._features.clear()

    def stop(self) -> None:
        """End the answer that is being written (by another thread); its beginning is kept."""
        self._stopped.set()

    def ask(self, question: str) -> Iterator[str]:
        """Ask, and yield the answer piece by piece.

        After an error the history is unchanged, and the question's media are dropped.

        Raises:
            ValueError: a picture or video cannot be read.
        """
        number, self._stopped = self.number, Event()
        content = [*self.waiting, {"type": "text", "text": question}]
        self.waiting = []
        asked = [*self.history, {"role": "user", "content": content}]
        inputs = self.model.processor.apply_chat_template(
            asked,
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            cut_enable=self.options.cut,
            max_tiles=self.options.max_tiles,
            max_frames=self.options.max_frames,
        )
        pieces = []
        for piece in self._stream(self._with_features(inputs), self._stopped):
            pieces.append(piece)
            yield piece
        if number == self.number:
            self.history = [*asked, {"role": "assistant", "content": "".join(pieces)}]

    @torch.no_grad()
    def _with_features(self, inputs: Mapping[str, Any]) -> Mapping[str, Any]:
        """Replace tiles by their features; only those that are new are encoded."""
        tiles = inputs.get("pixel_values")
        if tiles is None or not len(tiles):
            return inputs
        network = self.model.network
        names = [hashlib.blake2b(tile.numpy().tobytes()).digest() for tile in tiles]
        known = {name: self._features[name] for name in names if name in self._features}
        new = {name: place for place, name in enumerate(names) if name not in known}
        if new:
            images = network.get_image_features(tiles[[*new.values()]].to(network.device))
            known |= zip(new, getattr(images, "pooler_output", images), strict=True)
        self._features = known
        embeds = torch.stack([known[name] for name in names])
        return {k: v for k, v in inputs.items() if k != "pixel_values"} | {"image_embeds": embeds}

    def _stream(self, inputs: Mapping[str, Any], stopped: Event) -> Iterator[str]:
        """Generate in a thread, so that text can be shown as it arrives."""
        network, tokenizer = self.model.network, self.model.processor.tokenizer
        streamer = TextIteratorStreamer(tokenizer, skip_prompt=True, skip_special_tokens=True)
        failures: list[Exception] = []
        settings: dict[str, Any] = {"max_new_tokens": self.options.max_new_tokens}
        if self.options.greedy:
            settings["do_sample"] = False
        elif (published := getattr(network, "folder_generation_config", None)) is not None:
            settings["generation_config"] = published

        def generate() -> None:
            try:
                network.generate(
                    **_to_device(inputs, network.device),
                    **settings,
                    tokenizer=tokenizer,
                    streamer=streamer,
                    stopping_criteria=StoppingCriteriaList([_StopWhen(stopped)]),
                )
            except Exception as error:  # raised again in the reading thread
                failures.append(error)
                streamer.end()

        thread = Thread(target=generate, daemon=True)
        thread.start()
        try:
            yield from streamer
        finally:
            stopped.set()  # also if the reader stops in the middle of an answer
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
