# SPDX-License-Identifier: GPL-2.0-or-later
"""The guest's instruction cache: the library's translated code, invalidated by IC IVAU, IALLU and IALLUIS.

The library executes these instructions as NOPs and relies on its own detection of writes to translated code
instead, which marks pages by virtual address: a write through another mapping of the page, such as the
linear map by which Linux patches its text (arch/arm64/kernel/alternative.c), goes undetected where that
mapping's TLB entry is older than the translation, and also from the second write on. So the instructions are
hooked. All vCPUs share the translations, which makes each of the three a broadcast.

To trap the instructions to EL2 (HCR_EL2.TPU) would cost more: DC CVAU, which has nothing to do here, traps
with them, 60,000 times each in a boot of Linux 6.1.
"""

from __future__ import annotations

import ctypes
import mmap
from collections.abc import Callable
from typing import Final

import unicorn
from unicorn import arm64_const as a64
from unicorn import unicorn_const as uc_const

from pvtime.abi.arm64 import IC_IVAU, ExceptionLevel, Pstate, SysReg
from pvtime.engine.unicorn.native_hook import TARGETS, NativeHook
from pvtime.engine.unicorn.uclib import LIBRARY
from pvtime.errors import EngineError
from pvtime.machine.memory import MAP_NORESERVE

__all__ = ["CODE_CACHE_SIZE", "CodeCache", "check_room"]

CODE_CACHE_SIZE: Final = 128 << 20
"""Bytes of host memory for translated code: once they are full, the library drops all of it. Its own default
is 1 GiB, which a guest that rewrites code fills. A boot of Linux 6.1 needs less than 32 MiB."""

_ADDRESS_SPACE: Final = 448 << 20
"""Bytes that must be free when an emulated CPU is made: the cache, and what the process was seen to map up to
the end of a run (292 MiB more with 8 vCPUs): the library's tables, and the C library's heaps of threads."""

_PAGE: Final = 0x1000
_LINE: Final = 64
"""CTR_EL0.IminLine of every model."""


def check_room() -> None:
    """Check that the host gives the library its memory. Without it the library ends the process by itself
    (tcg_init_ctx_and_code_gen_buffer: "Could not allocate dynamic translator buffer", exit(1)), or faults.

    :raises EngineError: it does not.
    """
    try:
        mmap.mmap(-1, _ADDRESS_SPACE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | MAP_NORESERVE).close()
    except OSError as error:
        raise EngineError(
            f"the emulator needs {_ADDRESS_SPACE >> 20}M of memory, which the host does not give: end other "
            "programs, or raise the limit (ulimit -v)"
        ) from error


