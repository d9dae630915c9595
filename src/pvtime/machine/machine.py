# SPDX-License-Identifier: GPL-2.0-or-later
"""A machine: RAM, the region for stolen time, two serial ports, and what the first vCPU boots."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import field, replace
from functools import partial
from typing import TYPE_CHECKING, Annotated

from pvtime.errors import EngineError, GuestMemoryError, UsageError
from pvtime.machine import boot
from pvtime.machine.boot import BootEntry
from pvtime.machine.devicetree import (
    AGENT_SPI,
    CONSOLE_SPI,
    DISK_SPI,
    MAX_BOOTARGS,
    GicFlavour,
    TreeConfig,
    build,
)
from pvtime.machine.gic import GicVersion
from pvtime.machine.image import KernelImage
from pvtime.machine.layout import (
    AGENT,
    CONSOLE,
    DISKS,
    GIC_CPU_INTERFACE,
    GIC_DISTRIBUTOR,
    IPA_END,
    MAX_VCPUS,
    RAM_BASE,
    STOLEN_TIME,
    Region,
    affinity,
    redistributors,
)
from pvtime.machine.memory import GuestMemory, check_memory_size
from pvtime.machine.memory_map import Access, MemoryMap
from pvtime.machine.timer import MAX_HZ, MIN_HZ
from pvtime.machine.uart import Ns16550, UartState
from pvtime.records import dataclass
from pvtime.schema import Rule, matching, within
from pvtime.steal.live_physical_time import LivePhysicalTime
from pvtime.steal.placement import PlacementName
from pvtime.steal.placements import make_placement
from pvtime.steal.structure import Structure

if TYPE_CHECKING:
    from pvtime.machine.virtio.block import Disk, VirtioBlock

__all__ = ["Machine", "MachineConfig", "MachineState", "SetIrq"]

SetIrq = Callable[[int, bool], None]
"""Sets the level of a shared peripheral interrupt's wire; what an engine gives."""


def _is_command_line(text: str) -> bool:
    try:
        command_line = os.fsencode(text)
    except UnicodeError:
        return False
    # In a restored machine a longer one would be noticed at a reset only, when the device tree is built.
    return b"\0" not in command_line and len(command_line) <= MAX_BOOTARGS


def _is_stolen_time(region: Region) -> bool:
    """Whether the structures can be there: of the region only the address is free."""
    possible = 0 <= region.base < IPA_END and region.base % STOLEN_TIME.size == 0
    return possible and region == replace(STOLEN_TIME, base=region.base)


@dataclass(frozen=True)
class MachineConfig:
    """A user's choices of a machine."""

    vcpus: Annotated[int, within(1, MAX_VCPUS)]
    memory: Annotated[int, within(0, IPA_END - RAM_BASE)]
    """Bytes of RAM."""
    kernel: KernelImage
    initrd: bytes = field(default=b"", repr=False)
    append: Annotated[str, Rule(_is_command_line, "a command line")] = ""
    """The kernel's command line."""
    cpu: Annotated[str, matching("[!-~]{1,64}", "the name of a CPU model")] | None = None
    """A CPU model's name; None: the engine's usual one."""
    placement: PlacementName = PlacementName.USERSPACE
    no_pvtime: frozenset[Annotated[int, within(0, MAX_VCPUS - 1)]] = frozenset()
    """vCPUs without a structure of stolen time."""
    stolen_time: Annotated[Region, Rule(_is_stolen_time, "a region for stolen time")] = STOLEN_TIME
    """Region of the structures, unless the guest provides them."""
    gic: GicVersion = GicVersion.AUTO
    """The interrupt controller."""
    lpt: Annotated[int, within(MIN_HZ, MAX_HZ)] | None = None
    """Frequency of Live Physical Time (never merged), in Hz; None: the machine has none."""


@dataclass(frozen=True)
class MachineState:
    """State of a machine's devices."""

    console: UartState
    agent: UartState


