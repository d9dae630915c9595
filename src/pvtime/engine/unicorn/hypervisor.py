# SPDX-License-Identifier: GPL-2.0-or-later
"""What the guest's hypervisor calls and timer accesses do to the engine's vCPUs."""

from __future__ import annotations

import time
from collections.abc import Sequence

from pvtime.abi.arm64 import CNTP_CTL_EL0, CNTP_CVAL_EL0, CNTP_TVAL_EL0, CNTPCT_EL0, SysReg
from pvtime.abi.layout import U32_MAX
from pvtime.abi.pvtime import PvTime
from pvtime.abi.registration import RegisterCall
from pvtime.engine.base import Outcome
from pvtime.engine.unicorn.parts import Parts
from pvtime.engine.unicorn.shared_cpu import SharedCpu
from pvtime.engine.unicorn.turns import Turns
from pvtime.engine.unicorn.vcpu import State
from pvtime.engine.unicorn.wakeups import Wakeups
from pvtime.machine.psci import PsciCalls
from pvtime.machine.smccc import hypercall

__all__ = ["Hypervisor"]

_STARTING = frozenset({PvTime.ST, RegisterCall.SET})


class Hypervisor:
    """Answers the guest on behalf of an engine: the CPU's supervisor, and PSCI's power control."""

    def __init__(self, parts: Parts, cpu: SharedCpu, wakeups: Wakeups, turns: Turns) -> None:
        self._vcpus = parts.vcpus
        self._counter = parts.counter
        self._cpu = cpu
        self._wakeups = wakeups
        self._turns = turns
        self._psci = PsciCalls(parts.machine.mpidrs, self)

    # For the CPU.

    def hypercall(self, registers: Sequence[int]) -> int:
        """See :meth:`Supervisor.hypercall`."""
        vcpu = self._cpu.loaded
        # What was stolen before a call that starts a count anew is not in that count.
        now = self._cpu.catch_up() if registers[0] & U32_MAX in _STARTING else time.monotonic_ns()
        run_delay = vcpu.clock.read(now)
        if vcpu.on_hypercall is None:
            return hypercall(vcpu.index, vcpu.account, run_delay, self._psci, registers)
        before = vcpu.sample(now)
        answer = hypercall(vcpu.index, vcpu.account, run_delay, self._psci, registers)
        vcpu.on_hypercall(registers[0] & U32_MAX, before, vcpu.sample(now))
        return answer

    def read_register(self, register: SysReg) -> int | None:
        """See :meth:`Supervisor.read_register`."""
        timer, counter = self._cpu.loaded.timer, self._counter
        if register == CNTPCT_EL0:
            return counter.read()
        if register == CNTP_CTL_EL0:
            return timer.read_control()
        if register == CNTP_CVAL_EL0:
            return counter.to_guest(timer.read_compare())
        if register == CNTP_TVAL_EL0:
            return timer.read_value()
        return None

    def write_register(self, register: SysReg, value: int) -> bool:
        """See :meth:`Supervisor.write_register`."""
        timer = self._cpu.loaded.timer
        if register == CNTP_CTL_EL0:
            timer.write_control(value)
        elif register == CNTP_CVAL_EL0:
            timer.write_compare(self._counter.to_host(value))
        elif register == CNTP_TVAL_EL0:
            timer.write_value(value)
        else:
            return False
        self._cpu.timer_changed()
        return True

    # For PSCI.

    def is_on(self, index: int) -> bool:
        """See :meth:`Power.is_on`."""
        return self._vcpus[index].state is not State.OFF

    def power_on(self, index: int, entry: int, context: int) -> None:
        """See :meth:`Power.power_on`."""
        self._wakeups.power_on(self._vcpus[index], entry, context)

    def power_off(self, index: int) -> None:
        """See :meth:`Power.power_off`."""
        self._cpu.block(self._vcpus[index], State.OFF)

    def suspend(self, index: int) -> None:
        """See :meth:`Power.suspend`."""
        vcpu = self._vcpus[index]
        if not vcpu.irq:
            self._cpu.block(vcpu, State.IDLE)

    def system_off(self) -> None:
        """See :meth:`Power.system_off`."""
        self._turns.end(Outcome.POWER_OFF)

    def system_reset(self) -> None:
        """See :meth:`Power.system_reset`."""
        self._turns.restart()
