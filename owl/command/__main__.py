# SPDX-License-Identifier: Apache-2.0
"""The console command `owl`: one name for everything that a user starts.

Each command is a module with `main(argv)`, imported only when it is called, so that `owl --help`
prints at once. `python -m owl.command` does the same where the console command is not on PATH.
"""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module

from owl.config.settings import closest

EXIT_BAD_COMMAND = 2


@dataclass(frozen=True, slots=True)
class Command:
    """One command: what --help says about it, and the function that it calls."""

    help: str
    module: str
    function: str = "main"


DATA = {
    "convert": Command("public data sets, or your own, to shards", "owl.curate.tools.convert"),
    "video-frames": Command("video files to shards of frames", "owl.curate.tools.video_frames"),
    "prepare": Command("index and check shards before training", "owl.curate.tools.prepare"),
    "lint": Command("check every sample, find invalid ones", "owl.curate.tools.lint"),
    "info": Command("print what a prepared folder holds", "owl.curate.tools.info"),
    "plan": Command("print how samples would be packed", "owl.curate.tools.plan"),
    "preview": Command("draw what the model sees as an HTML page", "owl.curate.tools.preview"),
}
COMMANDS: Mapping[str, Command | Mapping[str, Command]] = {
    "train": Command("pre-train: stages 1 to 3", "owl.command.train", "pretrain"),
    "finetune": Command("tune on conversations", "owl.command.train", "finetune"),
    "data": DATA,
    "convert": Command("Hugging Face folders to checkpoints and back", "owl.convert.__main__"),
    "evaluate": Command("score answers to questions of a file", "owl.command.evaluate"),
    "parity": Command("compare with published models, and layouts", "owl.parity.__main__"),
    "rehearse": Command("a step on GPUs that are not there", "owl.rehearse.__main__"),
    "chat": Command("ask a model about pictures and videos", "owl.chat.__main__"),
    "demo": Command("the steps of the embedded demo", "owl.demo.__main__"),
}
DATA_HELP = "convert, check, plan and preview training data"
LAUNCH_HELP = """
On several processes: torchrun --nproc-per-node 8 --no-python owl train ...
(scripts/slurm.sbatch starts several machines under SLURM)."""


def main(argv: Sequence[str] | None = None) -> int:
    """Call the command named on the command line; return the exit code."""
    return _dispatch("owl", COMMANDS, list(sys.argv[1:] if argv is None else argv))


def _dispatch(
    program: str, commands: Mapping[str, Command | Mapping[str, Command]], words: list[str]
) -> int:
    """Call the command that the first word names, with the other words."""
    if not words or words[0] in ("-h", "--help"):
        print(_help_page(program, commands))
        return 0 if words else EXIT_BAD_COMMAND
    name, *rest = words
    command = commands.get(name)
    if command is None:
        guess = closest(name, commands)
        advice = f"Did you mean {program} {guess}?" if guess else f"{program} --help lists them."
        print(
            f"{program} {name}: {name!r} is none of the commands {', '.join(commands)}. {advice}",
            file=sys.stderr,
        )
        return EXIT_BAD_COMMAND
    if not isinstance(command, Command):
        return _dispatch(f"{program} {name}", command, rest)
    function = getattr(import_module(command.module), command.function)
    return function(rest) or 0


def _help_page(program: str, commands: Mapping[str, Command | Mapping[str, Command]]) -> str:
    lines = [f"usage: {program} COMMAND ...", "", "commands:"]
    for name, command in commands.items():
        text = command.help if isinstance(command, Command) else DATA_HELP
        lines.append(f"  {name:<14}{text}")
    lines += ["", f"{program} COMMAND --help lists a command's options."]
    return "\n".join(lines) + (LAUNCH_HELP if commands is COMMANDS else "")


if __name__ == "__main__":
    sys.exit(main())
