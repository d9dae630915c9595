# SPDX-License-Identifier: GPL-2.0-or-later
"""Debian's kernel with the stock userland on the embedded engine, observed from the host.

Messages of the guest and its hypervisor calls are recorded on the engine's thread, in their order: so each
call belongs to one kernel, and the figures beside a /proc/stat are of the same moment.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final, TypeVar

from pvtime.abi.pvtime import PvTime
from pvtime.engine.base import Outcome, VcpuSample
from pvtime.engine.unicorn.engine import UnicornEngine
from pvtime.errors import EngineError, UsageError
from pvtime.images.cache import FetchProgress, cache_directory
from pvtime.images.store import stock_images
from pvtime.machine.image import load_kernel
from pvtime.machine.machine import Machine, MachineConfig
from pvtime.steal.placement import PlacementName
from pvtime.userland.build import KERNEL_PARAMETERS, build_initramfs
from pvtime.userland.protocol import AgentDecoder, Message, Ready, Reply, StatReport, encode

__all__ = ["APPEND", "Call", "Kernel", "LinuxGuest", "linux_guest", "stock_linux"]

TIMEOUT_S: Final = 120.0
"""Longest wait for something that the guest must do; all take a few seconds."""

POLL_INTERVAL_S: Final = 0.1
"""Between two checks whether the guest has ended."""

MEMORY: Final = 256 << 20

APPEND: Final = f"console=ttyS0 {KERNEL_PARAMETERS}"
"""The stock kernel's command line."""

FOUND: Final = b"arm-pv: using stolen time PV"
"""Printed by a kernel that uses stolen time (arch/arm64/kernel/paravirt.c)."""

M = TypeVar("M", bound=Message)
T = TypeVar("T")


@dataclass(frozen=True)
class Call:
    """One PV_TIME_ST, with the calling vCPU's figures just before and just after it."""

    vcpu: int
    before: VcpuSample
    after: VcpuSample


@dataclass(frozen=True)
class Kernel:
    """The observations of one kernel, from its first instruction to its last report."""

    release: str
    found: bool
    """Whether it printed that it uses stolen time."""
    calls: tuple[Call, ...]
    """Every PV_TIME_ST, in their order."""
    end: tuple[VcpuSample, ...]
    """Each vCPU's figures at the last report."""
    steal_ns: tuple[int | None, ...]
    """Each CPU's stolen time in that report's /proc/stat, in ticks of 10 ms; None if it is not online."""


