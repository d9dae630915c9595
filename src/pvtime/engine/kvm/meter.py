# SPDX-License-Identifier: GPL-2.0-or-later
"""One vCPU's figures, taken by its own thread while the guest is not running."""

from __future__ import annotations

import resource
import time
from contextlib import suppress
from typing import Final

from pvtime.engine.base import VcpuSample
from pvtime.engine.kvm.exits import Exits
from pvtime.engine.kvm.page import RunPage
from pvtime.engine.kvm.vcpu import Vcpu
from pvtime.steal.kvm_truth import KvmTruth, StolenState
from pvtime.steal.run_delay import Schedstat

__all__ = ["PARKING", "Meter", "figures"]

PARKING: Final = 16 * 0x1400_0000.to_bytes(4, "little")
"""``b .``, more than once: an access that is still to be completed moves the program counter on."""

ATTEMPTS: Final = 64
"""Steps until an unsettled figure is taken after all. On a host with a queue at every CPU one in ten needs a
second one."""

KICKED_ATTEMPTS: Final = 4
"""Kicks, 50 ms apart, until a guest that completes no instruction, because each fetch aborts, is given up."""


def figures(index: int, truth: KvmTruth, *, ran_ns: int = 0, loads: int = 0) -> VcpuSample:
    """Return a vCPU's figures as of its last measurement."""
    truth_ns, structure_ns = truth.figures
    return VcpuSample(
        index,
        ran_ns,
        truth_ns,
        structure_ns,
        enabled=truth.enabled,
        loads=loads,
        injected_ns=truth.injected_ns,
        fault=truth.fault,
    )


class Meter:
    """Measures a vCPU. Made on the vCPU's thread, by which KVM counts.

    :param parking: IPA of :data:`PARKING` instructions.
    """

    def __init__(
        self, vcpu: Vcpu, page: RunPage, exits: Exits, truth: KvmTruth, clock: Schedstat, parking: int
    ) -> None:
        self._vcpu = vcpu
        self._page = page
        self._exits = exits
        self._truth = truth
        self._clock = clock
        self._parking = parking

    def measure(self, *, final: bool) -> VcpuSample:
        """Return the figures, with the structure up to date.

        What a vCPU that is switched off waits for when it is woken by a kick is not stolen from its guest,
        but looks the same in run_delay. So it keeps the figures of the last measurement until the guest has
        come to its end (``final``). Then every vCPU is stepped, but away from the guest's code: what a
        guest has behind its SYSTEM_OFF must not run.

        :raises EngineError: KVM does not go on.
        """
        truth = self._truth
        if not self._vcpu.stopped or (final and truth.in_use):
            if truth.ipa is None or truth.fault is not None:  # a step would bring nothing up to date
                truth.measure(self._clock.run_delay())
            else:
                if final:
                    self._vcpu.park(self._parking)
                truth.measure(self._settled_run_delay())
        usage = resource.getrusage(resource.RUSAGE_THREAD)
        return figures(
            self._vcpu.index, truth, ran_ns=time.thread_time_ns(), loads=usage.ru_nvcsw + usage.ru_nivcsw
        )

    def settle(self) -> None:
        """Have KVM complete the access that the guest left for, which it does at the next entry only."""
        self._page.set_immediate_exit(True)
        with suppress(InterruptedError):
            self._vcpu.enter()
        self._page.set_immediate_exit(False)

    def stolen(self) -> StolenState:
        """Return what is saved of the vCPU's stolen time."""
        return self._truth.state(self._clock.run_delay())

    def _settled_run_delay(self) -> int:
        """Return the thread's run_delay, in ns, at a moment at which KVM has just put it into the structure.

        KVM does so between a load and the guest's next instruction. So one instruction is run, and where
        the thread did not wait for a CPU meanwhile, the structure is of this very run_delay. Else it is
        tried again.
        """
        self._vcpu.single_step(True)
        try:
            kicks = 0
            for _ in range(ATTEMPTS):
                before = self._clock.run_delay()
                try:
                    self._vcpu.enter()
                except InterruptedError:
                    # A kick: this instruction was a WFI, and slept. Who posted mail finds it read soon.
                    self._page.set_immediate_exit(False)
                    kicks += 1
                    if kicks == KICKED_ATTEMPTS:
                        break
                    continue
                after = self._clock.run_delay()
                self._exits.serve()
                if after == before or self._vcpu.stopped:
                    return after
        finally:
            self._vcpu.single_step(False)
        return self._clock.run_delay()
