# SPDX-License-Identifier: GPL-2.0-or-later
"""Programs of a few instructions on an x86_64 host's own KVM, with x86's stolen time.

The VM has no firmware, no interrupt controller and no devices; its vCPUs are in 16-bit real mode::

    0x0000  +---------------------------+
            | interrupt vectors         |
    0x0500  +---------------------------+
            | words of host and guest   |   Word
    0x1000  +---------------------------+
            | programs                  |   Entry; guests/x86.S
    0x7000  +---------------------------+
            | stack                     |   of the fault handler; it grows down
    0x8000  +---------------------------+
            | structures                |   a memory slot of its own, which can be taken away
    0x9000  +---------------------------+
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator
from enum import IntEnum
from importlib import resources
from typing import Final

from pvtime.abi.kvm_types import MemoryFlag
from pvtime.abi.kvm_x86 import (
    MSR_KVM_STEAL_TIME,
    MsrEntry,
    MsrList,
    Rflags,
    SegmentRegisters,
    X86Exit,
    X86Ioctl,
    X86Registers,
)
from pvtime.abi.registration import KvmStealTime
from pvtime.engine.kvm.ioctl import call
from pvtime.engine.kvm.system import DEVICE, X86, Kvm
from pvtime.engine.kvm.vcpu_fd import VcpuFd
from pvtime.engine.kvm.vm_fd import WRITABLE, VmFd
from pvtime.errors import EngineError, UsageError
from pvtime.machine.layout import Region
from pvtime.machine.memory import GuestMemory

__all__ = ["CODE", "RAM", "STRUCTURES", "Entry", "Word", "X86Vcpu", "X86Vm", "x86_image", "x86_vm"]

CODE: Final = 0x1000
STACK: Final = 0x8000
FAULT_VECTOR: Final = 13
"""General protection fault; a vector of real mode has four bytes."""
TSS: Final = 0x10_0000
"""Address of Intel's three pages; the argument of a request is a signed int in Python."""

RAM: Final = Region("RAM", 0, 0x8000)
STRUCTURES: Final = Region("structures", 0x8000, 0x1000)
STRUCTURE_SIZE: Final = 64


class Word(IntEnum):
    """Addresses of the words that host and guest share."""

    FAULTED = 0x500
    """Not 0: a general protection fault came."""
    STOP = 0x508
    """Not 0: programs that loop end."""


class Entry(IntEnum):
    """Addresses of the programs in guests/x86.S; each ends with HLT."""

    LEAVE = CODE
    WRITE_MSR = CODE + 0x10
    """It writes EDX:EAX to the register ECX."""
    SPIN = CODE + 0x20
    """It computes until :attr:`Word.STOP` is set."""
    FAULT = CODE + 0x30


def x86_image() -> bytes:
    """Return the programs, which tools/build-guests assembles from guests/x86.S."""
    return (resources.files(__package__) / "guests" / "x86.bin").read_bytes()


class X86Vcpu:
    """A vCPU in real mode."""

    def __init__(self, fd: VcpuFd) -> None:
        self.fd = fd
        segments = SegmentRegisters()
        call(fd.fd, X86Ioctl.GET_SREGS, segments, fd.name)
        segments.cs.base = segments.cs.selector = 0
        call(fd.fd, X86Ioctl.SET_SREGS, segments, fd.name)

    def start_at(self, entry: Entry, **registers: int) -> None:
        """Have the next :meth:`enter` begin at a program, with these registers and all others 0."""
        rflags = int(Rflags.of(always_1=1))
        values = X86Registers(rip=entry, rflags=rflags, rsp=STACK, **registers)
        call(self.fd.fd, X86Ioctl.SET_REGS, values, self.fd.name)

    def enter(self) -> None:
        """Run the program until it halts.

        :raises EngineError: it ends otherwise, or another thread owns the vCPU.
        """
        while True:
            try:
                self.fd.enter()
            except InterruptedError:  # by a signal that has been handled, such as SIGCONT
                continue
            break
        self.check_halted()

    def check_halted(self) -> None:
        """Check that the last exit was the program's HLT.

        :raises EngineError: it was not.
        """
        reason = self.fd.kvm_run.exit_reason
        if reason != X86Exit.HLT:
            values = X86Registers()
            call(self.fd.fd, X86Ioctl.GET_REGS, values, self.fd.name)
            raise EngineError(
                f"{self.fd.name} left its program with KVM exit {reason} at {values.rip:#x}: "
                "this host's KVM cannot run it"
            )

    def set_msr(self, value: int) -> bool:
        """Write MSR_KVM_STEAL_TIME by KVM_SET_MSRS; return whether KVM accepts the value."""
        argument = MsrList(nmsrs=1, entry=MsrEntry(index=MSR_KVM_STEAL_TIME, data=value))
        return call(self.fd.fd, X86Ioctl.SET_MSRS, argument, self.fd.name) == 1

    def get_msr(self) -> int:
        """Return MSR_KVM_STEAL_TIME."""
        argument = MsrList(nmsrs=1, entry=MsrEntry(index=MSR_KVM_STEAL_TIME))
        call(self.fd.fd, X86Ioctl.GET_MSRS, argument, self.fd.name)
        return int(argument.entry.data)


