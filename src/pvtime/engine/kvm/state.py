# SPDX-License-Identifier: GPL-2.0-or-later
"""The saved state of a machine on KVM, beside its memory and its devices in user space.

Of a vCPU that is all that KVM tells and takes: registers, PSCI's power state, pending exceptions. Linux
before 6.4 tells nothing of the physical timer. A guest that waits for that one, which Linux under KVM does
not, waits for ever after a restore.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import struct
from typing import Annotated, Final, TypeAlias

from pvtime.abi.kvm_reg import COUNTERS, RegId, describe
from pvtime.abi.kvm_types import VcpuEvents
from pvtime.engine.kvm.ioctl import KvmError
from pvtime.engine.kvm.vcpu_fd import VcpuFd
from pvtime.engine.kvm.vgic import VgicState
from pvtime.errors import SavedStateError
from pvtime.machine.layout import MAX_VCPUS
from pvtime.records import dataclass
from pvtime.schema import U32, bits, length, matching
from pvtime.steal.kvm_truth import Figure, StolenState
from pvtime.steal.placement import MAX_PLACEMENT_STATE

__all__ = [
    "KvmCpuState",
    "KvmState",
    "KvmVcpuState",
    "cntfrq",
    "read_counters",
    "read_cpu",
    "write_counters",
    "write_cpu",
]

_MRS_CNTFRQ_RET: Final = struct.pack("<2I", 0xD53B_E000, 0xD65F_03C0)
"""``mrs x0, cntfrq_el0; ret``, which a process may execute."""

Registers: TypeAlias = dict[
    Annotated[str, matching("0x[0-9a-f]{1,16}", "a register's identifier")], Annotated[bytes, length(1, 256)]
]
"""Values by KVM's register identifiers, in hexadecimal."""


@dataclass(frozen=True)
class KvmCpuState:
    """The CPU of one vCPU, without the counters, which are the VM's."""

    registers: Registers
    stopped: bool
    """The guest has switched it off (PSCI)."""
    serror: bool
    """An SError is pending until the guest unmasks it."""
    serror_syndrome: Annotated[int, bits((1 << 25) - 1)] | None
    """ISS of the SError, where the CPU has RAS and the VMM set one."""


@dataclass(frozen=True)
class KvmVcpuState:
    """A vCPU's CPU, stolen time and figures."""

    cpu: KvmCpuState
    stolen: StolenState
    ran_ns: Figure
    stolen_ns: Figure
    idle_ns: Figure
    stopped_ns: Figure
    host_ns: Figure
    loads: Figure


@dataclass(frozen=True)
class KvmState:
    """All vCPUs, the counters and the interrupt controller."""

    counter_frequency: U32
    """CNTFRQ_EL0, in Hz, which the guest has read."""
    counters: Registers
    """The guest's clocks, which stand still while the machine is saved."""
    vgic: VgicState
    vcpus: Annotated[list[KvmVcpuState], length(1, MAX_VCPUS)]
    placement: Annotated[bytes, length(0, MAX_PLACEMENT_STATE)] | None
    """The state of the machine's placement (:meth:`Placement.state`)."""

    def check(self, vcpus: int, frequency: int, *, has_placement: bool) -> None:
        """Check that a machine of ``vcpus`` vCPUs can be in this state.

        :param frequency: this host's CNTFRQ_EL0, in Hz.
        :param has_placement: the machine's placement has a state of its own.
        :raises SavedStateError: it cannot.
        """
        if len(self.vcpus) != vcpus:
            raise SavedStateError(f"vcpus: {len(self.vcpus)} vCPUs are saved, this machine has {vcpus}")
        if (self.placement is not None) != has_placement:
            raise SavedStateError("placement: the saved machine has another placement of its stolen time")
        if self.counter_frequency != frequency:
            raise SavedStateError(
                f"counter_frequency: the guest relies on a counter (CNTFRQ_EL0) of "
                f"{self.counter_frequency} Hz, but this host's has {frequency} Hz"
            )


