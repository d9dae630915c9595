# SPDX-License-Identifier: GPL-2.0-or-later
"""The one emulated CPU: a run from one exit to the next, and what the guest traps for meanwhile.

How exceptions are entered and interrupts delivered is left to two subclasses: one uses the library's
internals, the other its public interface alone.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from enum import Enum
from functools import lru_cache
from typing import ClassVar, Final, Protocol

import unicorn
from unicorn import arm64_const as a64
from unicorn import unicorn_const as uc_const

from pvtime.abi.arm64 import (
    ID_AA64MMFR0_EL1,
    Esr,
    ExceptionClass,
    IdAa64Mmfr0,
    Pstate,
    SysReg,
    SysRegAccess,
)
from pvtime.engine.unicorn.absent_registers import AbsentRegisters
from pvtime.engine.unicorn.address_space import AddressSpace
from pvtime.engine.unicorn.code_cache import CODE_CACHE_SIZE, CodeCache, check_room
from pvtime.engine.unicorn.code_reader import CodeReader
from pvtime.engine.unicorn.context import Contexts
from pvtime.engine.unicorn.counter_trap import CounterTrap
from pvtime.engine.unicorn.el_setup import CPU_MODELS, set_up_el2_el3, trap_counter
from pvtime.engine.unicorn.making import Executor, alone
from pvtime.engine.unicorn.uclib import EXCEPTION_CALLBACK, LIBRARY, RUN_FOREVER, ExceptionNumber, add_hook
from pvtime.errors import EngineError, UsageError
from pvtime.machine.device import MmioDevice
from pvtime.machine.memory import GuestMemory
from pvtime.machine.timer import NATIVE, CounterRate
from pvtime.records import dataclass

__all__ = ["INSTRUCTION", "Core", "CoreConfig", "Exit", "TrapHandler"]

INSTRUCTION: Final = 4
"""Bytes."""


class Exit(Enum):
    """The reason for which a run ended."""

    IDLE = "idle"
    """WFI with nothing pending."""
    STOPPED = "stopped"
    """By :meth:`Core.kick`."""


class TrapHandler(Protocol):
    """Interface for handling traps from the guest: HVC, and MRS and MSR of registers that the CPU lacks."""

    def hypercall(self, registers: Sequence[int]) -> int:
        """Answer an HVC with X0 to X3; return X0, signed."""

    def read_register(self, register: SysReg) -> int | None:
        """Carry out a trapped MRS; return None if the register does not exist."""

    def write_register(self, register: SysReg, value: int) -> bool:
        """Carry out a trapped MSR; return False if the register does not exist."""


@dataclass(frozen=True)
class CoreConfig:
    """An emulated CPU's model, memory, devices, and who handles its traps."""

    model: str
    memories: Sequence[GuestMemory]
    devices: Sequence[MmioDevice]
    traps: TrapHandler
    rate: CounterRate = NATIVE
    """The frequency of the counter; another than the native one has the counter trap."""
    gicv3: bool = False
    """The CPU has the system registers of a GICv3, which the traps' handler knows."""


