# SPDX-License-Identifier: GPL-2.0-or-later
"""The stock guest, booted: what it says on its console, and its agent to talk to."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Final, TypeVar

from framework.evidence import Evidence, guest_evidence, witness
from framework.wait import DEADLINE, wait_until
from pvtime.abi.pvtime import STRUCTURE_STRIDE, StolenTime
from pvtime.engine.base import VcpuSample
from pvtime.images.store import StockImages
from pvtime.inject.schedule import Schedule
from pvtime.machine.image import load_kernel
from pvtime.machine.machine import Machine, MachineConfig
from pvtime.machine.uart import Ns16550
from pvtime.userland.build import KERNEL_PARAMETERS, build_initramfs
from pvtime.userland.protocol import AgentDecoder, Message, Ready, Reply, StatReport, encode

if TYPE_CHECKING:
    from pvtime.engine.unicorn.engine import UnicornEngine  # not in the lab

__all__ = ["TICK_NS", "LinuxGuest", "boot_linux", "warm_linux"]

TICK_NS: Final = 10_000_000
"""/proc/stat counts in these."""

M = TypeVar("M", bound=Message)


class LinuxGuest:
    """A running Debian kernel with the stock userland."""

    def __init__(self, machine: Machine, engine: UnicornEngine) -> None:
        self.machine = machine
        self.engine = engine
        self._console = bytearray()
        self._decoder = AgentDecoder()
        self._messages: list[Message] = []
        self._changed = threading.Condition()
        self.structures: list[int] = []
        """Every vCPU's structure, in ns, at the moment of the agent's last report."""

    def on_console(self, data: bytes) -> None:
        """Take what the guest prints."""
        with self._changed:
            self._console += data
            self._changed.notify_all()

    def on_agent(self, data: bytes) -> None:
        """Take what the agent says."""
        with self._changed:
            for message in self._decoder.feed(data):
                if isinstance(message, StatReport):
                    self.structures = [self._structure(index) for index in range(self.machine.config.vcpus)]
                self._messages.append(message)
            self._changed.notify_all()

    def _structure(self, index: int) -> int:
        """Return what a vCPU would read in its structure now, without bringing it up to date."""
        offset = index * STRUCTURE_STRIDE + StolenTime.stolen_time.offset
        return self.machine.stolen_time.load_u64(self.machine.stolen_time.base + offset)

    @property
    def console(self) -> str:
        """All that the guest has printed."""
        with self._changed:
            return self._console.decode("ascii", "replace")

    def evidence(self) -> Evidence:
        """Return what a failure shows of it."""
        return guest_evidence(lambda: self.console, self.engine)

    def _wait(self, come: Callable[[], bool], what: str) -> None:
        end = time.monotonic() + DEADLINE
        with self._changed:
            while True:
                # Before the look: a guest's last words come before its end, and perhaps as a wait times out.
                ended = self.engine.wait(0) is not None
                if come():
                    return
                assert not ended, f"the guest ended before {what}"
                assert time.monotonic() < end, f"{what} did not come:\n{self.console[-2000:]}"
                self._changed.wait(1)

    def wait_for_text(self, text: str, times: int = 1) -> None:
        """Wait until the console has shown ``text`` so many times."""
        self._wait(lambda: self._console.count(text.encode()) >= times, text)

    def wait_for_match(self, pattern: re.Pattern[str]) -> None:
        """Wait until the console has shown text that ``pattern`` matches."""
        self._wait(lambda: pattern.search(self.console) is not None, pattern.pattern)

    def wait_for(self, kind: type[M], accept: Callable[[M], bool] = lambda _: True) -> M:
        """Wait for a message of the agent, and take it; the others are kept for those who wait for them."""
        found: list[M] = []

        def come() -> bool:
            for message in list(self._messages):
                if not found and isinstance(message, kind) and accept(message):
                    self._messages.remove(message)
                    found.append(message)
            return bool(found)

        self._wait(come, kind.__name__)
        return found[0]

    def ready(self) -> str:
        """Wait for userland; return the kernel's release."""
        return self.wait_for(Ready).release

    def tell(self, verb: str, *numbers: int) -> None:
        """Have the agent do something, and wait until it has."""
        self._send(self.machine.agent, encode(verb, *numbers))
        command = " ".join([verb, *map(str, numbers)])
        reply = self.wait_for(Reply, lambda reply: reply.command == command)
        assert reply.ok, f"the guest could not {command}"

    def type(self, line: str) -> None:
        """Type a line on the console."""
        self._send(self.machine.console, line.encode() + b"\n")

    def _send(self, port: Ns16550, data: bytes) -> None:
        while data := data[port.receive(data) :]:
            assert self.engine.wait(0.001) is None, "the guest has ended"

    def report(self) -> StatReport:
        """Have the guest tell its /proc/stat now; :attr:`structures` is of the moment when it came."""
        with self._changed:
            self._messages = [each for each in self._messages if not isinstance(each, StatReport)]
        self._send(self.machine.agent, encode("stat"))
        return self.wait_for(StatReport)

    def whole_report(self) -> StatReport:
        """Have the guest report until it tells of each CPU: all are online."""

        def whole() -> StatReport | None:
            report = self.report()  # one without a CPU was seen on a busy host
            return report if len(report.cpus) == self.machine.config.vcpus else None

        return wait_until(whole, self.engine, message="each report lacks a CPU")

    def await_account(self) -> StatReport:
        """Wait until /proc/stat has all that is stolen by now, to its unit; it never has more than that.

        The guest adds what its structure says at a tick of a CPU that is busy, and rounds down.
        """
        stolen = [sample.count_ns for sample in self.engine.sample()]

        def follows() -> StatReport | None:
            report = self.whole_report()
            known = [report.steal_ns(index) for index in range(len(stolen))]
            accounts = list(zip(known, stolen, self.structures, strict=True))
            assert all((own or 0) <= structure for own, _, structure in accounts), f"too much: {accounts}"
            return report if all((own or 0) > then - TICK_NS for own, then, _ in accounts) else None

        return wait_until(follows, self.engine, message=lambda: f"/proc/stat stays behind {stolen}")

    def stop(self) -> StatReport:
        """Have the guest settle its accounts and power off; return its last report."""
        self._send(self.machine.agent, encode("stop"))
        report = self.wait_for(StatReport, lambda report: report.final)
        assert self.engine.wait(DEADLINE) is not None
        return report

    def until(self, happened: Callable[[list[VcpuSample]], bool]) -> list[VcpuSample]:
        """Sample until something is seen; every figure agrees and none runs backwards on the way."""
        samples: list[VcpuSample] = []

        def sampled() -> bool:
            samples[:] = self.engine.sample()
            assert [s.structure_ns for s in samples] == [s.truth_ns for s in samples]
            return happened(samples)

        wait_until(sampled, self.engine, message=lambda: f"it did not happen: {samples}")
        return samples


