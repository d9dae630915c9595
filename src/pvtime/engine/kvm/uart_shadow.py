# SPDX-License-Identifier: GPL-2.0-or-later
"""The console's registers as memory: what the guest reads there costs no exit while the port is at rest.

Linux' console reads the line status once per character until user space opens the port and the driver turns
to the FIFO (serial8250_console_write, drivers/tty/serial/8250/8250_port.c). So on a boot that is not quiet,
nearly every exit was such a read. Until then a read of any register has no side effect, see
:meth:`~pvtime.machine.uart.Ns16550.at_rest`, and a page with their values can stand in their place: a
read-only memory slot, where reads are the CPU's own and writes still exit, or are coalesced.

Measured with Debian's kernel 6.1, one vCPU, boot to power-off, exits to user space: 13695 without and 473
with the shadow; 45 when quiet, either way.

The page is never changed while the guest sees it: the slot is taken away first and comes back, with the new
values, at the next read of the line status. A guest reads device registers uncached, so that on a CPU without
FEAT_S2FWB it would miss what is still in our cache; KVM cleans a page when it maps it, and only then.

Why not registers at a distance of a page each, with the line status' alone as memory for ever: ``earlycon``
maps one page of the port (earlycon_map, drivers/tty/serial/earlycon.c), and a guest started with it would
fault before its first message.
"""

from __future__ import annotations

import mmap
import threading
from typing import Final

from pvtime.abi.kvm_types import MemoryFlag
from pvtime.abi.ns16550 import Reg
from pvtime.engine.kvm.vm_fd import VmFd
from pvtime.machine.memory import GuestMemory
from pvtime.machine.uart import Ns16550

__all__ = ["UartShadow"]

_DATA: Final = int(Reg.DATA)
_IER: Final = int(Reg.IER)
_LSR: Final = int(Reg.LSR)


class UartShadow:
    """A serial port, with its registers as memory in ``vm`` whenever that makes no difference."""

    def __init__(self, vm: VmFd, port: Ns16550) -> None:
        self.region = port.region
        self._vm = vm
        self._port = port
        self._lock = threading.Lock()
        self._page = GuestMemory(port.region.base, mmap.PAGESIZE, f"{port.region.name}, registers at rest")
        self._slot: int | None = None
        self._opened = port.interrupts
        """A driver has taken the port into use: from here on its characters go through the FIFO."""

    def read(self, offset: int, size: int) -> int:
        """Return a register; a read of the line status shows them all to the guest."""
        value = self._port.read(offset, size)
        if offset == _LSR and not self._opened:
            with self._lock:
                self._show()
        return value

    def write(self, offset: int, size: int, value: int) -> None:
        """Set a register."""
        if offset == _DATA or self._opened:
            self._port.write(offset, size, value)
            return
        with self._lock:
            # The console switches interrupts off before each message: where they are off, nothing changes.
            if offset != _IER or value & 0xFF:
                self._hide()
            self._port.write(offset, size, value)
            self._opened = self._port.interrupts

    def _show(self) -> None:
        if self._slot is None and (registers := self._port.at_rest()) is not None:
            self._page.write(self._page.base, registers)
            self._slot = self._vm.set_memory(self._page.region, self._page.address, MemoryFlag.READONLY)

    def _hide(self) -> None:
        if self._slot is not None:
            self._vm.delete_memory(self._slot)
            self._slot = None

    def close(self) -> None:
        """Free the page, after the VM."""
        self._page.close()
