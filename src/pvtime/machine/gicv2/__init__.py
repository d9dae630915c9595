# SPDX-License-Identifier: GPL-2.0-or-later
"""GICv2 for up to eight CPUs, without the Security Extensions (Arm IHI 0048B).

Where the specification leaves a choice, it behaves like KVM's emulation (arch/arm64/kvm/vgic). Each CPU has
one input, IRQ, for both groups.

Measured (CPython 3.11, two CPUs): 2.6 us for a timer tick (wire up, acknowledge, wire down, complete, look
for more), 2.7 us for an SGI from write to completion.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

from pvtime.abi.gicv2 import PPI_BASE, SPI_BASE
from pvtime.machine.device import MmioDevice
from pvtime.machine.devicetree import GicFlavour
from pvtime.machine.gicv2.cpu_interface import CpuInterface
from pvtime.machine.gicv2.distributor import Distributor
from pvtime.machine.gicv2.state import GicState, GicV2State, restore, save
from pvtime.machine.layout import MAX_GICV2_VCPUS

__all__ = ["GicV2", "GicV2State"]


class GicV2:
    """The interrupt controller: two MMIO devices, input and output wires.

    Only the engine's thread may use it: nothing is locked. ``on_change(cpu, level)`` is called for a change
    of a CPU's IRQ input, from within the call that causes it.

    :raises ValueError: not 1 to 8 CPUs, or the SPIs are not a multiple of 32 up to 960.
    """

    flavour: ClassVar = GicFlavour.GICV2

    def __init__(self, vcpus: int, on_change: Callable[[int, bool], None], spis: int = 32) -> None:
        if not 1 <= vcpus <= MAX_GICV2_VCPUS or spis % 32 or not 0 <= spis <= 960:
            raise ValueError(f"no GICv2 has {vcpus} CPUs and {spis} SPIs")
        self._state = GicState(vcpus, spis, on_change)
        self.distributor = Distributor(self._state)
        self.cpu_interface = CpuInterface(self._state)
        self.devices: list[MmioDevice] = [self.distributor, self.cpu_interface]

    @property
    def current(self) -> int:
        """The CPU that accesses registers: the engine sets it at each vCPU load."""
        return self._state.current

    @current.setter
    def current(self, cpu: int) -> None:
        self._state.current = cpu

    def reset(self) -> None:
        """Return to the state after power-on. Input wires keep their levels: their drivers own them."""
        self._state.reset()

    def state(self) -> GicV2State:
        """Return the state to save, without the input wires, which their drivers restore."""
        return save(self._state)

    def restore(self, state: GicV2State) -> None:
        """Resume from ``state``, and report each CPU's IRQ input that changes.

        Restore the drivers of the input wires first: a later edge is a new interrupt.

        :raises SavedStateError: this controller cannot be in this state.
        """
        restore(self._state, state)

    def level(self, cpu: int) -> bool:
        """Return the level of a CPU's IRQ input."""
        return self._state.cpus[cpu].line

    def set_spi(self, spi: int, level: bool) -> None:
        """Set the wire of a shared peripheral interrupt, counted from 0.

        :raises ValueError: there is no such interrupt.
        """
        intid = SPI_BASE + spi
        if not SPI_BASE <= intid < self._state.count:
            raise ValueError(f"there is no SPI {spi}")
        if self._state.spi.set_wire(1 << intid, level):
            self._state.refresh_all()

    def set_ppi(self, cpu: int, intid: int, level: bool) -> None:
        """Set the wire of a private peripheral interrupt, INTID 16 to 31.

        :raises ValueError: the INTID is not a PPI's.
        """
        if not PPI_BASE <= intid < SPI_BASE:
            raise ValueError(f"INTID {intid} is no PPI")
        state = self._state.cpus[cpu]
        if state.bits.set_wire(1 << intid, level):
            self._state.refresh(state)