def cntfrq() -> int:
    """Return this host's CNTFRQ_EL0, in Hz, which neither a file nor a register of KVM tells.

    A guest reads it once, at its start.
    """
    file = os.memfd_create("pvtime-cntfrq", os.MFD_CLOEXEC)
    try:
        os.write(file, _MRS_CNTFRQ_RET)
        # Private, so that it can be writable, as ctypes wants it for addressof().
        prot = mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC
        with mmap.mmap(file, len(_MRS_CNTFRQ_RET), flags=mmap.MAP_PRIVATE, prot=prot) as mapping:
            first = ctypes.c_char.from_buffer(mapping)
            frequency = ctypes.CFUNCTYPE(ctypes.c_uint64)(ctypes.addressof(first))()
            del first
        return int(frequency)
    finally:
        os.close(file)


def read_cpu(vcpu: VcpuFd) -> KvmCpuState:
    """Return the state of a vCPU that has left the guest, with no access for KVM to complete."""
    ids = [register for register in vcpu.register_ids() if register not in COUNTERS]
    events = vcpu.events
    return KvmCpuState(
        registers={hex(register): vcpu.get_bytes(register) for register in ids},
        stopped=vcpu.stopped,
        serror=bool(events.serror_pending),
        serror_syndrome=events.serror_esr if events.serror_has_esr else None,
    )


def write_cpu(vcpu: VcpuFd, state: KvmCpuState) -> None:
    """Restore a vCPU that has not run.

    :raises SavedStateError: this host's CPU or KVM is another one; the message names the register.
    """
    for register, value in _parse(state.registers):
        _write(vcpu, register, value)
    events = VcpuEvents(serror_pending=state.serror)
    if state.serror_syndrome is not None:
        events.serror_has_esr, events.serror_esr = 1, state.serror_syndrome
    try:
        vcpu.events = events
    except KvmError as error:
        raise SavedStateError(f"the saved SError of {vcpu.name} cannot be restored: {error}") from error
    vcpu.stopped = state.stopped


def read_counters(vcpu: VcpuFd) -> Registers:
    """Return the VM's counters as they are now."""
    return {
        hex(register): vcpu.get_bytes(register) for register in vcpu.register_ids() if register in COUNTERS
    }


def write_counters(vcpu: VcpuFd, counters: Registers) -> None:
    """Set the VM's counters, which continue from here.

    :raises SavedStateError: this host's KVM has no such counter.
    """
    for register, value in _parse(counters):
        if register not in COUNTERS:
            raise SavedStateError(f"{describe(register)} is saved as a counter, but it is not one")
        _write(vcpu, register, value)


def _parse(registers: Registers) -> list[tuple[int, bytes]]:
    parsed = []
    for key, value in registers.items():
        register = int(key, 16)
        if len(value) != RegId(register).bytes:
            raise SavedStateError(
                f"registers[{key!r}]: the saved {describe(register)} has an impossible size: "
                f"{len(value)} bytes"
            )
        parsed.append((register, value))
    return parsed


def _write(vcpu: VcpuFd, register: int, value: bytes) -> None:
    try:
        vcpu.set_bytes(register, value)
    except KvmError as error:
        raise SavedStateError(_difference(vcpu, register, value, error)) from error


def _difference(vcpu: VcpuFd, register: int, value: bytes, error: KvmError) -> str:
    name = describe(register)
    try:
        own = vcpu.get_bytes(register)
    except KvmError:
        return f"{vcpu.name} was saved with {name}, which this host's KVM does not have"
    if error.errno == errno.EINVAL and own != value:
        saved, here = int.from_bytes(value, "little"), int.from_bytes(own, "little")
        return f"{vcpu.name} was saved on another CPU or KVM: {name} is {saved:#x} there and {here:#x} here"
    return f"the saved {name} of {vcpu.name} cannot be restored: {error}"