class LinuxGuest:
    """A running guest, and the messages of its agent. One thread waits for them.

    :param timeout_s: longest wait for something that the guest must do.
    :raises EngineError: of each method that waits: the guest ended, or did not do it in time.
    """

    def __init__(
        self, config: MachineConfig, options: Mapping[str, str], *, timeout_s: float = TIMEOUT_S
    ) -> None:
        self.machine = Machine(config, self._on_console, self._on_agent)
        self.engine = UnicornEngine(self.machine, options)
        self.engine.observe_hypercalls(self._on_hypercall)
        self.kernels: list[Kernel] = []
        """Kernels that have sent their last report."""
        self._timeout_s = timeout_s
        self._decoder = AgentDecoder()
        self._messages: list[Message] = []
        self._received = threading.Condition()
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
            with self._received:
                self._messages.append(message)
                self._received.notify_all()

    def _end(self, report: StatReport) -> None:
        end = tuple(self.engine.sample())
        steal = tuple(report.steal_ns(sample.index) for sample in end)
        found = FOUND in self._console
        self.kernels.append(Kernel(self._release, found, tuple(self._calls), end, steal))
        self._console.clear()
        self._calls.clear()

    # On the caller's.

    def wait_for(self, kind: type[M], what: str, accept: Callable[[M], bool] = lambda _: True) -> M:
        """Wait for a message of the agent, and take it alone: the others stay for other waits."""
        return self._await(lambda: self._take(kind, accept), what)

    def _take(self, kind: type[M], accept: Callable[[M], bool]) -> M | None:
        """Remove and return the first such message; None if none comes within 0.1 s."""

        def first() -> M | None:
            return next((each for each in self._messages if isinstance(each, kind) and accept(each)), None)

        with self._received:
            message = self._received.wait_for(first, POLL_INTERVAL_S)
            self._messages = [each for each in self._messages if each is not message]
        return message

    def command(self, verb: str, *numbers: int) -> None:
        """Have the agent execute a command, and wait for its reply."""
        self.send(verb, *numbers)
        command = encode(verb, *numbers).decode().strip()
        if not self.wait_for(Reply, command, lambda reply: reply.command == command).ok:
            raise self._refused(command)

    def report(self) -> StatReport:
        """Have the agent report /proc/stat now; return the last report before its reply, else the next one.

        The agent also reports every second, and of two reports at the same time the decoder may drop both.
        """
        self._take_reports()
        self.command("stat")
        report = self.wait_for(StatReport, "a report")
        return [report, *self._take_reports()][-1]

    def _take_reports(self) -> list[StatReport]:
        with self._received:
            reports = [each for each in self._messages if isinstance(each, StatReport)]
            self._messages = [each for each in self._messages if not isinstance(each, StatReport)]
        return reports

    def steal_of(self, cpu: int) -> int | None:
        """Stop the busy loops; return a CPU's steal in /proc/stat, in ns; None where it is not online."""
        self.command("idle")
        return self.report().steal_ns(cpu)

    def send(self, verb: str, *numbers: int) -> None:
        """Send the agent a command, without waiting for its reply."""
        data = encode(verb, *numbers)

        def sent() -> bool | None:
            nonlocal data
            data = data[self.machine.agent.receive(data) :]
            return None if data else True

        self._await(sent, verb, 0.001)

    def until(self, happened: Callable[[list[VcpuSample]], bool], what: str) -> None:
        """Sample until ``happened``."""
        self._await(lambda: happened(self.engine.sample()) or None, what, 0.01)

    def end_kernel(self, verb: str) -> None:
        """Have the kernel end by ``stop`` or ``kexec``, and wait for its last report."""
        number = len(self.kernels)
        refusal = Reply(verb, ok=False)
        self.send(verb)

        def ended() -> bool | None:
            if self._take(Reply, lambda reply: reply == refusal) is not None:
                raise self._refused(verb)
            return len(self.kernels) > number or None

        self._await(ended, "the kernel's last report")

    def wait_for_power_off(self) -> None:
        """Wait until the guest has powered itself off."""
        if self.engine.wait(self._timeout_s) is not Outcome.POWER_OFF:
            raise EngineError(
                f"the guest did not power off within {self._timeout_s:.0f} s{self._last_line()}"
            )

    def _await(self, happened: Callable[[], T | None], what: str, interval_s: float = 0) -> T:
        """Call ``happened`` until it returns something; what came before the guest's end counts."""
        end = time.monotonic() + self._timeout_s
        while True:
            over = self.engine.wait(0) is not None
            result = happened()
            if result is not None:
                return result
            if over:
                raise EngineError(f"the guest ended before this: {what}{self._last_line()}")
            if time.monotonic() > end:
                limit = f"{self._timeout_s:.0f} s"
                raise EngineError(f"the guest took over {limit} for this: {what}{self._last_line()}")
            time.sleep(interval_s)

    def _refused(self, command: str) -> EngineError:
        return EngineError(f"the guest could not {command}{self._last_line()}")

    def _last_line(self) -> str:
        lines = bytes(self._console).decode("ascii", "replace").split("\n")
        last = next((line.strip() for line in reversed(lines) if line.strip()), "nothing")
        return f"; on its console: {last}"


@contextmanager
def linux_guest(config: MachineConfig, options: Mapping[str, str]) -> Iterator[LinuxGuest]:
    """Start a guest, and stop it at the end."""
    guest = LinuxGuest(config, options)
    try:
        guest.engine.start()
        yield guest
    finally:
        guest.engine.stop()
        guest.machine.close()


@contextmanager
def stock_linux(
    progress: FetchProgress, placement: PlacementName, vcpus: int, no_pvtime: frozenset[int] = frozenset()
) -> Iterator[LinuxGuest]:
    """Start Debian's kernel with the stock userland, as scenarios boot it.

    :raises UsageError: Linux does not know the placement, or the images cannot be had.
    """
    if placement is PlacementName.GUEST:
        raise UsageError("a real kernel: Linux for arm64 gives no memory for stolen time")
    images = stock_images(cache_directory(), progress)
    userland, kernel = build_initramfs(images.busybox), load_kernel(images.kernel)
    config = MachineConfig(vcpus, MEMORY, kernel, userland, APPEND, placement=placement, no_pvtime=no_pvtime)
    progress(f"{placement.value}: Linux boots", 0, None)
    with linux_guest(config, {}) as guest:
        yield guest
