# SPDX-License-Identifier: GPL-2.0-or-later
"""One vCPU's figures, taken by its own thread while the guest is not running."""

from __future__ import annotations

import resource
import threading
from contextlib import suppress
from typing import Final

from pvtime.engine.base import VcpuSample
from pvtime.engine.kvm.exits import ExitHandler, KvmRunView
from pvtime.engine.kvm.thread_times import ThreadTimes
from pvtime.engine.kvm.vcpu_fd import VcpuFd
from pvtime.steal.kvm_truth import KvmTruth, StolenState
from pvtime.steal.run_delay import Schedstat

__all__ = ["PARKING", "Sampler", "last_sample"]

PARKING: Final = 16 * 0x1400_0000.to_bytes(4, "little")
"""``b .``, more than once: the completion of an access moves the program counter on."""

MAX_STEPS: Final = 64
"""Steps after which a figure is taken whose run_delay grew in each of them. On a host with a queue at every
CPU one in ten figures needs a second step."""

MAX_KICKED_STEPS: Final = 4
"""Kicks, 50 ms apart, after which the step of a guest is given up that completes no instruction, because each
fetch aborts."""


def last_sample(index: int, truth: KvmTruth, times: ThreadTimes, loads: int = 0) -> VcpuSample:
    """Return a vCPU's figures as of its last measurement."""
    truth_ns, structure_ns = truth.figures
    return VcpuSample(
        index,
        times.ran_ns,
        truth_ns,
        structure_ns,
        enabled=truth.enabled,
        loads=loads,
        injected_ns=truth.injected_ns,
        stolen_ns=times.stolen_ns,
        starts=truth.starts,
        idle_ns=times.idle_ns,
        stopped_ns=times.stopped_ns,
        host_ns=times.host_ns,
        fault=truth.fault,
    )


class Sampler:
    """Measures a vCPU, on the thread that has called :meth:`open`.

    :param parking: IPA of :data:`PARKING` instructions.
    :param pauses_steal: time for which nothing executed is stolen time.
    """

    def __init__(
        self,
        vcpu: VcpuFd,
        view: KvmRunView,
        exits: ExitHandler,
        truth: KvmTruth,
        times: ThreadTimes,
        parking: int,
        *,
        pauses_steal: bool = False,
    ) -> None:
        self._vcpu = vcpu
        self._view = view
        self._exits = exits
        self._truth = truth
        self._times = times
        self._parking = parking
        self._pauses_steal = pauses_steal
        self._schedstat: Schedstat | None = None

    def open(self) -> None:
        """Make the calling thread the vCPU's own, by whose run_delay KVM counts.

        :raises EngineError: the host keeps no scheduler statistics.
        """
        self._schedstat = Schedstat(threading.get_native_id())
        self._times.attach()
        self._vcpu.claim()

    def close(self) -> None:
        """Close the thread's statistics."""
        self._times.close()
        if self._schedstat is not None:
            self._schedstat.close()

    def measure(self, *, final: bool) -> VcpuSample:
        """Return the figures, with the structure up to date.

        The run_delay of a vCPU that is off grows when a kick wakes its thread. That wait is not stolen from
        the guest, but looks the same. So the vCPU keeps the figures of the last measurement until the end of
        the guest (``final``). Then every vCPU is stepped, but away from the guest's code: the instructions
        behind its SYSTEM_OFF must not run.

        :raises EngineError: KVM cannot run the vCPU.
        """
        truth, off = self._truth, self._vcpu.stopped
        if not off or (final and truth.in_use):
            if truth.ipa is None or truth.fault is not None:  # a step would bring nothing up to date
                truth.measure(self._run_delay())
            else:
                if final:
                    self._vcpu.park(self._parking)
                truth.measure(self._step())
        return self.account(off=off)

    def account(self, *, off: bool) -> VcpuSample:
        """Return the figures, with the thread's time until now accounted for.

        :param off: the vCPU is switched off.
        """
        if stopped := self._times.account(off=off, injected_ns=self._truth.all_injected_ns):
            self._stop(stopped, off=off)
        usage = resource.getrusage(resource.RUSAGE_THREAD)
        return last_sample(self._vcpu.index, self._truth, self._times, usage.ru_nvcsw + usage.ru_nivcsw)

    def resume(self) -> None:
        """Account for a pause since the last measurement."""
        self._stop(self._times.resume(), off=self._vcpu.stopped)

    def _stop(self, ns: int, *, off: bool) -> None:
        """Account for a time in which nothing executed."""
        stolen = self._pauses_steal and not off
        if stolen:
            self._truth.inject(ns)
        self._times.stop(ns, stolen=stolen)

    def complete_access(self) -> None:
        """Have KVM complete the access of the last exit, which it does at the next entry only."""
        self._view.set_immediate_exit(True)
        with suppress(InterruptedError):
            self._vcpu.enter()
        self._view.set_immediate_exit(False)

    def stolen(self) -> StolenState:
        """Return the part of a saved machine about the vCPU's stolen time."""
        return self._truth.state(self._run_delay())

    def _run_delay(self) -> int:
        """Return the thread's run_delay, in ns."""
        assert self._schedstat is not None, "open() has not been called"
        return self._schedstat.run_delay()

    def _step(self) -> int:
        """Return the thread's run_delay, in ns, at a moment at which KVM has just put it into the structure.

        KVM does so between a load and the guest's next instruction. So one instruction is run, and where the
        thread did not wait for a CPU meanwhile, the structure is of this very run_delay. Else the step is
        repeated.
        """
        self._vcpu.single_step(True)
        try:
            kicks = 0
            for _ in range(MAX_STEPS):
                before = self._run_delay()
                try:
                    self._vcpu.enter()
                except InterruptedError:
                    # A kick: this instruction was a WFI, and slept. The call that it is for runs after this.
                    self._view.set_immediate_exit(False)
                    # If the thread waited for a CPU, the kick came before the guest had a chance.
                    kicks += self._run_delay() == before
                    if kicks == MAX_KICKED_STEPS:
                        break
                    continue
                after = self._run_delay()
                self._exits.handle()
                if after == before or self._vcpu.stopped:
                    return after
        finally:
            self._vcpu.single_step(False)
        return self._run_delay()
