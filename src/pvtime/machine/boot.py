# SPDX-License-Identifier: GPL-2.0-or-later
"""The arm64 boot protocol (the kernel's Documentation/arch/arm64/booting.rst): the layout of RAM.

::

    RAM base, 2 MiB aligned
      + text_offset   kernel, image_size bytes with its BSS
    2 MiB aligned     device tree, in 2 MiB of its own
    + 2 MiB           initrd
"""

from __future__ import annotations

from typing import Final

from pvtime.abi.image import KERNEL_ALIGN
from pvtime.errors import UsageError
from pvtime.machine.image import KernelImage
from pvtime.machine.layout import Region
from pvtime.machine.memory import MIB, GuestMemory
from pvtime.records import dataclass

__all__ = ["MAX_DEVICE_TREE", "BootEntry", "BootLayout", "load", "place"]

MAX_DEVICE_TREE: Final = 2 * MIB
"""Bytes; a kernel maps no more of the device tree than this."""

INITRD_WINDOW: Final = 32 << 30
"""Bytes; kernel and initrd lie in one window of this size, aligned to 1 GiB."""


@dataclass(frozen=True)
class BootEntry:
    """The first vCPU's entry state; x1 to x3 are 0."""

    pc: int
    x0: int
    """IPA of the device tree."""


@dataclass(frozen=True)
class BootLayout:
    """The regions of kernel, device tree and initrd in RAM."""

    kernel: Region
    device_tree: Region
    initrd: Region | None


def _up(address: int, alignment: int) -> int:
    return (address + alignment - 1) // alignment * alignment


def place(ram: Region, kernel: KernelImage, initrd_size: int) -> BootLayout:
    """Choose places for a kernel and an initrd of ``initrd_size`` bytes (0: none) in ``ram``.

    :raises UsageError: they do not fit; the message says how large each is and how much memory is needed.
    """
    start = _up(ram.base, KERNEL_ALIGN)
    code = Region("kernel", start + kernel.text_offset, kernel.image_size)
    tree = Region("device tree", _up(code.end, KERNEL_ALIGN), MAX_DEVICE_TREE)
    initrd = Region("initrd", tree.end, initrd_size) if initrd_size else None
    end = (initrd or tree).end
    if end > ram.end:
        parts = f"a kernel of {_mib(kernel.image_size)}"
        if initrd:
            parts += f" and an initrd of {_mib(initrd_size)}"
        raise UsageError(
            f"{parts} do not fit into {_mib(ram.size)} of memory: "
            f"give the guest {_mib(_up(end - ram.base, 64 * MIB))} or more"
        )
    if end - (start & ~((1 << 30) - 1)) > INITRD_WINDOW:
        raise UsageError(
            f"an initrd of {_mib(initrd_size)} is larger than any kernel takes: give a smaller one"
        )
    return BootLayout(code, tree, initrd)


def _mib(size: int) -> str:
    return f"{_up(size, MIB) // MIB}M"


def load(
    memory: GuestMemory, layout: BootLayout, kernel: KernelImage, initrd: bytes, tree: bytes
) -> BootEntry:
    """Write kernel, device tree and initrd to RAM, and return the entry state.

    :raises UsageError: the device tree is larger than a kernel takes.
    """
    if len(tree) > MAX_DEVICE_TREE:
        raise UsageError(
            f"the device tree has {len(tree)} bytes, but kernels take 2M: "
            "give fewer vCPUs or a shorter command line"
        )
    memory.write(layout.kernel.base, kernel.data)
    memory.write(layout.device_tree.base, tree)
    if layout.initrd:
        memory.write(layout.initrd.base, initrd)
    return BootEntry(pc=layout.kernel.base, x0=layout.device_tree.base)
