# SPDX-License-Identifier: GPL-2.0-or-later
"""GICv3 with affinity routing, one Security state and group 1, without LPIs or ITS (Arm IHI 0069).

Where the specification leaves a choice, it behaves like KVM's emulation (arch/arm64/kvm/vgic). Each CPU has
one input, IRQ.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar

from pvtime.abi.arm64 import SysReg
from pvtime.abi.gicv2 import PPI_BASE, SPI_BASE
from pvtime.abi.gicv3 import REDISTRIBUTOR_SIZE
from pvtime.machine.device import MmioDevice
from pvtime.machine.devicetree import GicFlavour
from pvtime.machine.gicv3.cpu_interface import IccRegisters
from pvtime.machine.gicv3.distributor import AffinityDistributor
from pvtime.machine.gicv3.redistributor import Redistributors
from pvtime.machine.gicv3.state import GicV3Internals, GicV3State, restore, save
from pvtime.machine.layout import redistributors

__all__ = ["GicV3", "GicV3State"]


class GicV3:
    """The interrupt controller: MMIO devices and system registers, input and output wires.

    Only the engine's thread may use it: nothing is locked. ``on_change(cpu, level)`` is called for a change
    of a CPU's IRQ input, from within the call that causes it.

    :param mpidrs: each CPU's affinity fields.
    :raises ValueError: the SPIs are not a multiple of 32 up to 960, or there are no CPUs.
    """

    flavour: ClassVar = GicFlavour.GICV3

    def __init__(self, mpidrs: Sequence[int], on_change: Callable[[int, bool], None], spis: int = 32) -> None:
        if not mpidrs or spis % 32 or not 0 <= spis <= 960:
            raise ValueError(f"no GICv3 has {len(mpidrs)} CPUs and {spis} SPIs")
        self._state = GicV3Internals(mpidrs, spis, on_change)
        self.distributor = AffinityDistributor(self._state)
        self.redistributors: list[Redistributors] = []
        first = 0
        for region in redistributors(len(mpidrs)):
            self.redistributors.append(Redistributors(self._state, region, first))
            first += region.size // REDISTRIBUTOR_SIZE
        self.devices: list[MmioDevice] = [self.distributor, *self.redistributors]
        self._cpu_interface = IccRegisters(self._state)

    @property
    def current(self) -> int:
        """The CPU that accesses system registers: the engine sets it at each vCPU load."""
        return self._state.current

    @current.setter
    def current(self, cpu: int) -> None:
        self._state.current = cpu

    def reset(self) -> None:
        """Return to the state after power-on. Input wires keep their levels: their drivers own them."""
        self._state.reset()

    def state(self) -> GicV3State:
        """Return the state to save, without the input wires, which their drivers restore."""
        return save(self._state)

    def restore(self, state: GicV3State) -> None:
        """Resume from ``state``, and report each CPU's IRQ input that changes.

        Restore the drivers of the input wires first: a later edge is a new interrupt.

        :raises SavedStateError: this controller cannot be in this state.
        """
        restore(self._state, state)

    def level(self, cpu: int) -> bool:
        """Return the level of a CPU's IRQ input."""
        return self._state.cpus[cpu].line

    def read_register(self, register: SysReg) -> int | None:
        """Return a system register of the current CPU; None: it does not exist."""
        return self._cpu_interface.read(register)

    def write_register(self, register: SysReg, value: int) -> bool:
        """Set a system register of the current CPU; return False if it does not exist."""
        return self._cpu_interface.write(register, value)

    def set_spi(self, spi: int, level: bool) -> None:
        """Set the wire of a shared peripheral interrupt, counted from 0.

        :raises ValueError: there is no such interrupt.
        """
        intid = SPI_BASE + spi
        if not SPI_BASE <= intid < self._state.count:
            raise ValueError(f"there is no SPI {spi}")
        if self._state.spi.set_wire(1 << intid, level):
            self._state.refresh_target(intid)

    def set_ppi(self, cpu: int, intid: int, level: bool) -> None:
        """Set the wire of a private peripheral interrupt, INTID 16 to 31.

        :raises ValueError: the INTID is not a PPI's.
        """
        if not PPI_BASE <= intid < SPI_BASE:
            raise ValueError(f"INTID {intid} is no PPI")
        state = self._state.cpus[cpu]
        if state.bits.set_wire(1 << intid, level):
            self._state.refresh(state)
