# SPDX-License-Identifier: GPL-2.0-or-later
"""pvtime's kernel module in the lab's kernel. It is loaded nowhere else."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final, Protocol

from pvtime.kmod.build import NAME
from pvtime.lab.initramfs import MODULE
from pvtime.lab.qemu import LabError
from pvtime.lab.result import CompletedRun

__all__ = ["load_module", "set_parameter", "unload_module"]

PARAMETERS: Final = f"/sys/module/{NAME}/parameters"


class BootedLab(Protocol):
    """A lab, as far as this uses it."""

    def run(self, argv: Sequence[str]) -> CompletedRun:
        """Run a command and wait for its end."""


def load_module(lab: BootedLab, **parameters: str) -> None:
    """Load it, in a lab with :attr:`LabExtras.module`.

    :param parameters: the module's, see pvtime/kmod/README.md.
    :raises LabError: this kernel does not take it; the message has the reason.
    """
    _kernel(lab, ["insmod", f"/{MODULE}", *(f"{name}={value}" for name, value in parameters.items())])


def unload_module(lab: BootedLab) -> None:
    """Unload it; KVM is as it was afterwards.

    :raises LabError: a process has /dev/pvtime open.
    """
    _kernel(lab, ["rmmod", NAME])


def set_parameter(lab: BootedLab, name: str, value: str) -> None:
    """Set one of its parameters.

    :raises LabError: there is no such parameter or value.
    """
    _kernel(lab, ["sh", "-c", f'echo "$1" > {PARAMETERS}/"$0"', name, value])


def _kernel(lab: BootedLab, command: list[str]) -> None:
    """Run a command that makes the kernel do something; if it fails, tell the module's own error, if any."""
    earlier = len(_errors(lab))
    done = lab.run(command)
    if done.exit_code:
        said = [done.stderr.decode(errors="replace"), *_errors(lab)[earlier:]]
        raise LabError(f"{' '.join(command[:2])}: {said[-1].strip()}")


def _errors(lab: BootedLab) -> list[str]:
    """Return the module's error messages in the kernel's log."""
    log = lab.run(["dmesg", "-r"]).stdout.decode(errors="replace")
    return [
        line.partition(f"{NAME}: ")[2] for line in log.splitlines() if re.match(rf"<3>.*\b{NAME}: ", line)
    ]