_ON_SYS: Final = {
    # The arguments are (uc, register, uc_arm64_cp_reg, state): rdi, esi, rdx, rcx.
    "x86_64": b"".join(
        (
            b"\x83\x3a\x07",  # cmpl $7, (%rdx)  CRn
            b"\x75\x69",  # jne 3f
            b"\x8b\x42\x04",  # movl 4(%rdx), %eax  CRm
            b"\x83\xe0\xfb",  # andl $~4, %eax
            b"\x83\xf8\x01",  # cmpl $1, %eax
            b"\x75\x5e",  # jne 3f
            b"\x53",  # pushq %rbx
            b"\x41\x54",  # pushq %r12
            b"\x41\x55",  # pushq %r13
            b"\x48\x89\xcb",  # movq %rcx, %rbx
            b"\x44\x8b\x62\x0c",  # movl 12(%rdx), %r12d  op1
            b"\x4c\x8b\x6a\x18",  # movq 24(%rdx), %r13  Xt
            b"\x41\x83\xfc\x03",  # cmpl $3, %r12d
            b"\x75\x31",  # jne 1f
            b"\x80\x3b\x00",  # cmpb $0, (%rbx)  translated
            b"\x75\x2c",  # jne 1f
            b"\x4c\x89\xee",  # movq %r13, %rsi
            b"\xba\x01\x00\x00\x00",  # movl $UC_PROT_READ, %edx
            b"\x48\x8d\x4b\x08",  # leaq 8(%rbx), %rcx  physical
            b"\x48\xb8" + TARGETS[0],  # movabsq $uc_vmem_translate, %rax
            b"\xff\xd0",  # callq *%rax
            b"\x85\xc0",  # testl %eax, %eax
            b"\x75\x10",  # jne 1f
            b"\x48\x8b\x43\x08",  # movq 8(%rbx), %rax
            b"\x48\x25\x00\xf0\xff\xff",  # andq $-4096, %rax
            b"\x48\x3b\x43\x10",  # cmpq 16(%rbx), %rax  clean
            b"\x74\x12",  # je 2f
            b"\x44\x89\xe7",  # 1: movl %r12d, %edi
            b"\x4c\x89\xee",  # movq %r13, %rsi
            b"\x48\xb8" + TARGETS[1],  # movabsq $callback, %rax
            b"\xff\xd0",  # callq *%rax
            b"\x41\x5d",  # 2: popq %r13
            b"\x41\x5c",  # popq %r12
            b"\x5b",  # popq %rbx
            b"\x31\xc0",  # 3: xorl %eax, %eax
            b"\xc3",  # ret
        )
    ),
    # x0, w1, x2, x3.
    "aarch64": b"".join(
        (
            b"\x49\x00\x40\xb9",  # ldr w9, [x2]  CRn
            b"\x3f\x1d\x00\x71",  # cmp w9, #7
            b"\x41\x04\x00\x54",  # b.ne 3f
            b"\x49\x04\x40\xb9",  # ldr w9, [x2, #4]  CRm
            b"\x29\x79\x1d\x12",  # and w9, w9, #~4
            b"\x3f\x05\x00\x71",  # cmp w9, #1
            b"\xc1\x03\x00\x54",  # b.ne 3f
            b"\xfd\x7b\xbd\xa9",  # stp x29, x30, [sp, #-48]!
            b"\xfd\x03\x00\x91",  # mov x29, sp
            b"\xf3\x53\x01\xa9",  # stp x19, x20, [sp, #16]
            b"\xf5\x13\x00\xf9",  # str x21, [sp, #32]
            b"\xf3\x03\x03\xaa",  # mov x19, x3
            b"\x54\x0c\x40\xb9",  # ldr w20, [x2, #12]  op1
            b"\x55\x0c\x40\xf9",  # ldr x21, [x2, #24]  Xt
            b"\x9f\x0e\x00\x71",  # cmp w20, #3
            b"\xc1\x01\x00\x54",  # b.ne 1f
            b"\x69\x02\x40\x39",  # ldrb w9, [x19]  translated
            b"\x89\x01\x00\x35",  # cbnz w9, 1f
            b"\xe1\x03\x15\xaa",  # mov x1, x21
            b"\x22\x00\x80\x52",  # mov w2, #UC_PROT_READ
            b"\x63\x22\x00\x91",  # add x3, x19, #8  physical
            b"\x30\x02\x00\x58",  # ldr x16, 4f
            b"\x00\x02\x3f\xd6",  # blr x16
            b"\xc0\x00\x00\x35",  # cbnz w0, 1f
            b"\x69\x06\x40\xf9",  # ldr x9, [x19, #8]
            b"\x29\xcd\x74\x92",  # and x9, x9, #~0xfff
            b"\x6a\x0a\x40\xf9",  # ldr x10, [x19, #16]  clean
            b"\x3f\x01\x0a\xeb",  # cmp x9, x10
            b"\xa0\x00\x00\x54",  # b.eq 2f
            b"\xe0\x03\x14\x2a",  # 1: mov w0, w20
            b"\xe1\x03\x15\xaa",  # mov x1, x21
            b"\x30\x01\x00\x58",  # ldr x16, 5f
            b"\x00\x02\x3f\xd6",  # blr x16
            b"\xf5\x13\x40\xf9",  # 2: ldr x21, [sp, #32]
            b"\xf3\x53\x41\xa9",  # ldp x19, x20, [sp, #16]
            b"\xfd\x7b\xc3\xa8",  # ldp x29, x30, [sp], #48
            b"\x00\x00\x80\x52",  # 3: mov w0, #0
            b"\xc0\x03\x5f\xd6",  # ret
            TARGETS[0],  # 4: .quad uc_vmem_translate
            TARGETS[1],  # 5: .quad callback
        )
    ),
}
"""Call the callback for SYS with CRn = 7 and CRm = 1 or 5, which are the IC instructions (C5.1.3), but not
for an IVAU in the page that is clean: a boot has 60,000, and the callback takes 2 us. Return 0, which has the
library execute the instruction: EL0 may not be allowed to. A kernel executes DC ZVA by the million."""

