# SPDX-License-Identifier: GPL-2.0-or-later
"""The descriptor of a vCPU: registers, attributes, struct kvm_run, and entry to the guest."""

from __future__ import annotations

import ctypes
import errno
import mmap
import threading
from typing import Final

from pvtime.abi.arm64 import Pstate
from pvtime.abi.kvm import KvmIoctl
from pvtime.abi.kvm_device import PvTimeAttr, VcpuGroup
from pvtime.abi.kvm_reg import PC, PSTATE, SCTLR_EL1, RegId, describe
from pvtime.abi.kvm_run import ExitReason, KvmRun
from pvtime.abi.kvm_types import (
    DebugControl,
    GuestDebug,
    MpState,
    MpStates,
    OneReg,
    RegList,
    VcpuEvents,
    VcpuFeature,
    VcpuInit,
)
from pvtime.engine.kvm.ioctl import DeviceAttributes, KvmError, call, close
from pvtime.errors import EngineError

__all__ = ["VcpuFd"]

AT_EL1_MASKED: Final = Pstate.of(daif=0xF, level=1, own_stack=1)
MMU_OFF: Final = 0
"""SCTLR_EL1."""


class VcpuFd(DeviceAttributes):
    """A vCPU's descriptor and mapping.

    It belongs to one thread, the first that :meth:`claim` s it, for its whole life: KVM takes stolen time
    from the run_delay of the thread that enters the guest, so that another thread's history would become
    stolen time (and time that was stolen would be lost).

    :param coalesced_page: see :class:`~pvtime.engine.kvm.vm_fd.VmFd`.
    """

    def __init__(self, fd: int, index: int, map_size: int, coalesced_page: int = 0) -> None:
        super().__init__(fd, f"vCPU {index}")
        self.index = index
        self.map = mmap.mmap(fd, map_size)
        self.kvm_run = KvmRun.from_buffer(self.map)
        self.coalesced_offset = coalesced_page * mmap.PAGESIZE
        """Offset of the ring of coalesced writes in :attr:`map`."""
        self._owner: int | None = None
        """The number of the thread that has claimed the vCPU."""

    def init(self, target: VcpuInit, *features: VcpuFeature) -> None:
        """Reset the vCPU to a CPU with these features: before it first runs, or again with the same ones.

        :raises KvmError: KVM refuses; EINVAL: other features than the first time.
        """
        for feature in features:
            target.features[feature // 32] |= 1 << feature % 32
        call(self.fd, KvmIoctl.ARM_VCPU_INIT, target, self.name)

    def get_reg(self, register: int) -> int:
        """Return a 64-bit register.

        :raises KvmError: ENOENT: there is no such register.
        """
        return int.from_bytes(self.get_bytes(register), "little")

    def set_reg(self, register: int, value: int) -> None:
        """Set a 64-bit register.

        :raises KvmError: ENOENT: there is no such register; EINVAL: not such a value.
        """
        self.set_bytes(register, value.to_bytes(8, "little"))

    def register_ids(self) -> list[int]:
        """Return the identifiers of all registers."""
        head = RegList()
        try:
            call(self.fd, KvmIoctl.GET_REG_LIST, head, self.name)
        except KvmError as error:
            if error.errno != errno.E2BIG:
                raise
        words = (ctypes.c_uint64 * (1 + head.n))(head.n)
        call(self.fd, KvmIoctl.GET_REG_LIST, words, self.name)
        return list(words)[1:]

    def get_bytes(self, register: int) -> bytes:
        """Return a register of any size.

        :raises KvmError: ENOENT: there is no such register.
        """
        buffer = ctypes.create_string_buffer(RegId(register).bytes)
        argument = OneReg(id=register, addr=ctypes.addressof(buffer))
        call(self.fd, KvmIoctl.GET_ONE_REG, argument, f"{self.name}, {describe(register)}")
        return buffer.raw

    def set_bytes(self, register: int, value: bytes) -> None:
        """Set a register of any size.

        :raises KvmError: ENOENT: there is no such register; EINVAL: not such a value.
        """
        buffer = ctypes.create_string_buffer(value, RegId(register).bytes)
        argument = OneReg(id=register, addr=ctypes.addressof(buffer))
        call(self.fd, KvmIoctl.SET_ONE_REG, argument, f"{self.name}, {describe(register)}")

    @property
    def events(self) -> VcpuEvents:
        """Exceptions that are pending for the guest.

        :raises KvmError: EINVAL: on setting, the CPU has no syndrome for them.
        """
        events = VcpuEvents()
        call(self.fd, KvmIoctl.GET_VCPU_EVENTS, events, self.name)
        return events

    @events.setter
    def events(self, events: VcpuEvents) -> None:
        call(self.fd, KvmIoctl.SET_VCPU_EVENTS, events, self.name)

    @property
    def stopped(self) -> bool:
        """Whether the guest has switched it off (PSCI)."""
        state = MpStates()
        call(self.fd, KvmIoctl.GET_MP_STATE, state, self.name)
        return bool(state.mp_state == MpState.STOPPED)

    @stopped.setter
    def stopped(self, stopped: bool) -> None:
        """Switch the vCPU off, or on at its PC."""
        state = MpState.STOPPED if stopped else MpState.RUNNABLE
        call(self.fd, KvmIoctl.SET_MP_STATE, MpStates(mp_state=state), self.name)

    @property
    def has_stolen_time(self) -> bool:
        """Whether KVM can account stolen time to the vCPU: it knows how, and the host has schedstat.

        Source: the kernel's Documentation/virt/kvm/devices/vcpu.rst, section 3.
        """
        return self.has(VcpuGroup.PVTIME_CTRL, PvTimeAttr.IPA)

    def stats_fd(self) -> int:
        """Return a new descriptor of the vCPU's statistics (Linux 5.14).

        :raises KvmError: KVM has none.
        """
        return call(self.fd, KvmIoctl.GET_STATS_FD, 0, self.name)

    def park(self, ipa: int) -> None:
        """Move its PC to ``ipa``, MMU off and interrupts masked, away from the guest's own code."""
        self.set_reg(SCTLR_EL1, MMU_OFF)
        self.set_reg(PSTATE, int(AT_EL1_MASKED))
        self.set_reg(PC, ipa)
        self.stopped = False

    def inject_external_abort(self) -> None:
        """Have the guest take an external abort for the access of this exit (KVM_EXIT_ARM_NISV)."""
        self.events = VcpuEvents(ext_dabt_pending=1)

    def single_step(self, on: bool) -> None:
        """Have KVM_RUN return after one instruction of the guest, with the exit DEBUG."""
        control = DebugControl.ENABLE | DebugControl.SINGLESTEP if on else DebugControl(0)
        call(self.fd, KvmIoctl.SET_GUEST_DEBUG, GuestDebug(control=control), self.name)

    def claim(self) -> None:
        """Make the calling thread the one that runs this vCPU.

        :raises EngineError: another thread is.
        """
        caller = threading.get_native_id()
        if self._owner is None:
            self._owner = caller
        if self._owner != caller:
            raise EngineError(
                f"{self.name} belongs to thread {self._owner} and thread {caller} wants to run it: "
                "its stolen time is the run_delay of one thread"
            )

    def enter(self) -> None:
        """Run the guest until an exit, which :attr:`kvm_run` describes.

        :raises EngineError: another thread owns the vCPU.
        :raises InterruptedError: a signal came, or ``immediate_exit`` is set.
        :raises KvmError: KVM cannot run it.
        """
        self.claim()
        try:
            call(self.fd, KvmIoctl.RUN, 0, self.name)
        except EngineError as error:
            if isinstance(error.__cause__, InterruptedError):
                raise error.__cause__ from None
            raise

    def describe_exit(self) -> str:
        """Return a sentence for an exit without a handler: its name, the vCPU, the guest's PC."""
        run = self.kvm_run
        try:
            name = ExitReason(run.exit_reason).name
        except ValueError:
            name = f"number {run.exit_reason}"
        detail = ""
        if run.exit_reason == ExitReason.INTERNAL_ERROR:
            words = ", ".join(f"{word:#x}" for word in run.internal.data[: min(run.internal.ndata, 16)])
            detail = f" (suberror {run.internal.suberror}: {words})"
        elif run.exit_reason == ExitReason.FAIL_ENTRY:
            detail = (
                f" (reason {run.fail_entry.hardware_entry_failure_reason:#x} on CPU {run.fail_entry.cpu})"
            )
        return f"{self.name} left the guest with KVM exit {name}{detail} at PC {self.get_reg(PC):#x}"

    def close(self) -> None:
        """Close mapping and descriptor; no thread may be in :meth:`enter`."""
        del self.kvm_run
        self.map.close()
        close(self.fd)
        self.fd = -1
