# SPDX-License-Identifier: GPL-2.0-or-later
"""Fields of Unicorn 2.1.4's private structures, and the check that this build of the library has them.

The wheel exports the functions of the QEMU that it is made of, and its structures are at known places.
Three things there are worth having:

- ``arm_cpu_do_interrupt``: a whole exception entry in one call (0.5 us, against 20 us by the public API).
- ``interrupt_request``: an interrupt is taken when the guest unmasks it, not at the next slice.
- ``check_exit_request``: the translator calls it behind each load and store, for a check that may leave the
  emulation with the program counter still *on* that instruction, which is then executed twice. Without it, a
  stop from another thread takes effect at a block's start, so a slice needs no instruction count.

Nothing here is used unless the machine code of the functions that touch these fields is, byte for byte,
the code that the places were read from.
"""

from __future__ import annotations

import ctypes
import platform
from collections.abc import Mapping
from typing import Final

from pvtime.engine.unicorn.uclib import LIBRARY
from pvtime.records import dataclass

__all__ = ["LAYOUTS", "ExceptionState", "ExecutionState", "Internals", "LibraryLayout", "find"]

_DO_INTERRUPT = "arm_cpu_do_interrupt_aarch64"
_CHECK_EXIT_REQUEST = "check_exit_request_aarch64"
_CHECK_EXIT_REQUEST_RETURN = 0x10
"""Offset of the first return instruction in check_exit_request, of both builds."""


class ExceptionState(ctypes.Structure):
    """CPUARMState.exception: the exception that is about to be taken (QEMU's target/arm/cpu.h)."""

    _fields_ = (
        ("syndrome", ctypes.c_uint32),
        ("fsr", ctypes.c_uint32),
        ("address", ctypes.c_uint64),
        ("target_el", ctypes.c_uint32),
    )


class ExecutionState(ctypes.Structure):
    """CPUARMState.pc to aarch64; PC and PSTATE are stale while :attr:`aarch64` is 0."""

    _fields_ = (
        ("pc", ctypes.c_uint64),
        ("pstate", ctypes.c_uint32),
        ("aarch64", ctypes.c_uint32),
    )


@dataclass(frozen=True)
class LibraryLayout:
    """Byte offsets, and the code that they were read from."""

    code: dict[str, str]
    """First bytes, in hexadecimal, of the functions that use the fields."""
    exit_check_slot: int
    """Offset, from check_exit_request, of its entry in the table of linked functions (.got.plt)."""
    uc_cpu: int
    cpu_interrupt_request: int
    cpu_env_pointer: int
    cpu_exit_flag_pointer: int
    cpu_env: int


LAYOUTS: Final = {
    "x86_64": LibraryLayout(
        code={
            "cpu_exit": "488b8730010000 baffffffff c6471501 c787b881000001000000 66895002",
            _CHECK_EXIT_REQUEST: "488bb770a90000 80bef207000000 7408 c3",
            "raise_exception_aarch64": (
                "4156 4c8db7b05cffff 4155 4189f5 4154 4189d4 55 89cd 53 4889fb 83f901 741c "
                "4489ab50deffff 4c89f7 4489a3d00b0000 89abe00b0000"
            ),
            "arm_cpu_exec_interrupt_aarch64": (
                "4157 4156 4155 4189f5 4154 55 4889fd 53 4883ec18 488b87b0810000 488b9f28010000"
            ),
            "tlb_reset_dirty_by_vaddr_aarch64": (
                "4156 4989f1 4989d0 53 488b9f28010000 4c8b97a8810000 4c8d9b30ffffff 488db3c8deffff "
                "4881eb98000000"
            ),
            "resume_all_vcpus_aarch64": "4155 4154 4989fc 55 53 4883ec08 4c8bafb8010000",
        },
        exit_check_slot=0xF2A138,
        uc_cpu=0x1B8,
        cpu_interrupt_request=0x1C,
        cpu_env_pointer=0x128,
        cpu_exit_flag_pointer=0x130,
        cpu_env=0xA350,
    ),
    "aarch64": LibraryLayout(
        code={
            "cpu_exit": "03204091 25008052 01d040f9 05540039 24008052 642802b9 02008012 22040079",
            _CHECK_EXIT_REQUEST: "01204091 214855f9 22c85f39 42000034 c0035fd6",
            "raise_exception_aarch64": (
                "fd7bbca9 fd030091 f35301a9 f403032a f30300aa f55b02a9 f603012a f503022a f71b00f9 "
                "e1779492 1700018b 7f040071 00010054 e0778492 6102008b e00317aa 361002b9 75d20bb9 "
                "74e20bb9"
            ),
            "tlb_reset_dirty_by_vaddr_aarch64": (
                "03204091 0c088052 0bcc40f9 e0268492 670c41f9 6a4103d1 6601008b 6b6102d1"
            ),
            "resume_all_vcpus_aarch64": "fd7bbba9 fd030091 f92300f9 19dc40f9",
        },
        exit_check_slot=0xDCD738,
        uc_cpu=0x1B8,
        cpu_interrupt_request=0x1C,
        cpu_env_pointer=0x198,
        cpu_exit_flag_pointer=0x1A0,
        cpu_env=0xA3C0,
    ),
}
"""By platform.machine(); the sizes of the C library's jmp_buf make the difference."""

