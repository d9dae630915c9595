# SPDX-License-Identifier: GPL-2.0-or-later
"""The EL1 physical timer of one vCPU (Arm ARM D11.2.4), over the host's CLOCK_MONOTONIC."""

from __future__ import annotations

import time

from pvtime.abi.layout import Field, Register
from pvtime.machine.device import IrqLine

__all__ = ["NS_PER_TICK", "PHYSICAL_TIMER_PPI", "TimerControl", "VcpuTimer"]

NS_PER_TICK = 16
"""CNTFRQ_EL0 is 62.5 MHz: what the emulated CPU's counter is fixed to."""

PHYSICAL_TIMER_PPI = 14
"""Non-secure EL1 physical timer, as a PPI number; interrupt 30."""

_NEVER_NS = 1 << 62
"""A host is not up for 146 years; and no host's clock takes all the 2^68 ns that a guest can ask for."""

_U32 = (1 << 32) - 1
_U64 = (1 << 64) - 1


class TimerControl(Register):
    """CNTP_CTL_EL0."""

    istatus = Field(2)
    imask = Field(1)
    enable = Field(0)


class VcpuTimer:
    """CNTP_CTL_EL0, CNTP_CVAL_EL0 and CNTP_TVAL_EL0 with the interrupt line that they drive."""

    def __init__(self, line: IrqLine) -> None:
        self._line = line
        self._compare = 0
        self._control = TimerControl(0)
        self._asserted = False
        self.deadline: int | None = None
        """When the line will rise, in ns of CLOCK_MONOTONIC; None: not by itself."""

    def reset(self) -> None:
        """As after power-on: disabled."""
        self._compare = 0
        self.write_control(0)

    def read_control(self) -> int:
        """CNTP_CTL_EL0, with ISTATUS as it is now."""
        enabled = self._control.enable
        met = enabled and time.monotonic_ns() // NS_PER_TICK >= self._compare
        return self._control.with_(istatus=int(bool(met)))

    def write_control(self, value: int) -> None:
        """CNTP_CTL_EL0; ISTATUS is read-only."""
        new = TimerControl(value & _U32)
        self._control = TimerControl.of(enable=new.enable, imask=new.imask)
        self._rearm()

    def read_compare(self) -> int:
        """CNTP_CVAL_EL0, in ticks."""
        return self._compare

    def write_compare(self, value: int) -> None:
        """CNTP_CVAL_EL0, in ticks."""
        self._compare = value & _U64
        self._rearm()

    def read_value(self) -> int:
        """CNTP_TVAL_EL0: ticks until the compare value, 32 bits."""
        return (self._compare - time.monotonic_ns() // NS_PER_TICK) & _U32

    def write_value(self, value: int) -> None:
        """CNTP_TVAL_EL0: a signed 32-bit number of ticks from now."""
        ticks = (value & _U32) - ((value & 1 << 31) << 1)
        self.write_compare(time.monotonic_ns() // NS_PER_TICK + ticks)

    def expire(self, now: int) -> None:
        """Raise the line if its time, at ``now`` ns, has come."""
        if self.deadline is not None and now >= self.deadline:
            self.deadline = None
            self._assert(True)

    def _rearm(self) -> None:
        due = self._compare * NS_PER_TICK
        armed = self._control.enable and not self._control.imask and due < _NEVER_NS
        self.deadline = due if armed else None
        if armed and time.monotonic_ns() >= due:
            self.expire(due)
        else:
            self._assert(False)

    def _assert(self, level: bool) -> None:
        if level != self._asserted:
            self._asserted = level
            self._line(level)
