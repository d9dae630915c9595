# SPDX-License-Identifier: GPL-2.0-or-later
"""The command group; errors become one line on standard error and an exit code.

Start-up is part of every run, so a module is imported where it is used. Measured on a 2-core x86_64 machine,
CPython 3.11, idle to busy: the interpreter takes 10 ms, what a quiet run imports 72 to 117 ms, of which click
21 to 28 and unicorn 36; rich, imported only where something is drawn, takes 26 to 41 more.
"""

from __future__ import annotations

import contextlib
import importlib
import sys
from collections.abc import Sequence
from typing import Any, Final

import click

from pvtime import __version__
from pvtime.errors import MORE_MEMORY, REINSTALL, PvtimeError, host_reason, one_line
from pvtime.streams import OUTPUT_ERRORS, discard, lost_outputs, output_reason

__all__ = ["COMMANDS", "EXIT_INTERRUPTED", "EXIT_OUTPUT_LOST", "main"]

EXIT_INTERRUPTED: Final = 130
"""128 + SIGINT, as shells report it."""
EXIT_OUTPUT_LOST: Final = 1
"""An output takes nothing, or its reader has gone; click uses the same code."""

COMMANDS: Final = (
    "console",
    "cost",
    "doctor",
    "export",
    "help",
    "images",
    "judge",
    "lab",
    "merge",
    "migrate",
    "pause",
    "ps",
    "receive",
    "repeat",
    "report",
    "reset",
    "restore",
    "resume",
    "run",
    "save",
    "scenario",
    "stat",
    "steal",
    "stop",
    "top",
    "who",
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
        except KeyboardInterrupt:
            discard(sys.stdout.fileno())
            discard(sys.stderr.fileno())
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
    """Run the command line (default: the process's) and return the exit code.

    An output that was lost is told on standard error, and is never exit code 0.
    """
    code = _run(arguments)
    for name, stream, error in lost_outputs():
        code = code or EXIT_OUTPUT_LOST
        discard(stream.fileno())
        if not isinstance(error, BrokenPipeError):
            _complain(f"{name}: {output_reason(error)}", code)
    return code


def _run(arguments: Sequence[str] | None) -> int:
    try:
        code = group.main(args=arguments, prog_name="pvtime", standalone_mode=False)
    except (click.Abort, KeyboardInterrupt):
        return EXIT_INTERRUPTED
    except click.ClickException as error:
        return _complain(error.format_message().rstrip("."), error.exit_code)
    except PvtimeError as error:
        return _complain(str(error), error.exit_code)
    except MemoryError:
        return _complain(f"not enough memory: {MORE_MEMORY}", PvtimeError.exit_code)
    except ImportError as error:
        return _complain(f"a library cannot be loaded: {error}: {REINSTALL}", PvtimeError.exit_code)
    except BrokenPipeError:
        return EXIT_OUTPUT_LOST
    except OSError as error:
        if any(lost.errno == error.errno for _, _, lost in lost_outputs()):
            return EXIT_OUTPUT_LOST
        if error.filename is None and error.errno in OUTPUT_ERRORS:  # an output without a buffer
            return _complain(f"standard output: {output_reason(error)}", EXIT_OUTPUT_LOST)
        subject = f"{error.filename}: " if error.filename else ""
        return _complain(subject + host_reason(error), PvtimeError.exit_code)
    return code if isinstance(code, int) else 0


def _complain(message: str, code: int) -> int:
    """Print ``message`` as one line, and return ``code``."""
    with contextlib.suppress(OSError):  # nothing is left to complain to
        print(f"pvtime: {one_line(message)}", file=sys.stderr, flush=True)
    return code
