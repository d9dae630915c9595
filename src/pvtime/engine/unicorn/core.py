# SPDX-License-Identifier: GPL-2.0-or-later
"""The one emulated CPU: its set-up, its memory map, and a run from one exit to the next.

How exceptions are entered and interrupts delivered is left to two subclasses: one uses the library's
internals, the other its public interface alone.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from enum import Enum, IntEnum
from typing import Any, ClassVar, Final, Protocol, TypeAlias

import unicorn
from unicorn import arm64_const as a64
from unicorn import unicorn_const as uc_const

from pvtime.abi.arm64 import Esr, ExceptionClass, Pstate, SysReg, SysRegAccess
from pvtime.engine.unicorn.address_space import Nothing, ReadOnly, fill_gaps, map_device
from pvtime.engine.unicorn.levels import CPU_MODELS, move_counter, set_mpidr, set_up_levels
from pvtime.engine.unicorn.library import EXCEPTION_CALLBACK, LIBRARY, RUN_FOREVER, add_hook
from pvtime.engine.unicorn.registers import CpuState, read_cpu, write_cpu
from pvtime.errors import EngineError, UsageError
from pvtime.machine.device import MmioDevice
from pvtime.machine.layout import Region
from pvtime.machine.memory import GuestMemory
from pvtime.machine.memory_map import Access

__all__ = ["INSTRUCTION", "Context", "Core", "Exit", "Number", "Supervisor"]

INSTRUCTION: Final = 4
"""Bytes."""

Context: TypeAlias = Any
"""unicorn.unicorn_py3.unicorn.UcContext: all registers of a vCPU that is not on the CPU."""


class Number(IntEnum):
    """The library's exception numbers (QEMU's target/arm/cpu.h, EXCP_*)."""

    UNDEFINED = 1
    PREFETCH_ABORT = 3
    DATA_ABORT = 4
    HVC = 11
    SMC = 13


class Exit(Enum):
    """Why a run ended."""

    IDLE = "idle"
    """WFI with nothing pending."""
    STOPPED = "stopped"
    """Somebody asked: :meth:`Core.kick`."""


class Supervisor(Protocol):
    """Who the CPU asks when the guest needs its hypervisor."""

    def hypercall(self, registers: Sequence[int]) -> int:
        """HVC with X0 to X3; return X0, signed."""

    def read_register(self, register: SysReg) -> int | None:
        """A trapped MRS; None where there is no such register."""

    def write_register(self, register: SysReg, value: int) -> bool:
        """A trapped MSR; False where there is no such register."""


class Core(ABC):
    """The emulated CPU. One thread uses it, but for :meth:`kick`.

    :raises UsageError: an unknown CPU model.
    """

    internals: ClassVar[bool]

    def __init__(
        self,
        model: str,
        memories: Sequence[GuestMemory],
        devices: Sequence[MmioDevice],
        supervisor: Supervisor,
    ) -> None:
        if model not in CPU_MODELS:
            raise UsageError(f"--cpu {model}: the unicorn engine has {', '.join(CPU_MODELS)}")
        self.model = model
        self._uc = unicorn.Uc(unicorn.UC_ARCH_ARM64, unicorn.UC_MODE_ARM, CPU_MODELS[model])
        self._handle = self._uc._uch
        self._supervisor = supervisor
        self._failure: BaseException | None = None
        self._idle = False
        self._callbacks: list[object] = []
        self._start = LIBRARY.uc_emu_start
        self._stop = LIBRARY.uc_emu_stop
        self._uc.ctl_exits_enabled(True)
        set_up_levels(self._uc, model)
        for memory in memories:
            self._uc.mem_map_ptr(memory.base, memory.size, unicorn.UC_PROT_ALL, memory.address)
        for device in fill_gaps([memory.region for memory in memories], devices):
            self._callbacks += map_device(self._handle, device, self._fail)
        on_exception = EXCEPTION_CALLBACK(self._on_exception)
        self._callbacks.append(on_exception)
        add_hook(self._handle, uc_const.UC_HOOK_INTR, on_exception)
        self._pristine = self._uc.context_save()

    def _fail(self, error: BaseException) -> None:
        """Keep what a callback raised; it cannot pass through the library's frames."""
        if self._failure is None:
            self._failure = error
        self.kick()

    # What a vCPU is while it is not on the CPU.

    def new_context(self, mpidr: int, entry: int, context: int) -> Context:
        """Return the state of a vCPU after reset that is to start at ``entry`` with ``context`` in X0."""
        saved = self._uc.context_save()
        self._uc.context_restore(self._pristine)
        set_mpidr(self._uc, mpidr)
        self._uc.reg_write(a64.UC_ARM64_REG_PC, entry)
        self._uc.reg_write(a64.UC_ARM64_REG_X0, context)
        new = self._uc.context_save()
        self._uc.context_restore(saved)
        return new

    def move_counter(self, offset: int) -> None:
        """Let the guest's counters be ``offset`` ticks behind the host's, for every context made from now on.

        CNTPCT_EL0 traps then.
        """
        self._uc.context_restore(self._pristine)
        move_counter(self._uc, offset)
        self._uc.context_update(self._pristine)

    def make_context(self, mpidr: int, state: CpuState) -> Context:
        """Return a vCPU with the registers of ``state``, which was checked."""
        self._uc.context_restore(self._pristine)
        set_mpidr(self._uc, mpidr)
        write_cpu(self._uc, state)
        return self._uc.context_save()

    def read_context(self, context: Context) -> CpuState:
        """Return a vCPU's registers, while none is on the CPU.

        :raises EngineError: it is in a state that cannot be saved.
        """
        self.load(context)
        return read_cpu(self._uc)

    def save(self, context: Context) -> None:
        """Copy the CPU's registers into ``context``."""
        self._uc.context_update(context)

    def load(self, context: Context) -> None:
        """Put another vCPU on the CPU.

        What the CPU remembers of translated addresses is the last vCPU's: a TLBI that this one missed
        while it was away would else have had no effect on it.
        """
        self._uc.context_restore(context)
        self._uc.ctl(uc_const.UC_CTL_TLB_FLUSH, uc_const.UC_CTL_IO_WRITE)

    def limit(self, region: Region, memory: GuestMemory, access: Access) -> None:
        """Take a part of the memory away from the guest, make it read-only, or give it back.

        :raises EngineError: it is not whole pages.
        """
        try:
            self._uc.mem_unmap(region.base, region.size)
            if access is Access.WRITE:
                address = memory.address + region.base - memory.base
                self._uc.mem_map_ptr(region.base, region.size, unicorn.UC_PROT_ALL, address)
        except unicorn.UcError as error:
            raise EngineError(f"{region} cannot be mapped anew: {error}") from error
        if access is not Access.WRITE:
            device = Nothing(region) if access is Access.NONE else ReadOnly(region, memory)
            self._callbacks += map_device(self._handle, device, self._fail)
        self.forget_code()

    def forget_code(self) -> None:
        """Drop all translated code: guest memory was written from outside."""
        self._uc.ctl_flush_tb()

    # Running.

    def run(self) -> Exit:
        """Run the vCPU that is on the CPU until it idles or somebody asks it to stop.

        :raises EngineError: the library cannot go on.
        """
        self._idle = False
        status = self._execute()
        if self._failure is not None:
            failure, self._failure = self._failure, None
            raise failure
        if status == uc_const.UC_ERR_OK:
            return Exit.IDLE if self._idle else Exit.STOPPED
        if status in (uc_const.UC_ERR_FETCH_UNMAPPED, uc_const.UC_ERR_FETCH_PROT):
            self._abort_fetch()
            return Exit.STOPPED
        raise EngineError(f"the emulated CPU stopped at {self.pc():#x}: {unicorn.UcError(status)}")

    def _resume(self) -> int:
        status: int = self._start(self._handle, self.pc(), RUN_FOREVER, 0, 0)
        return status

    @abstractmethod
    def kick(self) -> None:
        """End the run at the next block's start; from any thread, also from a callback of the run itself.

        A run that is just about to start may miss it: repeat.
        """

    @abstractmethod
    def pc(self) -> int:
        """The program counter."""

    @abstractmethod
    def set_irq(self, level: bool) -> None:
        """Set the level of the CPU's IRQ input."""

    @abstractmethod
    def _execute(self) -> int:
        """Run; return the library's status."""

    @abstractmethod
    def _exception(self) -> tuple[Esr, int, int]:
        """Return the syndrome, the fault address and the target level of the exception that is pending."""

    @abstractmethod
    def _enter(self, number: int, esr: Esr, address: int) -> None:
        """Enter an exception at EL1."""

    @abstractmethod
    def registers(self) -> Sequence[int]:
        """X0 to X30, and XZR or SP as number 31."""

    @abstractmethod
    def set_registers(self, values: dict[int, int]) -> None:
        """Write some of X0 to X30."""

    @abstractmethod
    def _skip_instruction(self) -> None:
        """Move the program counter on."""

    def _abort_fetch(self) -> None:
        """The guest jumped to where no memory is: a synchronous external abort, as on hardware."""
        user = Pstate(self._uc.reg_read(a64.UC_ARM64_REG_PSTATE)).level == 0
        ec = ExceptionClass.INSTRUCTION_ABORT_LOWER if user else ExceptionClass.INSTRUCTION_ABORT
        esr = Esr.of(ec=ec, il=1, fault_status=0x10)
        self._enter(Number.PREFETCH_ABORT, esr, self.pc())

    def _on_exception(self, _uc: int, number: int, _data: int) -> None:
        try:
            self._dispatch(number)
        except BaseException as error:
            self._fail(error)

    def _dispatch(self, number: int) -> None:
        if number == Number.HVC:
            result = self._supervisor.hypercall(self.registers()[:4])
            self.set_registers({0: result & (1 << 64) - 1, 1: 0, 2: 0, 3: 0})
            return
        if number == Number.SMC:
            # KVM without nesting: the call does not exist, and says so (handle_smc).
            self.set_registers({0: (1 << 64) - 1})
            return
        esr, address, target = self._exception()
        if target > 1:
            if self._trapped(esr):
                self._skip_instruction()
                return
            number, esr = Number.UNDEFINED, Esr.of(ec=ExceptionClass.UNKNOWN, il=1)
        self._enter(number, esr, address)

    def _trapped(self, esr: Esr) -> bool:
        """Carry out an instruction that was trapped to EL2 or above; False where it does not exist."""
        if esr.ec == ExceptionClass.WFX:
            if not self._interrupted():
                self._idle = True
                self.kick()
            return True
        return esr.ec == ExceptionClass.SYSTEM_REGISTER and self._emulate(SysRegAccess(esr.iss))

    @abstractmethod
    def _interrupted(self) -> bool:
        """Whether the IRQ input is up, so that a WFI does not wait."""

    def _emulate(self, access: SysRegAccess) -> bool:
        """Carry out a trapped MRS or MSR; False where there is no such register."""
        if not access.read:
            value = 0 if access.rt == 31 else self.registers()[access.rt]
            return self._supervisor.write_register(access.register, value)
        result = self._supervisor.read_register(access.register)
        if result is not None and access.rt != 31:
            self.set_registers({access.rt: result})
        return result is not None