_ON_TRANSLATION: Final = {
    # The arguments are (uc, block, block before, state): rdi, rsi, rdx, rcx.
    "x86_64": b"".join(
        (
            b"\xc6\x01\x01",  # movb $1, (%rcx)  translated
            b"\x48\xff\x49\x18",  # decq 24(%rcx)  left
            b"\x74\x01",  # je 1f
            b"\xc3",  # ret
            b"\x48\xb8" + TARGETS[0],  # 1: movabsq $uc_emu_stop, %rax
            b"\xff\xe0",  # jmp *%rax
        )
    ),
    # x0, x1, x2, x3.
    "aarch64": b"".join(
        (
            b"\x29\x00\x80\x52",  # mov w9, #1
            b"\x69\x00\x00\x39",  # strb w9, [x3]  translated
            b"\x69\x0c\x40\xf9",  # ldr x9, [x3, #24]  left
            b"\x29\x05\x00\xf1",  # subs x9, x9, #1
            b"\x69\x0c\x00\xf9",  # str x9, [x3, #24]
            b"\x40\x00\x00\x54",  # b.eq 1f
            b"\xc0\x03\x5f\xd6",  # ret
            b"\x70\x00\x00\x58",  # 1: ldr x16, 2f
            b"\x00\x02\x1f\xd6",  # br x16
            b"\x1f\x20\x03\xd5",  # nop
            TARGETS[0],  # 2: .quad uc_emu_stop
        )
    ),
}
"""Note that a block was translated, and end the run at the last that is left."""

_REMOVE_CACHE: Final = ctypes.c_int(
    uc_const.UC_CTL_TB_REMOVE_CACHE | 2 << 26 | uc_const.UC_CTL_IO_WRITE << 30
)
"""uc_ctl's number for uc_ctl_remove_cache (UC_CTL_WRITE in unicorn.h)."""

_AT_EL2: Final = Pstate.of(daif=0xF, level=ExceptionLevel.EL2, own_stack=1)
_TPIDR_EL2: Final = SysReg(3, 4, 13, 0, 2)
"""A register that no guest at EL1 sees."""


_CALLBACK: Final = ctypes.CFUNCTYPE(None, ctypes.c_uint32, ctypes.c_uint64)
"""(op1, value of Xt)."""


class _State(ctypes.Structure):
    """State shared with the hooks' machine code."""

    _fields_ = (
        ("translated", ctypes.c_uint8),
        ("physical", ctypes.c_uint64),
        ("clean", ctypes.c_uint64),
        ("left", ctypes.c_int64),
    )

    translated: int
    """Whether anything was translated since this was cleared."""
    physical: int
    """Room for the result of uc_vmem_translate."""
    clean: int
    """A physical page without translated code, unless :attr:`translated` is set."""
    left: int
    """Blocks until a run ends for their number."""


_NO_PAGE: Final = 1
_NO_LIMIT: Final = (1 << 63) - 1