class Machine:
    """Everything around the vCPUs that is the same for every engine.

    :param console: gets what the guest writes to its first serial port; called from an engine's threads.
    :param agent: the same for the second one.
    :param disks: files of the host for the guest, which the machine closes; no saved machine has any.
    :raises UsageError: the configuration cannot be: vCPUs, memory, images that do not fit.
    """

    def __init__(
        self,
        config: MachineConfig,
        console: Callable[[bytes], object],
        agent: Callable[[bytes], object],
        disks: Sequence[Disk] = (),
    ) -> None:
        if not 1 <= config.vcpus <= MAX_VCPUS:
            raise UsageError(f"{config.vcpus} vCPUs: give 1 to {MAX_VCPUS}")
        check_memory_size(config.memory)
        self.config = config
        self.boots = 0
        """Times that its guest was loaded: at the start, unless it was restored, and at each reset."""
        self.mpidrs = [affinity(index) for index in range(config.vcpus)]
        """Each vCPU's affinity fields."""
        self._set_irq: SetIrq | None = None
        if not config.no_pvtime <= set(range(config.vcpus)):
            raise UsageError(f"no stolen time for vCPU {max(config.no_pvtime)}: there is no such vCPU")
        self.map = MemoryMap([CONSOLE, AGENT, GIC_DISTRIBUTOR, *self._gic_regions(), *DISKS[: len(disks)]])
        self.memory = self.map.allocate(RAM_BASE, config.memory, "RAM")
        self._places = boot.place(self.memory.region, config.kernel, len(config.initrd))
        self.placement = make_placement(config.placement, self.map, config.vcpus, config.stolen_time.base)
        self.lpt = None if config.lpt is None else LivePhysicalTime(self.placement.lpt(), config.lpt)
        """Live Physical Time; None: the machine has none."""
        self.memories = self.map.vmm_memories
        """Memory that the VMM provides, and has to save and to move."""
        self.console = Ns16550(CONSOLE, partial(self._wire, CONSOLE_SPI), console)
        self.agent = Ns16550(AGENT, partial(self._wire, AGENT_SPI), agent)
        self.disks = self._make_disks(disks)

    def _make_disks(self, disks: Sequence[Disk]) -> list[VirtioBlock]:
        if not disks:  # nor is the module imported for it
            return []
        from pvtime.machine.virtio.block import VirtioBlock

        return [
            VirtioBlock(DISKS[index], partial(self._wire, DISK_SPI + index), self.memory, disk)
            for index, disk in enumerate(disks)
        ]

    def _gic_regions(self) -> list[Region]:
        """Return where an engine may have the rest of its interrupt controller."""
        v2 = [] if self.config.gic is GicVersion.V3 else [GIC_CPU_INTERFACE]
        v3 = [] if self.config.gic is GicVersion.V2 else redistributors(self.config.vcpus)
        return v2 + v3

    @property
    def stolen_time(self) -> GuestMemory:
        """The structures' memory.

        :raises GuestMemoryError: it is not the VMM that provides it, nor the hypervisor.
        """
        region = self.config.stolen_time
        return self.map.find(region.base, region.size, Access.NONE)

    def memory_at(self, ipa: int, length: int) -> GuestMemory:
        """Return which of :attr:`memories` holds these bytes.

        :raises GuestMemoryError: none does.
        """
        memory = self.map.find(ipa, length, Access.NONE)
        if memory not in self.memories:
            raise GuestMemoryError(f"{length} bytes at {ipa:#x} are not the VMM's")
        return memory

    def structures(self) -> list[Structure | None]:
        """Return every vCPU's structure; None for a vCPU that has none."""
        return [
            None if index in self.config.no_pvtime else self.placement.structure(index)
            for index in range(self.config.vcpus)
        ]

    def connect(self, set_irq: SetIrq) -> None:
        """Connect the devices' interrupt wires to an engine's interrupt controller."""
        self._set_irq = set_irq

    def load(self, gic: GicFlavour, timer_ppis: tuple[int, ...]) -> BootEntry:
        """Put kernel, initrd and device tree into otherwise empty RAM: once at the start and at each reset.

        :raises UsageError: the device tree is too large.
        """
        self.boots += 1
        self.map.clear()
        self.console.reset()
        self.agent.reset()
        for disk in self.disks:
            disk.reset()
        tree = build(
            TreeConfig(
                vcpus=self.mpidrs,
                memory=self.memory.region,
                bootargs=self.config.append,
                initrd=self._places.initrd,
                gic=gic,
                timer_ppis=timer_ppis,
                disks=[disk.region for disk in self.disks],
            )
        )
        return boot.load(self.memory, self._places, self.config.kernel, self.config.initrd, tree)

    def refuse_unsavable(self) -> None:
        """Check that the machine can be saved and moved.

        :raises EngineError: it has a disk, whose contents are not the machine's.
        """
        if self.disks:
            raise EngineError(
                "a machine with a disk (a large root file system, or a shared directory) cannot be saved or "
                "moved: save one without"
            )

    def state(self) -> MachineState:
        """Return the state of the devices; nothing may use them meanwhile.

        :raises EngineError: see :meth:`refuse_unsavable`.
        """
        self.refuse_unsavable()
        return MachineState(self.console.state(), self.agent.state())

    def restore(self, state: MachineState) -> None:
        """Restore the state of the devices. It comes before the engine's, which depends on the wires' levels.

        :raises SavedStateError: no device can be in this state.
        """
        self.console.restore(state.console)
        self.agent.restore(state.agent)

    def close(self) -> None:
        """Give the memory back, and close the disks; the engine must have been stopped."""
        self.map.close()
        while self.disks:
            self.disks.pop().disk.close()

    def _wire(self, spi: int, level: bool) -> None:
        if self._set_irq is not None:
            self._set_irq(spi, level)