_ENV_REGISTERS_32 = 0
_ENV_REGISTERS = 0x40
_ENV_PC = 0x140
_ENV_EXCEPTION = 0xBD0
_ENV_EXCEPTION_INDEX = -0x21B0
"""CPUState.exception_index, as raise_exception finds it from the registers."""

_ENV_TLB_STATISTICS = -0x2170
_ENV_TLB_TABLES = -0xD0
_TLB_ENTRY_BITS = 6
_REGIMES = 12
"""Number of the emulated CPU's translation regimes; each has a TLB of its own."""

_TLB_LIMIT = 1 << 10
"""Entries. The library searches all of them for each block that it translates, so that a large TLB, which it
grows during a boot to 16384, costs more than it saves: a boot took 1.65 s without a limit, 1.40 s with 512 to
2048 entries, 1.45 s with 4096 (one vCPU, medians)."""

_INTERRUPT_HARD = 1 << 1
"""CPU_INTERRUPT_HARD: the CPU's IRQ input (QEMU's include/exec/cpu-all.h)."""

_LEAVE_BLOCKS = 0xFFFF
"""Value of icount_decr's upper half at which a running chain of blocks looks up at its next block."""


class _TlbStatistics(ctypes.Structure):
    """CPUTLBDesc of one translation regime: by these the library sizes its table, at the next flush."""

    _fields_ = (
        ("large_page_address", ctypes.c_uint64),
        ("large_page_mask", ctypes.c_uint64),
        ("window_begin", ctypes.c_int64),
        ("window_max", ctypes.c_size_t),
        ("used", ctypes.c_size_t),
        ("rest", ctypes.c_uint8 * 0x290),
    )


class _TlbTable(ctypes.Structure):
    """CPUTLBDescFast."""

    _fields_ = (("mask", ctypes.c_uint64), ("table", ctypes.c_uint64))

    def entries(self) -> int:
        """Number of entries of the table."""
        return (int(self.mask) >> _TLB_ENTRY_BITS) + 1


