# SPDX-License-Identifier: Apache-2.0
"""The console command `owl`: what it lists, what it calls, and how fast."""

import runpy
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest

from owl.command import __main__ as command
from owl.command import train
from owl.command.__main__ import COMMANDS, EXIT_BAD_COMMAND, Command, main

ROOT = Path(__file__).parents[3]


def every_command() -> Iterator[tuple[str, Command]]:
    for name, entry in COMMANDS.items():
        if isinstance(entry, Command):
            yield name, entry
        else:
            yield from ((f"{name} {part}", each) for part, each in entry.items())


@pytest.mark.parametrize(("name", "entry"), list(every_command()), ids=str)
def test_every_command_has_a_help_page_under_its_own_name(name, entry, capsys):
    assert callable(getattr(import_module(entry.module), entry.function))
    try:
        code = main([*name.split(), "--help"])
    except SystemExit as stopped:
        code = stopped.code
    assert code == 0
    assert f"owl {name}" in capsys.readouterr().out


def test_help_lists_every_command_without_loading_torch():
    script = (
        "import sys; from owl.command.__main__ import main; main(['--help']); "
        "sys.exit('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0
    for name in COMMANDS:
        assert f"\n  {name} " in done.stdout


@pytest.mark.parametrize("name", ["train", "finetune", "convert", "parity", "chat", "demo"])
def test_a_commands_help_does_not_wait_for_torch(name):
    script = (
        "import atexit, sys; from owl.command.__main__ import main; "
        "atexit.register(lambda: print('torch' in sys.modules)); "
        f"main([{name!r}, '--help'])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout.endswith("False\n"), done.stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["trian"], "owl trian: 'trian' is none of the commands train,"),
        (["data", "previw"], "Did you mean owl data preview?"),
    ],
)
def test_an_unknown_command_is_named_with_those_that_exist(words, message, capsys):
    assert main(words) == EXIT_BAD_COMMAND
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("words", [[], ["data"]])
def test_no_command_prints_the_list_and_is_an_error(words, capsys):
    assert main(words) == EXIT_BAD_COMMAND
    assert "commands:" in capsys.readouterr().out


def test_a_tools_exit_code_is_that_of_the_command(tmp_path, capsys):
    assert main(["data", "info", str(tmp_path)]) == 2
    assert "info: " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("script", "name", "config"),
    [("pretrain_owl3.py", "train", "pretrain"), ("finetune_owl3.py", "finetune", "finetune")],
)
def test_the_command_and_the_script_start_the_same_run(script, name, config, monkeypatch):
    started = []
    monkeypatch.setattr(train, "main", lambda *call: started.append(call))
    monkeypatch.setattr(sys, "argv", [script])

    runpy.run_path(str(ROOT / script), run_name="__main__")
    command.main([name, "dry_run=true"])

    assert started == [(config, None), (config, ["dry_run=true"])]


def test_help_of_the_data_tools_does_not_load_torch():
    script = (
        "import sys\n"
        "from owl.command.__main__ import main\n"
        "for name in ('prepare', 'lint', 'info', 'plan', 'preview'):\n"
        "    try:\n"
        "        main(['data', name, '--help'])\n"
        "    except SystemExit:\n"
        "        pass\n"
        "assert 'torch' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
