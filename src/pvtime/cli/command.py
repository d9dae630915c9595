# SPDX-License-Identifier: GPL-2.0-or-later
"""The command group; errors become one line on standard error and an exit code.

Start-up is part of every run, so a module is imported where it is used. Measured on a 2-core x86_64 machine,
CPython 3.11, idle to busy: the interpreter takes 10 ms, what a quiet run imports 72 to 117 ms, of which click
21 to 28 and unicorn 36; rich, imported only where something is drawn, takes 26 to 41 more.
"""

from __future__ import annotations

import contextlib
import errno
import importlib
import os
import sys
from collections.abc import Sequence
from typing import Any, Final, TextIO

import click

from pvtime import __version__
from pvtime.errors import MORE_MEMORY, PvtimeError, host_reason, one_line

__all__ = ["COMMANDS", "EXIT_BROKEN_PIPE", "EXIT_INTERRUPTED", "main"]

EXIT_INTERRUPTED: Final = 130
"""128 + SIGINT, as shells report it."""
EXIT_BROKEN_PIPE: Final = 1
"""The reader of our output has gone; click uses the same code."""

INSTALL: Final = "install pvtime again, or raise the limits of memory and open files (ulimit -v, ulimit -n)"
COMMANDS: Final = (
    "cost",
    "doctor",
    "help",
    "images",
    "judge",
    "lab",
    "migrate",
    "receive",
    "restore",
    "run",
    "save",
    "scenario",
)
"""Names of the commands: the module ``pvtime.cli.NAME`` has the click command ``NAME_command``."""


class LazyGroup(click.Group):
    """Imports a command's module when the command is used: start-up does not pay for the others."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the commands' names."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return a command; None if it does not exist."""
        if cmd_name not in COMMANDS:
            return None
        command = getattr(importlib.import_module(f"pvtime.cli.{cmd_name}"), f"{cmd_name}_command")
        assert isinstance(command, click.Command)
        return command

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command. After a signal nothing more is printed: where nobody reads, it would wait."""
        try:
            return super().invoke(ctx)
        except (KeyboardInterrupt, SystemExit):
            _give_up(sys.stdout)
            _give_up(sys.stderr)
            raise


@click.group(
    cls=LazyGroup, invoke_without_command=True, context_settings={"help_option_names": ["-h", "--help"]}
)
@click.version_option(__version__, message="pvtime %(version)s")
@click.pass_context
def group(ctx: click.Context) -> None:
    """Run arm64 Linux guests that know their stolen time: the time for which they could not run.

    \b
    Examples:
        pvtime run --vcpus 2 --duration 10
        pvtime help run
    """  # noqa: D301 (click wants the character)
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line (default: the process's) and return the exit code."""
    _open_closed_streams()
    try:
        code = group.main(args=arguments, prog_name="pvtime", standalone_mode=False)
        sys.stdout.flush()
    except (click.Abort, KeyboardInterrupt):
        return EXIT_INTERRUPTED
    except click.ClickException as error:
        return _complain(error.format_message().rstrip("."), error.exit_code)
    except PvtimeError as error:
        return _complain(str(error), error.exit_code)
    except MemoryError:
        return _complain(f"not enough memory: {MORE_MEMORY}", PvtimeError.exit_code)
    except ImportError as error:
        return _complain(f"a library cannot be loaded: {error}: {INSTALL}", PvtimeError.exit_code)
    except BrokenPipeError:
        _give_up(sys.stdout)
        return EXIT_BROKEN_PIPE
    except OSError as error:
        message = _subject(error) + host_reason(error)
        _give_up(sys.stdout)
        return _complain(message, PvtimeError.exit_code)
    return code if isinstance(code, int) else 0


def _subject(error: OSError) -> str:
    """Return the name of the file that an error is about, with a colon; nothing if it is not known.

    Those who write files name them, so where a disk is full and the error has no name it is our output.
    """
    if error.filename:
        return f"{error.filename}: "
    return "standard output: " if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO) else ""


def _open_closed_streams() -> None:
    """Open /dev/null for each standard stream that was closed when the process started."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115 (it stays open like the others)


def _give_up(stream: TextIO) -> None:
    """Send the rest of an output to /dev/null: the interpreter flushes at its end, and would fail or wait."""
    fd = stream.fileno()
    os.close(fd)  # first, where the process may open no more files
    null = os.open(os.devnull, os.O_WRONLY)
    if null != fd:
        os.dup2(null, fd)
        os.close(null)


def _complain(message: str, code: int) -> int:
    """Print ``message`` as one line, and return ``code``."""
    with contextlib.suppress(OSError):  # nothing is left to complain to
        print(f"pvtime: {one_line(message)}", file=sys.stderr, flush=True)
    return code
