# SPDX-License-Identifier: GPL-2.0-or-later
"""The counter's frequency, and the EL1 physical timer of one vCPU (Arm ARM D11.2.4), over CLOCK_MONOTONIC."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Annotated

from pvtime.abi.layout import U32_MAX, U64_MAX, Field, Register
from pvtime.machine.device import IrqLine
from pvtime.records import dataclass
from pvtime.schema import bits, within

__all__ = [
    "MAX_HZ",
    "MIN_HZ",
    "NATIVE",
    "NS_PER_TICK",
    "PHYSICAL_TIMER_PPI",
    "CounterRate",
    "TimerControl",
    "TimerState",
    "VcpuTimer",
    "counter",
]

NS_PER_TICK = 16
"""The emulated CPU's own counter has 62.5 MHz, which cannot be changed."""

MIN_HZ, MAX_HZ = 1_000_000, 2_000_000_000
"""Frequencies that a counter can have. 1 to 50 MHz are typical (Arm ARM D11.1.2), from Armv8.6 on 1 GHz."""

_SECOND_NS = 1_000_000_000

PHYSICAL_TIMER_PPI = 14
"""Non-secure EL1 physical timer, as a PPI number; interrupt 30."""

_NEVER_NS = 1 << 62
"""A host is not up for 146 years; and no host's clock takes all the 2^68 ns that a guest can ask for."""


class CounterRate:
    """A counter's frequency, CNTFRQ_EL0: ticks of a host's CLOCK_MONOTONIC, and back.

    :param hz: from :data:`MIN_HZ` to :data:`MAX_HZ`.
    """

    def __init__(self, hz: int) -> None:
        self.hz = hz
        common = math.gcd(hz, _SECOND_NS)
        self._ticks, self._ns = hz // common, _SECOND_NS // common

    def ticks(self, ns: int) -> int:
        """Return the counter at ``ns``."""
        return ns * self._ticks // self._ns

    def ns(self, ticks: int) -> int:
        """Return the first time, in ns, at which the counter is ``ticks``."""
        return -(-ticks * self._ns // self._ticks)


NATIVE = CounterRate(_SECOND_NS // NS_PER_TICK)


class TimerControl(Register):
    """CNTP_CTL_EL0."""

    istatus = Field(2)
    imask = Field(1)
    enable = Field(0)


_WRITABLE = TimerControl.of(enable=1, imask=1)
_ARMED = TimerControl.of(enable=1)
_MET = TimerControl.of(istatus=1)


@dataclass(frozen=True)
class TimerState:
    """The saved timer. Its interrupt line is derived."""

    control: Annotated[int, bits(_WRITABLE)]
    """CNTP_CTL_EL0 without ISTATUS."""
    remaining: Annotated[int, within(-U64_MAX, U64_MAX)]
    """Ticks from the counter at the save to the compare value; negative: it has been met."""


def counter() -> int:
    """CNTPCT_EL0 of the native counter, in ticks, now."""
    return NATIVE.ticks(time.monotonic_ns())


class VcpuTimer:
    """CNTP_CTL_EL0, CNTP_CVAL_EL0 and CNTP_TVAL_EL0 with the interrupt line that they drive.

    :param now: CLOCK_MONOTONIC, in ns.
    :param rate: the counter's.
    """

    def __init__(
        self, line: IrqLine, now: Callable[[], int] = time.monotonic_ns, rate: CounterRate = NATIVE
    ) -> None:
        self._line = line
        self._now = now
        self._rate = rate
        self._compare = 0
        self._control = 0
        self._asserted = False
        self.deadline: int | None = None
        """Time at which the line will rise, in ns of CLOCK_MONOTONIC; None: not without a register access."""

    def reset(self) -> None:
        """Return to the state after power-on: disabled."""
        self._compare = 0
        self.write_control(0)

    def state(self, now: int) -> TimerState:
        """Return the state to save at a counter of ``now`` ticks."""
        return TimerState(self._control, self._compare - now)

    def restore(self, state: TimerState, now: int) -> None:
        """Resume from ``state``, with the same number of ticks left from a counter of ``now`` on.

        A compare value at either end of its range stays there: never is not to become soon.
        """
        self._compare = min(max(now + state.remaining, 0), U64_MAX)
        self.write_control(state.control)

    def delay(self, ticks: int) -> None:
        """Move the compare value by the ticks for which the guest's counter stood still.

        One at either end of its range stays there.
        """
        if self._compare not in (0, U64_MAX):
            self._compare = min(self._compare + ticks, U64_MAX)
        self._rearm()

    def read_control(self) -> int:
        """CNTP_CTL_EL0, with ISTATUS as it is now."""
        met = self._control & _ARMED and self._rate.ticks(self._now()) >= self._compare
        return self._control | _MET if met else self._control

    def write_control(self, value: int) -> None:
        """CNTP_CTL_EL0; ISTATUS is read-only."""
        self._control = value & _WRITABLE
        self._rearm()

    def read_compare(self) -> int:
        """CNTP_CVAL_EL0, in ticks."""
        return self._compare

    def write_compare(self, value: int) -> None:
        """CNTP_CVAL_EL0, in ticks."""
        self._compare = value & U64_MAX
        self._rearm()

    def read_value(self) -> int:
        """CNTP_TVAL_EL0: ticks until the compare value, 32 bits."""
        return (self._compare - self._rate.ticks(self._now())) & U32_MAX

    def write_value(self, value: int) -> None:
        """CNTP_TVAL_EL0: a signed 32-bit number of ticks from now."""
        ticks = (value & U32_MAX) - ((value & 1 << 31) << 1)
        self.write_compare(self._rate.ticks(self._now()) + ticks)

    def expire(self, now: int) -> None:
        """Raise the line if it is due at ``now`` ns."""
        if self.deadline is not None and now >= self.deadline:
            self.deadline = None
            self._assert(True)

    def _rearm(self) -> None:
        due = self._rate.ns(self._compare)
        armed = self._control == _ARMED and due < _NEVER_NS
        self.deadline = due if armed else None
        if armed and self._now() >= due:
            self.expire(due)
        else:
            self._assert(False)

    def _assert(self, level: bool) -> None:
        if level != self._asserted:
            self._asserted = level
            self._line(level)
