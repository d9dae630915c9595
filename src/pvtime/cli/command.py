# SPDX-License-Identifier: GPL-2.0-or-later
"""The command group, and how its faults leave: one line on standard error and an exit code.

Start-up is part of every run, so a module is imported where it is used. Measured on a 2-core x86_64 machine,
CPython 3.11, idle to busy: the interpreter takes 10 ms, what a quiet run imports 72 to 117 ms, of which click
21 to 28 and unicorn 36; rich, imported only where something is drawn, takes 26 to 41 more.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Final

import click

from pvtime import __version__
from pvtime.errors import PvtimeError

__all__ = ["COMMANDS", "EXIT_BROKEN_PIPE", "EXIT_INTERRUPTED", "main"]

EXIT_INTERRUPTED: Final = 130
"""128 + SIGINT, as shells report it."""
EXIT_BROKEN_PIPE: Final = 1
"""Whoever read our output has left; the same that click answers."""

COMMANDS: Final[Mapping[str, str]] = {
    "doctor": "pvtime.cli.doctor",
    "images": "pvtime.cli.images",
    "lab": "pvtime.cli.lab",
    "migrate": "pvtime.cli.save",
    "receive": "pvtime.cli.restore",
    "restore": "pvtime.cli.restore",
    "run": "pvtime.cli.run",
    "save": "pvtime.cli.save",
    "scenario": "pvtime.cli.scenario",
}
"""Each subcommand's module; the click command in it has the subcommand's name, with ``_command``."""


class LazyGroup(click.Group):
    """Imports a subcommand's module when it is asked for: the start-up of one does not pay for all."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the subcommands' names."""
        return sorted(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return a subcommand; None where there is no such."""
        if cmd_name not in COMMANDS:
            return None
        command = getattr(importlib.import_module(COMMANDS[cmd_name]), f"{cmd_name}_command")
        assert isinstance(command, click.Command)
        return command


@click.group(cls=LazyGroup, no_args_is_help=False, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, message="pvtime %(version)s")
def group() -> None:
    """Run arm64 Linux guests that know the time they were forcibly not executing."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line (default: the process's) and return the exit code."""
    _open_closed_streams()
    try:
        code = group.main(args=arguments, prog_name="pvtime", standalone_mode=False)
        sys.stdout.flush()
    except (click.Abort, KeyboardInterrupt):
        return EXIT_INTERRUPTED
    except click.ClickException as error:
        return _complain(error.format_message(), error.exit_code)
    except PvtimeError as error:
        return _complain(str(error), error.exit_code)
    except BrokenPipeError:
        _give_up_output()
        return EXIT_BROKEN_PIPE
    except OSError as error:
        _give_up_output()
        what = f"{error.filename}: " if error.filename else ""
        return _complain(f"{what}{error.strerror or error}", PvtimeError.exit_code)
    return code if isinstance(code, int) else 0


def _open_closed_streams() -> None:
    """Put /dev/null where the process was started with a closed standard stream."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115 (it stays open like the others)


def _give_up_output() -> None:
    """Send what is left to /dev/null: the interpreter flushes at its end, and would complain once more."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _complain(message: str, code: int) -> int:
    """Print ``message`` as one line. A part of it may be a peer's, and the terminal is the user's."""
    line = "".join(char if char.isprintable() else "?" for char in " ".join(message.split()))
    print(f"pvtime: {line}", file=sys.stderr)
    return code
