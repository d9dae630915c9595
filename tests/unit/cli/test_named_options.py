# SPDX-License-Identifier: GPL-2.0-or-later
"""Messages name options that the command has which prints them.

Most modules are of several commands, so that none of their messages may name an option; those that may are
listed with the commands that come there.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

import pvtime
from pvtime.cli.command import COMMANDS, group, main

ROOT = Path(pvtime.__file__).parent

OPTION = re.compile(r"(?:\b([a-z]+) )?(--[a-z][a-z-]+)")
"""An option in a text, and the word before it, which may be a command."""

ADVICE = re.compile(": (give|leave|check|choose|raise|start) ")
"""A message's remedy, which a command line does not have."""

MACHINES = ("run", "restore", "receive")

COMMANDS_OF = {
    "run/session.py": ("run",),  # a restored machine has no silence to be told of
    "run/warm.py": ("run",),
    "run/guest_files.py": ("run",),  # they are for the stock guest, as it boots
    "run/share.py": ("run",),
    "run/shell_jobs.py": ("run",),
    "run/runtime_dir.py": MACHINES,
    "run/source.py": ("run",),  # a kernel is booted there alone
    "run/save_at.py": MACHINES,
    "run/run_control.py": MACHINES,
    "snapshot/tls.py": ("migrate", "receive"),
    "snapshot/endpoint.py": ("migrate", "receive"),
    "snapshot/stream.py": ("migrate", "receive"),
    "engine/kvm/engine.py": ("run",),
    "engine/unicorn/engine.py": MACHINES,
    "engine/unicorn/mistakes.py": (*MACHINES, "judge"),
    "experiment": ("repeat",),
    "cost/host_table.py": ("cost",),
    "cost/host.py": ("cost",),
    "judge": ("judge",),
    "scenario": ("scenario",),
}
"""Commands that print the messages of a module, or of a package, which name options."""

NO_MESSAGES = {
    "cost/lab_ticks.py": "the command line of a program in the lab",
    "cost/lab_markdown.py": "objdump's",
    "cost/lab_steps.py": "the command line of a program in the lab",
    "host/vms.py": "options of other VMMs",
    "images/archive.py": "apt's",
    "images/deb.py": "dpkg-deb's",
    "kmod/build.py": "dpkg's and the linker's",
    "judge/lava.py": "lava-test-case's",
    "lab/qemu.py": "QEMU's",
    "watch/guests.py": "options of other VMMs",
}
"""Modules whose literals are other programs' command lines; in sentences they may name no option."""


def literals(file: Path) -> Iterator[str]:
    """Yield a module's texts, formatted ones as a whole, without its docstrings."""
    tree = ast.parse(file.read_text())
    docs = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    parts: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            parts.update(map(id, node.values))
            yield "".join(str(part.value) if isinstance(part, ast.Constant) else "X" for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docs | parts:
            yield node.value


def named() -> Iterator[tuple[str, str, str, str]]:
    """Yield each option in a sentence: the module, the word before the option, itself, and the sentence."""
    for file in sorted(ROOT.rglob("*.py")):
        name = str(file.relative_to(ROOT))
        if name.startswith(("cli/", "__main__")):
            continue  # one command each
        for text in literals(file):
            if " " in text and not (name in NO_MESSAGES and not ADVICE.search(text)):
                for command, option in OPTION.findall(text):
                    yield name, command, option, text


def options_of(command: str) -> set[str]:
    """Return the options of a command."""
    found = group.get_command(click.Context(group), command)
    assert found is not None, f"there is no pvtime {command}"
    return {opt for param in found.params for opt in param.opts}


@pytest.mark.parametrize(("module", "command", "option", "text"), list(named()))
def test_the_command_has_the_option_that_its_message_names(
    module: str, command: str, option: str, text: str
) -> None:
    commands = (
        (command,)
        if command in COMMANDS
        else COMMANDS_OF.get(module) or COMMANDS_OF.get(module.split("/")[0])
    )
    assert commands, f"{module}: which command prints {text!r}?"
    for each in commands:
        assert option in options_of(each), f"pvtime {each} would print {text!r}"


def test_a_machine_whose_memory_the_host_does_not_give_says_nothing_of_options() -> None:
    assert not [
        text for module, _, _, text in named() if module.startswith(("machine/", "images/", "snapshot/d"))
    ]


def test_pvtime_run_alone_names_its_own_way_without_the_stock_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # pvtime lab and pvtime images ended with it too.
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("PVTIME_CACHE", str(tmp_path / "cache"))
    remedy = "is not on this machine: fetch on another machine, and copy its cache (PVTIME_CACHE)"
    assert main(["run", "--quiet"]) == 2
    assert capsys.readouterr().err.endswith(f"{remedy}; or give --kernel and --initrd\n")
    assert main(["images", "--fetch"]) == 2
    assert capsys.readouterr().err.endswith(f"{remedy}\n")
