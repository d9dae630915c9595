# SPDX-License-Identifier: GPL-2.0-or-later
"""The guest's hypervisor calls, and its accesses to registers that trap: of the timer and of a GICv3."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, TypeAlias

from pvtime.abi.arm64 import (
    CNTP_CTL_EL0,
    CNTP_CVAL_EL0,
    CNTP_TVAL_EL0,
    CNTPCT_EL0,
    CNTV_TVAL_EL0,
    CNTVCT_EL0,
    SysReg,
)
from pvtime.abi.layout import U32_MAX
from pvtime.abi.pvtime import PvTime
from pvtime.abi.registration import RegisterCall
from pvtime.engine.base import VcpuSample
from pvtime.engine.unicorn.counter import GuestCounter
from pvtime.engine.unicorn.vcpu import UnicornVcpu
from pvtime.machine.gicv3 import GicV3
from pvtime.machine.psci import Power, PsciCalls
from pvtime.machine.smccc import hypercall
from pvtime.steal.live_physical_time import LivePhysicalTime

__all__ = ["GuestTraps", "HypercallObserver", "TrapContext"]

HypercallObserver: TypeAlias = Callable[[int, int, VcpuSample, VcpuSample], object]
"""Called, on the engine's thread, with a vCPU's index, the function that it called, and its figures before
and after."""

_COUNT_STARTS = frozenset({PvTime.ST, RegisterCall.SET})


class TrapContext(Power, Protocol):
    """The engine, as a trap finds it."""

    @property
    def loaded(self) -> UnicornVcpu:
        """The vCPU that has trapped."""

    @property
    def counter(self) -> GuestCounter:
        """The guest's counter."""

    @property
    def gicv3(self) -> GicV3 | None:
        """The machine's GICv3, which has system registers; None: it has a GICv2."""

    def now(self) -> int:
        """Return the time, in ns."""

    def update_curr(self) -> int:
        """Charge the vCPU with its time, and the host's steal, until now; return the time, in ns."""

    def timer_changed(self) -> None:
        """Note that the vCPU has set its timer."""


class GuestTraps:
    """Answers the guest, for the core."""

    def __init__(
        self, context: TrapContext, mpidrs: Sequence[int], lpt: LivePhysicalTime | None = None
    ) -> None:
        self._context = context
        self._lpt = lpt
        self._psci = PsciCalls(mpidrs, context)
        self.observer: HypercallObserver | None = None

    def hypercall(self, registers: Sequence[int]) -> int:
        """Answer an HVC; see :meth:`TrapHandler.hypercall`."""
        vcpu, function = self._context.loaded, registers[0] & U32_MAX
        # The host's steal before a call that starts a count again is not in that count.
        now = self._context.update_curr() if function in _COUNT_STARTS else self._context.now()
        run_delay = vcpu.run_delay.read(now)
        if self.observer is None:
            return hypercall(vcpu.index, vcpu.account, run_delay, self._psci, registers, self._lpt)
        before = vcpu.sample(now)
        answer = hypercall(vcpu.index, vcpu.account, run_delay, self._psci, registers, self._lpt)
        self.observer(vcpu.index, function, before, vcpu.sample(now))
        return answer

    def read_register(self, register: SysReg) -> int | None:
        """Carry out a trapped MRS; see :meth:`TrapHandler.read_register`."""
        timer, counter = self._context.loaded.timer, self._context.counter
        if register in (CNTPCT_EL0, CNTVCT_EL0):
            return counter.read()
        if register == CNTP_CTL_EL0:
            return timer.read_control()
        if register == CNTP_CVAL_EL0:
            return counter.to_guest(timer.read_compare())
        if register == CNTP_TVAL_EL0:
            return timer.read_value()
        if register == CNTV_TVAL_EL0:
            return -counter.read() & U32_MAX  # the library keeps its compare value at 0
        gic = self._context.gicv3
        return None if gic is None else gic.read_register(register)

    def write_register(self, register: SysReg, value: int) -> bool:
        """Carry out a trapped MSR; see :meth:`TrapHandler.write_register`."""
        timer = self._context.loaded.timer
        deadline = timer.deadline
        if register == CNTP_CTL_EL0:
            timer.write_control(value)
        elif register == CNTP_CVAL_EL0:
            timer.write_compare(self._context.counter.to_host(value))
        elif register == CNTP_TVAL_EL0:
            timer.write_value(value)
        else:
            gic = self._context.gicv3
            return gic is not None and gic.write_register(register, value)
        if timer.deadline != deadline:
            self._context.timer_changed()
        return True
