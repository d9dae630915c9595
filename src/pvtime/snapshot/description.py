# SPDX-License-Identifier: GPL-2.0-or-later
"""Description of a machine: its configuration, and what its user knows of the guest.

It is saved and sent ahead of the machine's memory and state. The bytes of kernel and initrd, tens of MiB, are
files and frames of their own: a description is encoded without them.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Final, Self

from pvtime.errors import SavedStateError
from pvtime.machine.machine import MachineConfig
from pvtime.records import dataclass
from pvtime.schema import matching

__all__ = ["MAX_IMAGE", "Description"]

MAX_IMAGE: Final = 1 << 30
"""Bytes of a kernel or an initrd."""

_WORD: Final = "[!-~]{1,64}"
"""Characters that can be printed on a terminal."""


@dataclass(frozen=True)
class Description:
    """A machine that leaves its process, apart from its memory and its state."""

    engine: Annotated[str, matching(_WORD, "the name of an engine")]
    """Name of the engine that it was running on."""
    config: MachineConfig
    agent: bool
    """The stock userland answers on the second serial port."""
    release: Annotated[str, matching(_WORD, "a kernel's release")] | None
    """The kernel's release, as the guest printed it; None if it has not."""

    def without_images(self) -> Self:
        """Return the same description without the bytes of kernel and initrd."""
        kernel = replace(self.config.kernel, data=b"")
        return replace(self, config=replace(self.config, kernel=kernel, initrd=b""))

    def with_images(self, kernel: bytes, initrd: bytes) -> Self:
        """Return the same description with the bytes of kernel and initrd.

        :raises SavedStateError: the kernel is larger than the image that is described, or its own header
            describes another one. Unseen, that would matter at the guest's next reset.
        """
        if len(kernel) > (size := self.config.kernel.image_size):
            raise SavedStateError(f"kernel: it has {len(kernel)} bytes, more than its image_size, {size}")
        image = replace(self.config.kernel, data=kernel)
        if field := image.contradiction():
            raise SavedStateError(f"kernel.{field}: it is not what the kernel's own header says")
        return replace(self, config=replace(self.config, kernel=image, initrd=initrd))

    def check(self, name: str) -> None:
        """Check what was decoded, beside the ranges of its fields.

        :param name: name of its document, for messages.
        :raises SavedStateError: no machine has such a description.
        """
        if self.config.kernel.data or self.config.initrd:
            raise SavedStateError(f"{name}.description.config: kernel.data or initrd is not empty")