class X86Vm:
    """A VM and its memory."""

    def __init__(self, vm: VmFd, ram: GuestMemory, structures: GuestMemory) -> None:
        self.vm = vm
        self.ram = ram
        self.structures = structures
        self.vcpus: list[X86Vcpu] = []
        vm.set_memory(ram.region, ram.address)
        self._slot: int | None = vm.set_memory(structures.region, structures.address)
        ram.write(CODE, x86_image())
        ram.write(4 * FAULT_VECTOR, Entry.FAULT.to_bytes(4, "little"))

    def write_msr(self, vcpu: X86Vcpu, value: int) -> bool:
        """Have the guest write MSR_KVM_STEAL_TIME by WRMSR; return whether that caused no fault."""
        self.store(Word.FAULTED, 0)
        vcpu.start_at(Entry.WRITE_MSR, rcx=MSR_KVM_STEAL_TIME, rdx=value >> 32, rax=value & 0xFFFF_FFFF)
        vcpu.enter()
        return self.load(Word.FAULTED) == 0

    def structure(self, address: int) -> KvmStealTime:
        """Return a copy of the structure at an address."""
        return KvmStealTime.from_buffer_copy(self.structures.read(address, STRUCTURE_SIZE))

    def load(self, word: Word) -> int:
        """Return a word of 32 bits."""
        return int.from_bytes(self.ram.read(word, 4), "little")

    def store(self, word: Word, value: int) -> None:
        """Set a word of 32 bits."""
        self.ram.write(word, value.to_bytes(4, "little"))

    def take_structures(self) -> None:
        """Take the structures' memory away from the guest; the host keeps it."""
        assert self._slot is not None
        self.vm.delete_memory(self._slot)
        self._slot = None

    def give_structures(self, flags: MemoryFlag = WRITABLE) -> None:
        """Give the same memory to the guest again."""
        self._slot = self.vm.set_memory(self.structures.region, self.structures.address, flags)

    @contextlib.contextmanager
    def spinning(self, cpu: int, *vcpus: X86Vcpu) -> Iterator[list[int]]:
        """Have vCPUs compute meanwhile, each on a thread of its own, on one CPU of the host.

        Yields the threads' identifiers.

        :raises EngineError: a vCPU's program ended otherwise than by :attr:`Word.STOP`.
        """
        errors: list[EngineError] = []

        def run(vcpu: X86Vcpu) -> None:
            os.sched_setaffinity(0, {cpu})
            try:
                vcpu.enter()
            except EngineError as error:
                errors.append(error)

        self.store(Word.STOP, 0)
        threads = [threading.Thread(target=run, args=(vcpu,)) for vcpu in vcpus]
        try:
            for vcpu, thread in zip(vcpus, threads, strict=True):
                vcpu.start_at(Entry.SPIN)
                thread.start()
            yield [thread.native_id or 0 for thread in threads]
        finally:
            self.store(Word.STOP, 1)
            for thread in threads:
                if thread.ident is not None:
                    thread.join()
        if errors:
            raise errors[0]


@contextlib.contextmanager
def x86_vm(vcpus: int = 1, device: str = DEVICE) -> Iterator[X86Vm]:
    """Make a VM whose vCPUs have no stolen time yet.

    :raises UsageError: this host has no x86 KVM, this user may not use it, or it has no stolen time.
    """
    with contextlib.ExitStack() as stack:
        try:
            kvm = stack.enter_context(Kvm(device, X86))
            kvm.refuse_without_stolen_time()
            memories = [GuestMemory(region.base, region.size, region.name) for region in (RAM, STRUCTURES)]
            for memory in memories:
                stack.callback(memory.close)
            fd = kvm.create_vm()
            stack.callback(fd.close)
            call(fd.fd, X86Ioctl.SET_TSS_ADDR, TSS, f"{TSS:#x}")
            vm = X86Vm(fd, *memories)
            for index in range(vcpus):
                vcpu = fd.create_vcpu(index)
                stack.callback(vcpu.close)
                vm.vcpus.append(X86Vcpu(vcpu))
        except EngineError as error:
            raise UsageError(str(error)) from error
        yield vm
