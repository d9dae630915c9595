# SPDX-License-Identifier: GPL-2.0-or-later
"""Description of a machine: its configuration, and what its user knows of the guest.

It is saved and sent ahead of the machine's memory and state. The bytes of kernel and initrd, tens of MiB, are
files and frames of their own: a description is encoded without them.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, replace
from typing import Final, Self

from pvtime.abi.layout import U64_MAX
from pvtime.errors import SavedStateError
from pvtime.machine.layout import STOLEN_TIME
from pvtime.machine.machine import MachineConfig

__all__ = ["MAX_IMAGE", "Description"]

MAX_IMAGE: Final = 1 << 30
"""Bytes of a kernel or an initrd."""

_WORD: Final = re.compile("[!-~]{1,64}")


@dataclass(frozen=True)
class Description:
    """A machine that leaves its process, apart from its memory and its state."""

    engine: str
    """Name of the engine that it was running on."""
    config: MachineConfig
    agent: bool
    """The stock userland answers on the second serial port."""
    release: str | None
    """The kernel's release, as the guest printed it; None if it has not."""

    def without_images(self) -> Self:
        """Return the same description without the bytes of kernel and initrd."""
        kernel = replace(self.config.kernel, data=b"")
        return replace(self, config=replace(self.config, kernel=kernel, initrd=b""))

    def with_images(self, kernel: bytes, initrd: bytes) -> Self:
        """Return the same description with the bytes of kernel and initrd.

        :raises SavedStateError: the kernel is larger than the image that is described.
        """
        if len(kernel) > self.config.kernel.image_size:
            _refuse("image size")
        image = replace(self.config.kernel, data=kernel)
        return replace(self, config=replace(self.config, kernel=image, initrd=initrd))

    def check(self) -> None:
        """Check what was decoded. :class:`Machine` checks numbers of vCPUs and sizes; this checks the rest.

        Some of it is printed on a terminal, some used at a reset only.

        :raises SavedStateError: no machine has such a description.
        """
        config = self.config
        possible = {
            "engine": _WORD.fullmatch(self.engine),
            "CPU model": config.cpu is None or _WORD.fullmatch(config.cpu),
            "kernel release": self.release is None or _WORD.fullmatch(self.release),
            "command line": _is_command_line(config.append),
            "memory": 0 <= config.memory <= U64_MAX,
            "text offset": 0 <= config.kernel.text_offset <= U64_MAX,
            "image size": 0 <= config.kernel.image_size <= U64_MAX,
            "kernel": not config.kernel.data and not config.initrd,
            "stolen time region": config.stolen_time == replace(STOLEN_TIME, base=config.stolen_time.base),
        }
        for name, is_possible in possible.items():
            if not is_possible:
                _refuse(name)


def _refuse(name: str) -> None:
    raise SavedStateError(f"the saved machine has an impossible {name}")


def _is_command_line(text: str) -> bool:
    try:
        return b"\0" not in os.fsencode(text)
    except UnicodeError:
        return False
