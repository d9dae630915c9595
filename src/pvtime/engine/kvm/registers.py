# SPDX-License-Identifier: GPL-2.0-or-later
"""All of a vCPU that KVM tells and takes: registers, PSCI's power state, pending exceptions.

Linux before 6.4 tells nothing of the physical timer. A guest that waits for that one, which Linux under KVM
does not, waits for ever after a restore.
"""

from __future__ import annotations

import errno
from dataclasses import dataclass

from pvtime.abi.kvm_reg import COUNTERS, RegId, describe
from pvtime.abi.kvm_types import VcpuEvents
from pvtime.engine.kvm.ioctl import KvmError
from pvtime.engine.kvm.vcpu import Vcpu
from pvtime.errors import SavedStateError

__all__ = ["CpuState", "read_counters", "read_cpu", "write_counters", "write_cpu"]

Registers = dict[str, bytes]
"""By KVM's identifiers, in hexadecimal."""


@dataclass(frozen=True)
class CpuState:
    """One vCPU, but for the counters, which belong to all."""

    registers: Registers
    stopped: bool
    """The guest has it switched off."""
    serror: bool
    """An SError waits for the guest to unmask it."""
    serror_syndrome: int | None
    """Its ISS, where the CPU has RAS and the VMM gave one."""


def read_cpu(vcpu: Vcpu) -> CpuState:
    """Return a vCPU's state; it has left the guest, with nothing for KVM to complete."""
    ids = [register for register in vcpu.register_ids() if register not in COUNTERS]
    events = vcpu.events
    return CpuState(
        registers={hex(register): vcpu.get_bytes(register) for register in ids},
        stopped=vcpu.stopped,
        serror=bool(events.serror_pending),
        serror_syndrome=events.serror_esr if events.serror_has_esr else None,
    )


def write_cpu(vcpu: Vcpu, state: CpuState) -> None:
    """Give a vCPU that has not run a saved state.

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
        raise SavedStateError(f"{vcpu.name} cannot have its saved SError: {error}") from error
    vcpu.stopped = state.stopped


def read_counters(vcpu: Vcpu) -> Registers:
    """Return the counters as they are now."""
    return {
        hex(register): vcpu.get_bytes(register) for register in vcpu.register_ids() if register in COUNTERS
    }


def write_counters(vcpu: Vcpu, counters: Registers) -> None:
    """Have the VM's counters go on from here.

    :raises SavedStateError: this host's KVM has no such counter.
    """
    for register, value in _parse(counters):
        if register not in COUNTERS:
            raise SavedStateError(f"{describe(register)} is saved as a counter, and is none")
        _write(vcpu, register, value)


def _parse(registers: Registers) -> list[tuple[int, bytes]]:
    parsed = []
    for key, value in registers.items():
        try:
            register = int(key, 16)
        except ValueError:
            raise SavedStateError(f"a saved register is called {key[:40]!r}") from None
        if not 0 <= register < 2**64 or len(value) != RegId(register).bytes:
            raise SavedStateError(f"{describe(register)} cannot be saved in {len(value)} bytes")
        parsed.append((register, value))
    return parsed


def _write(vcpu: Vcpu, register: int, value: bytes) -> None:
    try:
        vcpu.set_bytes(register, value)
    except KvmError as error:
        raise SavedStateError(_difference(vcpu, register, value, error)) from error


def _difference(vcpu: Vcpu, register: int, value: bytes, error: KvmError) -> str:
    name = describe(register)
    try:
        own = vcpu.get_bytes(register)
    except KvmError:
        return f"{vcpu.name} was saved with {name}, which this host's KVM does not have"
    if error.errno == errno.EINVAL and own != value:
        there, here = (int.from_bytes(one, "little") for one in (value, own))
        return f"{vcpu.name} was saved on another CPU or KVM: {name} is {there:#x} there and {here:#x} here"
    return f"{vcpu.name} cannot have its saved {name}: {error}"
