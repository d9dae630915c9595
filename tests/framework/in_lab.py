# SPDX-License-Identifier: GPL-2.0-or-later
"""Commands in the lab that must succeed, and what is known where one did not."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from pvtime.lab.lab import Lab
from pvtime.lab.result import CompletedRun

__all__ = ["TIMEOUT", "succeed"]

TIMEOUT = 1800
"""Seconds after which a command is given up. A quiet host needs 70; beside two other suites, 400."""

SHOWN = 16000
"""Bytes of the output, and of the kernel's log, that a failure shows."""


def succeed(lab: Lab, *argv: str, out: Mapping[str, Path] | None = None) -> CompletedRun:
    """Run a command that must succeed, with these tests' framework; copy back what it must write."""
    done = lab.run(argv, timeout=TIMEOUT, env={"PYTHONPATH": "tests"}, out_files=out)
    if done.exit_code:
        # A program that died of a signal has said nothing: the kernel says where it was.
        log = lab.run(["dmesg"], timeout=TIMEOUT)
        output = (done.stdout + done.stderr)[-SHOWN:].decode(errors="replace")
        kernel = log.stdout[-SHOWN:].decode(errors="replace")
        raise AssertionError(f"exit code {done.exit_code}\n{output}\nThe lab's kernel says:\n{kernel}")
    assert not done.missing
    return done