class Core(ABC):
    """The emulated CPU. All methods but :meth:`kick` are for one thread.

    :raises UsageError: an unknown CPU model.
    """

    internals: ClassVar[bool]
    block_limit: ClassVar[int | None] = None
    """Blocks that may be translated until :meth:`_execute` must do something about their number."""

    def __init__(self, config: CoreConfig) -> None:
        if config.model not in CPU_MODELS:
            raise UsageError(f"CPU model {config.model!r}: the unicorn engine has {', '.join(CPU_MODELS)}")
        check_room()
        self.model = config.model
        self._traps = config.traps
        with alone():
            self._uc = unicorn.Uc(unicorn.UC_ARCH_ARM64, unicorn.UC_MODE_ARM, CPU_MODELS[config.model])
            self._uc.ctl_set_tcg_buffer_size(CODE_CACHE_SIZE)
            self._handle = self._uc._uch
            self.page_sizes = IdAa64Mmfr0(self._uc.cpr_read(*ID_AA64MMFR0_EL1)).page_sizes
            self._executor = Executor(self.kick)
        self._failure: BaseException | None = None
        self._idle = False
        self._start = LIBRARY.uc_emu_start
        self._stop = LIBRARY.uc_emu_stop
        self._uc.ctl_exits_enabled(True)
        self._code = CodeReader(self._uc, config.memories)
        self._absent = AbsentRegisters(self._uc, self._code) if config.gicv3 else None
        set_up_el2_el3(self._uc, config.model, trap_ids=config.gicv3)
        if config.rate is not NATIVE:
            trap_counter(self._uc, config.rate.hz)
            self._counter_trap = CounterTrap(
                self._uc, self._level, config.traps.read_register, self.set_registers, self._fail
            )
        self.address_space = AddressSpace(self._uc, config.memories, config.devices, self._fail)
        self._exception_callback = EXCEPTION_CALLBACK(self._on_exception)
        add_hook(self._handle, uc_const.UC_HOOK_INTR, self._exception_callback)
        self.code_cache = CodeCache(self._uc, self.kick, self._fail, self.block_limit)
        self.contexts = Contexts(self._uc, self._leave_aarch32)

    def _fail(self, error: BaseException) -> None:
        """Keep an exception of a callback for :meth:`run`; it cannot pass through the library's frames."""
        if self._failure is None:
            self._failure = error
        self.kick()

    def run(self) -> Exit:
        """Run the loaded vCPU until it idles or is kicked.

        :raises EngineError: the library stopped with an error.
        """
        self._idle = False
        self._executor.begin()
        try:
            status = self._execute()
        finally:
            self._executor.end()
        self.code_cache.flush_stale()
        if self._failure is not None:
            failure, self._failure = self._failure, None
            raise failure
        if status == uc_const.UC_ERR_OK:
            return Exit.IDLE if self._idle else Exit.STOPPED
        if status in (uc_const.UC_ERR_FETCH_UNMAPPED, uc_const.UC_ERR_FETCH_PROT):
            self._abort_fetch()
            return Exit.STOPPED
        raise EngineError(f"the emulated CPU stopped at {self.pc():#x}: {unicorn.UcError(status)}")

    def spins(self) -> bool:
        """Whether the vCPU, between two runs, is in a loop that waits for another one."""
        return self._code.waits(self.pc())

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
        """Return the pending exception's syndrome, fault address and target level."""

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
    def _skip_instruction(self, esr: Esr) -> None:
        """Move the program counter past the trapped instruction."""

    @abstractmethod
    def _level(self) -> int:
        """The exception level, in AArch64 state."""

    @abstractmethod
    def _aarch32_pc(self) -> int | None:
        """The program counter of an AArch32 program at EL0; None in AArch64 state.

        In AArch32 state the library leaves PC and PSTATE, but for its interrupt masks, as they last were.
        """

    @abstractmethod
    def _leave_aarch32(self) -> None:
        """Bring the CPU, between two runs, from AArch32 into AArch64 state: one that can be saved.

        :raises EngineError: impossible here or now.
        """

    def _abort_fetch(self) -> None:
        """Enter a synchronous external abort for a jump to an address without memory, as hardware does."""
        pc = self._aarch32_pc()
        user = pc is not None or Pstate(self._uc.reg_read(a64.UC_ARM64_REG_PSTATE)).level == 0
        ec = ExceptionClass.INSTRUCTION_ABORT_LOWER if user else ExceptionClass.INSTRUCTION_ABORT
        esr = Esr.of(ec=ec, il=1, fault_status=0x10)
        self._enter(ExceptionNumber.PREFETCH_ABORT, esr, self.pc() if pc is None else pc)

    def _on_exception(self, _uc: int, number: int, _data: int) -> None:
        try:
            self._dispatch(number)
        except BaseException as error:
            self._fail(error)

    def _dispatch(self, number: int) -> None:
        if number == ExceptionNumber.HVC:
            result = self._traps.hypercall(self.registers()[:4])
            self.set_registers({0: result & (1 << 64) - 1, 1: 0, 2: 0, 3: 0})
            return
        if number == ExceptionNumber.SMC:
            # KVM without nesting: the call does not exist, and says so (handle_smc).
            self.set_registers({0: (1 << 64) - 1})
            return
        if self._absent_register(number):
            return
        esr, address, target = self._exception()
        if target > 1:
            if self._trapped(esr):
                self._skip_instruction(esr)
                return
            number, esr = ExceptionNumber.UNDEFINED, Esr.of(ec=ExceptionClass.UNKNOWN, il=1)
        self._enter(number, esr, address)

    def _absent_register(self, number: int) -> bool:
        """Carry out an access to a register that the library lacks; return False if this is none.

        :param number: the exception's.
        """
        if self._absent is None or number != ExceptionNumber.UNDEFINED:
            return False
        esr, _, target = self._exception()
        if target != 1 or esr.ec != ExceptionClass.UNKNOWN:
            return False
        if self._aarch32_pc() is not None or self._level() != 1:
            return False
        access = self._absent.access_at(self.pc())
        if access is None or not self._emulate(access):
            return False
        self._skip_instruction(esr)
        return True

    def _trapped(self, esr: Esr) -> bool:
        """Carry out an instruction trapped to EL2 or above; return False if it does not exist."""
        if esr.ec == ExceptionClass.WFX:
            if not self._interrupted():
                self._idle = True
                self.kick()
            return True
        return esr.ec == ExceptionClass.SYSTEM_REGISTER and self._emulate(SysRegAccess(esr.iss))

    @abstractmethod
    def _interrupted(self) -> bool:
        """Whether the IRQ input is high, which ends a WFI at once."""

    def _emulate(self, access: SysRegAccess) -> bool:
        """Carry out a trapped MRS or MSR; return False if the register does not exist."""
        register, rt, read = _fields(access)
        if not read:
            value = 0 if rt == 31 else self.registers()[rt]
            return self._traps.write_register(register, value)
        result = None if self._absent is None else self._absent.id_register(register)
        if result is None:
            result = self._traps.read_register(register)
        if result is not None and rt != 31:
            self.set_registers({rt: result})
        return result is not None


@lru_cache(maxsize=256)
def _fields(access: SysRegAccess) -> tuple[SysReg, int, int]:
    """Return the register, the number of the general register, and whether it is read.

    The same instructions trap again and again: 0.1 us instead of 1.4.
    """
    return access.register, access.rt, access.read
