# SPDX-License-Identifier: GPL-2.0-or-later
"""Debian's kernel with the stock userland in the embedded engine, and what stolen time does to it.

What the guest says and what its hypervisor sees is noted on the engine's thread, in the order in which it
happens: so each hypervisor call belongs to one kernel, and the figures beside a /proc/stat are of its moment.
"""

from __future__ import annotations

import queue
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final, TypeVar

from pvtime.abi.pvtime import PvTime
from pvtime.engine.base import Outcome, VcpuSample
from pvtime.engine.unicorn.engine import UnicornEngine
from pvtime.errors import EngineError
from pvtime.machine.machine import Machine, MachineConfig
from pvtime.userland.protocol import AgentDecoder, Message, Ready, Reply, StatReport, encode

__all__ = ["DEADLINE", "Call", "Kernel", "LinuxGuest", "linux_guest"]

DEADLINE: Final = 120.0
"""Seconds after which something that the guest must do is given up; all take a few."""

FOUND: Final = b"arm-pv: using stolen time PV"
"""What a kernel prints that has found stolen time (arch/arm64/kernel/paravirt.c)."""

M = TypeVar("M", bound=Message)


@dataclass(frozen=True)
class Call:
    """One PV_TIME_ST, with the calling vCPU's figures just before and just after it."""

    vcpu: int
    before: VcpuSample
    after: VcpuSample


@dataclass(frozen=True)
class Kernel:
    """What one kernel did, from its first instruction to its last report."""

    release: str
    found: bool
    """It said that it uses stolen time."""
    calls: tuple[Call, ...]
    """Every PV_TIME_ST, in their order."""
    end: tuple[VcpuSample, ...]
    """Each vCPU's figures at the last report."""
    steal_ns: tuple[int | None, ...]
    """Each CPU's stolen time in that report's /proc/stat, in ticks of 10 ms; None if it is not online."""


class LinuxGuest:
    """A running guest. What it does not do in :data:`DEADLINE` seconds raises EngineError."""

    def __init__(self, config: MachineConfig, options: Mapping[str, str]) -> None:
        self.machine = Machine(config, self._on_console, self._on_agent)
        self.engine = UnicornEngine(self.machine, options)
        self.engine.observe_hypercalls(self._on_hypercall)
        self.kernels: list[Kernel] = []
        """Those that have sent their last report."""
        self._decoder = AgentDecoder()
        self._messages: queue.SimpleQueue[Message] = queue.SimpleQueue()
        self._console = bytearray()
        self._calls: list[Call] = []
        self._release = ""

    # On the engine's thread.

    def _on_console(self, data: bytes) -> None:
        self._console += data

    def _on_hypercall(self, vcpu: int, function: int, before: VcpuSample, after: VcpuSample) -> None:
        if function == PvTime.ST:
            self._calls.append(Call(vcpu, before, after))

    def _on_agent(self, data: bytes) -> None:
        for message in self._decoder.feed(data):
            if isinstance(message, Ready):
                self._release = message.release
            elif isinstance(message, StatReport) and message.final:
                self._end(message)
            self._messages.put(message)

    def _end(self, report: StatReport) -> None:
        end = tuple(self.engine.sample())
        steal = tuple(report.steal_ns(sample.index) for sample in end)
        found = FOUND in self._console
        self.kernels.append(Kernel(self._release, found, tuple(self._calls), end, steal))
        self._console.clear()
        self._calls.clear()

    # On the caller's.

    def wait_for(self, kind: type[M], what: str) -> M:
        """Wait for a message of the agent, and take it and all before it."""
        end = time.monotonic() + DEADLINE
        while not isinstance(message := self._next(end, what), kind):
            pass
        return message

    def _next(self, end: float, what: str) -> Message:
        while True:
            try:
                return self._messages.get(timeout=0.1)
            except queue.Empty:
                self._go_on(end, what)

    def tell(self, verb: str, *numbers: int) -> None:
        """Have the agent do something, and wait until it has."""
        self.send(verb, *numbers)
        reply = self.wait_for(Reply, verb)
        if not reply.ok:
            raise self._refused(reply.command)

    def send(self, verb: str, *numbers: int) -> None:
        """Tell the agent to do something, and do not wait."""
        end = time.monotonic() + DEADLINE
        data = encode(verb, *numbers)
        while data := data[self.machine.agent.receive(data) :]:
            self._go_on(end, verb)
            time.sleep(0.001)

    def until(self, happened: Callable[[list[VcpuSample]], bool], what: str) -> None:
        """Sample until something is observed."""
        end = time.monotonic() + DEADLINE
        while not happened(self.engine.sample()):
            self._go_on(end, what)
            time.sleep(0.01)

    def last_words(self, verb: str) -> None:
        """Have the kernel end, and wait for its last report."""
        end = time.monotonic() + DEADLINE
        ended = len(self.kernels)
        self.send(verb)
        while len(self.kernels) == ended:
            if self._next(end, "the kernel's last report") == Reply(verb, ok=False):
                raise self._refused(verb)

    def wait_for_power_off(self) -> None:
        """Wait until the guest has powered itself off."""
        if self.engine.wait(DEADLINE) is not Outcome.POWER_OFF:
            raise EngineError(f"the guest did not power off within {DEADLINE:.0f} s")

    def _go_on(self, end: float, what: str) -> None:
        """Check that there still is something to wait for."""
        if self.engine.wait(0) is not None:
            raise EngineError(f"the guest ended before this: {what}{self._last_line()}")
        if time.monotonic() > end:
            raise EngineError(f"the guest took over {DEADLINE:.0f} s for this: {what}{self._last_line()}")

    def _refused(self, command: str) -> EngineError:
        return EngineError(f"the guest could not {command}{self._last_line()}")

    def _last_line(self) -> str:
        lines = bytes(self._console).decode("ascii", "replace").split("\n")
        last = next((line.strip() for line in reversed(lines) if line.strip()), "nothing")
        return f"; on its console: {last}"


@contextmanager
def linux_guest(config: MachineConfig, options: Mapping[str, str]) -> Iterator[LinuxGuest]:
    """Start a guest, which is stopped at the end."""
    guest = LinuxGuest(config, options)
    try:
        guest.engine.start()
        yield guest
    finally:
        guest.engine.stop()
        guest.machine.close()