class Internals:
    """One emulated CPU's fields, as ctypes objects over the library's own memory.

    :param handle: the ``uc_engine`` pointer.
    """

    def __init__(self, handle: int, layout: LibraryLayout) -> None:
        cpu = _pointer(handle + layout.uc_cpu)
        if _pointer(cpu + layout.cpu_env_pointer) != cpu + layout.cpu_env:
            raise ValueError("the CPU's state is not where it should be")
        _remove_exit_checks(layout)
        env = cpu + layout.cpu_env
        self._cpu = ctypes.c_void_p(cpu)
        self._do_interrupt = getattr(LIBRARY, _DO_INTERRUPT)
        self._do_interrupt.restype = None
        self._do_interrupt.argtypes = (ctypes.c_void_p,)
        self._requests = ctypes.c_uint32.from_address(cpu + layout.cpu_interrupt_request)
        flag = _pointer(cpu + layout.cpu_exit_flag_pointer)
        self._leave = ctypes.c_uint16.from_address(flag + 2)
        self.registers = (ctypes.c_uint64 * 32).from_address(env + _ENV_REGISTERS)
        self.registers_32 = (ctypes.c_uint32 * 16).from_address(env + _ENV_REGISTERS_32)
        """R0 to R14 and PC, valid in AArch32 state."""
        self.pc = ctypes.c_uint64.from_address(env + _ENV_PC)
        self.execution = ExecutionState.from_address(env + _ENV_PC)
        if self.execution.aarch64 != 1:
            raise ValueError("the CPU does not start in AArch64 state")
        self.exception = ExceptionState.from_address(env + _ENV_EXCEPTION)
        self._exception_index = ctypes.c_int32.from_address(env + _ENV_EXCEPTION_INDEX)
        self._tlb = [
            (
                _TlbTable.from_address(env + _ENV_TLB_TABLES + regime * ctypes.sizeof(_TlbTable)),
                _TlbStatistics.from_address(
                    env + _ENV_TLB_STATISTICS + regime * ctypes.sizeof(_TlbStatistics)
                ),
            )
            for regime in range(_REGIMES)
        ]

    def take_exception(self) -> None:
        """Enter the exception that :attr:`exception` describes, at the level it is for."""
        self._do_interrupt(self._cpu)

    def raise_exception(self, number: int) -> None:
        """Enter the exception that :attr:`exception` describes, where none of that number is under way.

        Between two runs the library has none at all, and ends the process over an unknown one.
        """
        under_way = self._exception_index.value
        self._exception_index.value = number
        self.take_exception()
        self._exception_index.value = under_way

    def limit_tlb(self) -> None:
        """Keep the library from growing its TLB beyond what pays: say that it is a quarter full."""
        for table, statistics in self._tlb:
            entries = table.entries()
            if entries >= _TLB_LIMIT:
                statistics.used = statistics.window_max = entries // 4

    def set_irq(self, level: bool) -> None:
        """Set the CPU's IRQ input; a guest that is running takes the interrupt at its next block."""
        if level:
            self._requests.value |= _INTERRUPT_HARD
            self._leave.value = _LEAVE_BLOCKS
        else:
            self._requests.value &= ~_INTERRUPT_HARD


def _pointer(address: int) -> int:
    return ctypes.c_uint64.from_address(address).value


def _address(symbol: str) -> int | None:
    function = getattr(LIBRARY, symbol, None)
    return None if function is None else ctypes.cast(function, ctypes.c_void_p).value


def _matches(symbol: str, code: str) -> bool:
    expected = bytes.fromhex(code)
    address = _address(symbol)
    return address is not None and ctypes.string_at(address, len(expected)) == expected


def _remove_exit_checks(layout: LibraryLayout) -> None:
    """Link the translator's calls of check_exit_request to that function's own return instruction.

    For the whole process. The library's flag for this, ``no_exit_request``, is cleared by its translator at
    each T32 instruction (thumb_tr_translate_insn in its qemu/target/arm/translate.c): a STREX was executed
    twice, so that a program waited for its own lock, and so were a kernel's loads from devices.

    :raises ValueError: the table has another function there.
    """
    function = _address(_CHECK_EXIT_REQUEST) or 0
    slot = ctypes.c_uint64.from_address(function + layout.exit_check_slot)
    if slot.value not in (function, function + _CHECK_EXIT_REQUEST_RETURN):
        raise ValueError("check_exit_request is not linked where it should be")
    slot.value = function + _CHECK_EXIT_REQUEST_RETURN


def find(handle: int, layouts: Mapping[str, LibraryLayout] = LAYOUTS) -> Internals | None:
    """Return the internals of a CPU; None where this build of the library is not one that is known.

    :param layouts: those that are known, by the host's architecture.
    """
    layout = layouts.get(platform.machine())
    known = layout is not None and hasattr(LIBRARY, _DO_INTERRUPT)
    if layout is None or not known or not all(_matches(*item) for item in layout.code.items()):
        return None
    try:
        return Internals(handle, layout)
    except ValueError:
        return None
