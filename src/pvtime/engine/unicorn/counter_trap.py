# SPDX-License-Identifier: GPL-2.0-or-later
"""Traps of CNTVCT_EL0 and CNTV_TVAL_EL0, for a guest whose counter has another frequency than the library's.

The library's counter has 62.5 MHz. An EL2 can trap CNTPCT_EL0 and the physical timer (CNTHCTL_EL2), but
CNTVCT_EL0 and the virtual timer only with FEAT_ECV, which no emulated model has. So MRS is hooked, by machine
code that looks for these two registers: of the others a kernel reads some a million times.

CNTFRQ_EL0 is a register that can be set. The library discards writes to the virtual timer: its compare value
stays 0 in any case. An AArch32 program reads the library's own counter: its MRRC cannot be hooked.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Final

import unicorn
from unicorn import arm64_const as a64
from unicorn import unicorn_const as uc_const

from pvtime.abi.arm64 import CNTKCTL_EL1, CNTV_TVAL_EL0, CNTVCT_EL0, CntkctlEl1, SysReg
from pvtime.engine.unicorn.native_hook import TARGETS, NativeHook

__all__ = ["CounterTrap"]

_ON_MRS: Final = {
    # The arguments are (uc, register, uc_arm64_cp_reg, data): rdi, esi, rdx, rcx.
    "x86_64": b"".join(
        (
            b"\x83\x3a\x0e",  # cmpl $14, (%rdx)  CRn
            b"\x75\x25",  # jne 2f
            b"\x83\x7a\x0c\x03",  # cmpl $3, 12(%rdx)  op1
            b"\x75\x1f",  # jne 2f
            b"\x8b\x42\x04",  # movl 4(%rdx), %eax  CRm
            b"\xc1\xe0\x03",  # shll $3, %eax
            b"\x0b\x42\x10",  # orl 16(%rdx), %eax  op2
            b"\x83\xf8\x02",  # cmpl $2, %eax  CNTVCT_EL0
            b"\x74\x05",  # je 1f
            b"\x83\xf8\x18",  # cmpl $24, %eax  CNTV_TVAL_EL0
            b"\x75\x0c",  # jne 2f
            b"\x48\xb8" + TARGETS[0],  # 1: movabsq $callback, %rax
            b"\xff\xe0",  # jmp *%rax
            b"\x31\xc0",  # 2: xorl %eax, %eax
            b"\xc3",  # ret
        )
    ),
    # x0, w1, x2, x3.
    "aarch64": b"".join(
        (
            b"\x49\x00\x40\xb9",  # ldr w9, [x2]  CRn
            b"\x3f\x39\x00\x71",  # cmp w9, #14
            b"\xa1\x01\x00\x54",  # b.ne 2f
            b"\x49\x0c\x40\xb9",  # ldr w9, [x2, #12]  op1
            b"\x3f\x0d\x00\x71",  # cmp w9, #3
            b"\x41\x01\x00\x54",  # b.ne 2f
            b"\x49\x04\x40\xb9",  # ldr w9, [x2, #4]  CRm
            b"\x4a\x10\x40\xb9",  # ldr w10, [x2, #16]  op2
            b"\x49\x0d\x09\x2a",  # orr w9, w10, w9, lsl #3
            b"\x3f\x09\x00\x71",  # cmp w9, #2  CNTVCT_EL0
            b"\x60\x00\x00\x54",  # b.eq 1f
            b"\x3f\x61\x00\x71",  # cmp w9, #24  CNTV_TVAL_EL0
            b"\x61\x00\x00\x54",  # b.ne 2f
            b"\xb0\x00\x00\x58",  # 1: ldr x16, 3f
            b"\x00\x02\x1f\xd6",  # br x16
            b"\x00\x00\x80\x52",  # 2: mov w0, #0
            b"\xc0\x03\x5f\xd6",  # ret
            b"\x1f\x20\x03\xd5",  # nop
            TARGETS[0],  # 3: .quad callback
        )
    ),
}
"""Call the callback for the two registers and return what it returns: whether the instruction is done."""

_CRM: Final = 4
"""Offset of CRm in uc_arm64_cp_reg."""

_CALLBACK: Final = ctypes.CFUNCTYPE(
    ctypes.c_uint32, ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p
)

_NUMBERS: Final = {getattr(a64, f"UC_ARM64_REG_X{number}"): number for number in range(31)}
"""The library's names of X0 to X30; XZR is not among them."""


class CounterTrap:
    """The two registers of one CPU.

    :param level: returns the exception level that the CPU is at.
    :param read: returns a system register's value for the guest.
    :param write: writes some of X0 to X30.
    :param fail: gets what ``read`` raises.
    :raises EngineError: see :class:`NativeHook`.
    """

    def __init__(
        self,
        uc: unicorn.Uc,
        level: Callable[[], int],
        read: Callable[[SysReg], int | None],
        write: Callable[[dict[int, int]], None],
        fail: Callable[[BaseException], None],
    ) -> None:
        self._uc = uc
        self._level = level
        self._read = read
        self._write = write
        self._fail = fail
        self._callback = _CALLBACK(self._on_read)
        self._data = ctypes.c_uint64()
        self._hook = NativeHook(
            uc._uch, uc_const.UC_HOOK_INSN, _ON_MRS, self._data, [self._callback], a64.UC_ARM64_INS_MRS
        )

    def _on_read(self, _uc: int, target: int, instruction: int, _data: int) -> int:
        """Carry out an MRS; return 0 for one at EL0 that EL1 forbids, which the library then traps to it."""
        try:
            crm = ctypes.c_uint32.from_address(instruction + _CRM).value
            register = CNTVCT_EL0 if crm == CNTVCT_EL0.crm else CNTV_TVAL_EL0
            if self._level() == 0:
                allowed = CntkctlEl1(self._uc.cpr_read(*CNTKCTL_EL1))
                if not (allowed.el0vcten if register == CNTVCT_EL0 else allowed.el0vten):
                    return 0
            value = self._read(register)
            number = _NUMBERS.get(target)
            if value is not None and number is not None:
                self._write({number: value})
        except BaseException as error:
            self._fail(error)
        return 1
