# SPDX-License-Identifier: Apache-2.0
"""Chat with a model about pictures and videos.

owl chat --model DIR [--image F ...] [--video F] [--ask QUESTION | --web]
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from owl.errors import OwlError


def main(argv: Sequence[str] | None = None) -> None:
    """Load the model that the command line names, and chat; exits with 1 and one line on errors."""
    options = _parser().parse_args(argv)
    try:
        _check(options)
        _start(options)
    except (OwlError, ValueError, OSError) as error:
        sys.exit(f"{type(error).__name__}: {error}")


def _check(options: argparse.Namespace) -> None:
    """Raise OwlError for options that the page would ignore."""
    unused = [f"--{name}" for name in ("image", "video", "ask") if getattr(options, name)]
    if options.web and unused:
        raise OwlError(
            f"--web takes pictures, videos and questions on its page: leave {' and '.join(unused)} "
            "out, or leave --web out."
        )


def _start(options: argparse.Namespace) -> None:
    """Answer one question, serve the page, or chat in the terminal."""
    # Imported here, so that --help does not wait for torch and transformers.
    from owl.chat.session import Chat, ChatOptions, load_model
    from owl.chat.terminal import answer, talk

    _check_folder(options.model)
    model = load_model(
        options.model,
        device=options.device,
        dtype=options.dtype,
        bits=options.bits,
        adapter=options.adapter,
    )
    shown = ChatOptions(
        max_new_tokens=options.max_new_tokens,
        greedy=options.greedy,
        cut=not options.no_cut,
        max_tiles=options.max_tiles,
        max_frames=options.max_frames,
    )
    if options.web:
        from owl.chat.web import serve

        serve(model, shown, host=options.host, port=options.port)
        return
    chat = Chat(model, shown)
    for image in options.image:
        chat.show("image", image)
    for video in options.video:
        chat.show("video", video)
    if options.ask is None:
        talk(chat, read=lambda: input("> "), write=_write)
    elif not answer(chat, options.ask, _write):
        sys.exit(1)


def _check_folder(folder: Path) -> None:
    """Raise for an incomplete folder, for which transformers might only log warnings."""
    if not (folder / "config.json").is_file():
        raise OSError(
            f"--model {folder} holds no config.json. Use a published folder, or one that "
            "python -m owl.convert export wrote."
        )
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    if "quantization_config" not in config:  # a quantiser's tensors have other shapes
        from owl.convert.check import check_folder

        check_folder(folder)


def _write(text: str) -> None:
    print(text, end="", flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="owl chat", description=__doc__)
    parser.add_argument("--model", type=Path, required=True, metavar="DIR")
    parser.add_argument(
        "--image", action="extend", nargs="+", default=[], metavar="F",
        help="pictures for the first question: paths or URLs",
    )  # fmt: skip
    parser.add_argument(
        "--video", action="extend", nargs="+", default=[], metavar="F",
        help="likewise; GIFs always, other formats with PyAV (pip install av)",
    )  # fmt: skip
    parser.add_argument("--ask", metavar="QUESTION", help="answer this one question and exit")
    parser.add_argument("--web", action="store_true", help="serve a local web page (needs gradio)")
    parser.add_argument(
        "--host", default="127.0.0.1",
        help="address of the page; 0.0.0.0 lets others in (default: this machine alone)",
    )  # fmt: skip
    parser.add_argument("--port", type=int, default=7860, help="of the page (default 7860)")
    parser.add_argument("--max-new-tokens", type=int, default=512)
    parser.add_argument(
        "--greedy",
        action="store_true",
        help="take the most likely tokens",
    )
    parser.add_argument("--no-cut", action="store_true", help="encode each picture as one tile")
    parser.add_argument("--max-tiles", type=int, help="most tiles of one picture")
    parser.add_argument("--max-frames", type=int, default=16, help="most frames of one video")
    parser.add_argument("--device", help="such as cpu or cuda:1 (default: a GPU if there is one)")
    parser.add_argument("--dtype", default="auto", help="such as bfloat16 (default: the weights')")
    bits = parser.add_mutually_exclusive_group()
    for count in (4, 8):
        bits.add_argument(
            f"--load-{count}bit", dest="bits", action="store_const", const=count,
            help=f"linear layers in {count} bits (needs bitsandbytes)",
        )  # fmt: skip
    parser.add_argument(
        "--adapter", type=Path, metavar="DIR", help="a LoRA for the model: its PEFT folder"
    )
    return parser


if __name__ == "__main__":
    main()
