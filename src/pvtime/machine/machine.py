# SPDX-License-Identifier: GPL-2.0-or-later
"""A machine: RAM, the region for stolen time, two serial ports, and what the first vCPU boots."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

from pvtime.errors import UsageError
from pvtime.machine import boot
from pvtime.machine.boot import Entry
from pvtime.machine.devicetree import AGENT_SPI, CONSOLE_SPI, GicFlavour, TreeConfig, build
from pvtime.machine.image import KernelImage
from pvtime.machine.layout import (
    AGENT,
    CONSOLE,
    GIC_CPU_INTERFACE,
    GIC_DISTRIBUTOR,
    MAX_VCPUS,
    RAM_BASE,
    STOLEN_TIME,
    refuse_overlap,
)
from pvtime.machine.memory import GuestMemory, check_memory_size
from pvtime.machine.uart import Ns16550

__all__ = ["Machine", "MachineConfig", "SetIrq"]

SetIrq = Callable[[int, bool], None]
"""Sets the level of a shared peripheral interrupt's wire; what an engine gives."""


@dataclass(frozen=True)
class MachineConfig:
    """What a user chooses of a machine."""

    vcpus: int
    memory: int
    """Bytes of RAM."""
    kernel: KernelImage
    initrd: bytes = field(default=b"", repr=False)
    append: str = ""
    """The kernel's command line."""
    cpu: str | None = None
    """A CPU model's name; None: the engine's usual one."""


class Machine:
    """Everything around the vCPUs that is the same for every engine.

    :param console: gets what the guest writes to its first serial port; called from an engine's threads.
    :param agent: the same for the second one.
    :raises UsageError: the configuration cannot be: vCPUs, memory, images that do not fit.
    """

    def __init__(
        self, config: MachineConfig, console: Callable[[bytes], object], agent: Callable[[bytes], object]
    ) -> None:
        if not 1 <= config.vcpus <= MAX_VCPUS:
            raise UsageError(f"{config.vcpus} vCPUs: give 1 to {MAX_VCPUS}")
        check_memory_size(config.memory)
        self.config = config
        self.mpidrs = list(range(config.vcpus))
        """Each vCPU's affinity fields: as KVM numbers them."""
        self._set_irq: SetIrq | None = None
        self.memory = GuestMemory(RAM_BASE, config.memory, "RAM")
        refuse_overlap([self.memory.region, STOLEN_TIME, CONSOLE, AGENT, GIC_DISTRIBUTOR, GIC_CPU_INTERFACE])
        self._places = boot.place(self.memory.region, config.kernel, len(config.initrd))
        self.stolen_time = GuestMemory(STOLEN_TIME.base, STOLEN_TIME.size, STOLEN_TIME.name)
        self.console = Ns16550(CONSOLE, partial(self._wire, CONSOLE_SPI), console)
        self.agent = Ns16550(AGENT, partial(self._wire, AGENT_SPI), agent)

    def connect(self, set_irq: SetIrq) -> None:
        """Connect the devices' interrupt wires to an engine's interrupt controller."""
        self._set_irq = set_irq

    def load(self, gic: GicFlavour, timer_ppis: tuple[int, ...]) -> Entry:
        """Put kernel, initrd and device tree into otherwise empty RAM: once at the start and at each reset.

        :raises UsageError: the device tree is too large.
        """
        self.memory.clear()
        self.stolen_time.clear()
        self.console.reset()
        self.agent.reset()
        tree = build(
            TreeConfig(
                vcpus=self.mpidrs,
                memory=self.memory.region,
                bootargs=self.config.append,
                initrd=self._places.initrd,
                gic=gic,
                timer_ppis=timer_ppis,
            )
        )
        return boot.load(self.memory, self._places, self.config.kernel, self.config.initrd, tree)

    def close(self) -> None:
        """Give the memory back; the engine must have been stopped."""
        self.memory.close()
        self.stolen_time.close()

    def _wire(self, spi: int, level: bool) -> None:
        if self._set_irq is not None:
            self._set_irq(spi, level)