class CodeCache:
    """One CPU's translated code.

    :param kick: ends the run at the start of the next block. IC IALLU(IS) takes effect there, for the library
        cannot drop all translations while it executes one. A block ends at an ISB, and until then code may
        be stale on hardware, too.
    :param fail: gets what the callback raises.
    :param block_limit: blocks that may be translated until :attr:`has_many`; None: any number.
    :raises EngineError: see :class:`NativeHook`.
    """

    def __init__(
        self,
        uc: unicorn.Uc,
        kick: Callable[[], None],
        fail: Callable[[BaseException], None],
        block_limit: int | None = None,
    ) -> None:
        self._uc = uc
        self._handle = uc._uch
        self._kick = kick
        self._fail = fail
        self._stale = False
        self._last = _NO_PAGE
        """Physical page of the last invalidated line."""
        self._limit = _NO_LIMIT if block_limit is None else block_limit
        self._state = _State(clean=_NO_PAGE, left=self._limit)
        self._uc_vmem_translate = LIBRARY.uc_vmem_translate
        self._uc_vmem_translate.argtypes = (ctypes.c_void_p, ctypes.c_uint64, ctypes.c_int, ctypes.c_void_p)
        self._callback = _CALLBACK(self._on_maintenance)
        self._hooks = (
            NativeHook(
                self._handle,
                uc_const.UC_HOOK_INSN,
                _ON_SYS,
                self._state,
                [self._uc_vmem_translate, self._callback],
                a64.UC_ARM64_INS_SYS,
            ),
            NativeHook(
                self._handle,
                uc_const.UC_HOOK_EDGE_GENERATED,
                _ON_TRANSLATION,
                self._state,
                [LIBRARY.uc_emu_stop],
            ),
        )

    @property
    def has_many(self) -> bool:
        """Whether as many blocks as allowed were translated; the run ended for that."""
        return self._state.left <= 0

    def begin_count(self) -> None:
        """Drop all translated code, between two runs, and count the blocks from here."""
        self._state.left = self._limit
        self.flush()

    def flush(self) -> None:
        """Drop all translated code, between two runs."""
        self._stale = False
        self._uc.ctl_flush_tb()

    def flush_stale(self) -> None:
        """Drop all translated code where the guest has asked for it, between two runs."""
        if self._stale:
            self.flush()

    def _on_maintenance(self, op1: int, address: int) -> None:
        try:
            if op1 == IC_IVAU.op1:
                self._invalidate(address)
            else:
                self._flush_soon()
        except BaseException as error:
            self._fail(error)

    def _flush_soon(self) -> None:
        self._stale = True
        self._kick()

    def _invalidate(self, address: int) -> None:
        """Drop the translations of the line at a virtual address, whatever addresses they are for.

        The second line of a page in a row has the whole page dropped, and then nothing is left to do for
        others: code is patched at many places of a page in turn, or at one.
        """
        physical = self._translate(address, uc_const.UC_PROT_READ)
        if physical is None:
            physical = self._translate(address, uc_const.UC_PROT_EXEC)
        if physical is None:
            self._flush_soon()  # it may be mapped, without permissions for this level
            return
        page = physical & -_PAGE
        start, size = -_LINE, _LINE
        self._state.clean = _NO_PAGE
        if page == self._last:
            start, size = -_PAGE, _PAGE
            self._state.translated = 0
            self._state.clean = page
        self._last = page
        if self._translate(address, uc_const.UC_PROT_EXEC) is not None:
            self._drop(address & start, size)
        else:
            self._drop_physical(physical & start, size)

    def _translate(self, address: int, permission: int) -> int | None:
        physical = ctypes.c_uint64()
        status = self._uc_vmem_translate(self._handle, address, permission, ctypes.byref(physical))
        return None if status else physical.value

    def _drop(self, address: int, size: int) -> None:
        """Drop the code at an address that is executable here."""
        LIBRARY.uc_ctl(self._handle, _REMOVE_CACHE, ctypes.c_uint64(address), ctypes.c_uint64(address + size))

    def _drop_physical(self, address: int, size: int) -> None:
        """Drop the code at a physical address, as EL2, where the MMU is off.

        The library looks at PSTATE only when a system register is written.
        """
        pstate = self._uc.reg_read(a64.UC_ARM64_REG_PSTATE)
        self._uc.reg_write(a64.UC_ARM64_REG_PSTATE, int(_AT_EL2))
        self._uc.cpr_write(*_TPIDR_EL2, 0)
        self._drop(address, size)
        self._uc.reg_write(a64.UC_ARM64_REG_PSTATE, pstate)
        self._uc.cpr_write(*_TPIDR_EL2, 0)