@contextmanager
def boot_linux(
    images: StockImages,
    vcpus: int = 1,
    append: str = "",
    internals: str = "auto",
    steal: tuple[str, ...] = (),
    options: Mapping[str, str] | None = None,
    lpt: int | None = None,
) -> Iterator[LinuxGuest]:
    """Start the stock guest; it is stopped at the end.

    :param options: more options of the engine.
    :param lpt: frequency of Live Physical Time, in Hz; None: it is not offered.
    """
    from pvtime.engine.unicorn.engine import UnicornEngine

    guest: LinuxGuest

    def console(data: bytes) -> None:
        guest.on_console(data)

    def agent(data: bytes) -> None:
        guest.on_agent(data)

    config = MachineConfig(
        vcpus,
        256 << 20,
        load_kernel(images.kernel),
        build_initramfs(images.busybox),
        f"console=ttyS0 earlycon {KERNEL_PARAMETERS} {append}".strip(),
        lpt=lpt,
    )
    machine = Machine(config, console, agent)
    engine = UnicornEngine(machine, {"internals": internals, **(options or {})}, Schedule.parse(steal))
    guest = LinuxGuest(machine, engine)
    engine.start()
    try:
        with witness(guest.evidence):
            yield guest
    finally:
        engine.stop()
        machine.close()


@contextmanager
def warm_linux() -> Iterator[LinuxGuest]:
    """Continue a stock guest with two vCPUs behind its boot, as ``--warm`` does; it is stopped at the end.

    It idles, and has printed nothing yet. It is the guest that the examples of docs/api.md keep in the cache.
    """
    from pvtime.engine.unicorn.engine import UnicornEngine
    from pvtime.run.inbox import Inbox
    from pvtime.run.options import GuestOptions, RunOptions
    from pvtime.run.source import NO_SCREEN
    from pvtime.run.warm import FromWarm

    guest: LinuxGuest

    class Ears(Inbox):
        """Passes on what the guest says."""

        def console(self, data: bytes) -> None:
            guest.on_console(data)

        def agent(self, data: bytes) -> None:
            guest.on_agent(data)

    with closing(Ears()) as ears:
        kept = FromWarm(GuestOptions(vcpus=2, engine="unicorn"))
        built = kept.build(RunOptions(quiet=True), ears, NO_SCREEN)
        assert isinstance(built.engine, UnicornEngine)
        guest = LinuxGuest(built.machine, built.engine)
        built.engine.start()
        try:
            with witness(guest.evidence):
                assert built.on_start is not None
                built.on_start()
                guest.tell("idle")
                yield guest
        finally:
            built.engine.stop()
            built.machine.close()
