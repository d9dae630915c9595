# SPDX-License-Identifier: GPL-2.0-or-later
"""A guest that a program runs: the public API's one entry."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self

from pvtime.api.console import GuestConsole
from pvtime.api.machine_thread import MachineThread
from pvtime.api.sample import Sample
from pvtime.engine.registry import AUTO
from pvtime.errors import GuestCommandError, GuestEndedError, UsageError
from pvtime.inject.schedule import Schedule
from pvtime.machine.gic import GicVersion
from pvtime.machine.layout import MAX_VCPUS
from pvtime.report.model import RunReport
from pvtime.run.events import RunEvent
from pvtime.run.guest_source import source_of
from pvtime.run.options import DEFAULT_SHARE_SIZE, GuestOptions, RunOptions
from pvtime.run.source import FromSaved, MachineSource
from pvtime.steal.placement import PlacementName

if TYPE_CHECKING:
    from pvtime.run.exporter import SaveResult
    from pvtime.snapshot.send import MigrationResult

__all__ = ["Guest", "StealBlock"]

OFF: Final = "off"

BOOT_TIMEOUT_S: Final = 120.0
SHELL_TIMEOUT_S: Final = 60.0


class Guest:
    """A guest: an arm64 Linux machine in this process, which knows its stolen time.

    It runs in a ``with`` block, or from :meth:`start` to :meth:`close`. Every method may be called from any
    thread. A guest is used once. At the interpreter's end, guests that still run are stopped.

    :param vcpus: number of vCPUs, 1 to 512; on kvm up to the host's limit.
    :param memory: bytes of RAM.
    :param placement: who provides the memory for stolen time: ``userspace``, ``hypervisor`` or ``guest``.
    :param engine: what executes the vCPUs: ``auto``, ``unicorn`` or ``kvm``.
    :param gic: the interrupt controller: ``v2``, which has 8 vCPUs at most, ``v3``, or ``auto``.
    :param kernel: file of an arm64 Image; None: the stock kernel.
    :param initrd: file of an initrd; None: the stock userland, which :meth:`wait_userland` and :meth:`shell`
        need.
    :param rootfs: directory or tar of arm64 programs, the root of the commands of :meth:`shell`
        (docs/workloads.md); None: they have the stock userland's busybox.
    :param share: directory whose files the commands of :meth:`shell` have in ``/share``; what one has changed
        or made there is in it when :meth:`shell` returns (docs/workloads.md).
    :param share_size: bytes that the files there take at most.
    :param append: words for the kernel's command line. The stock kernel has ``cryptomgr.notests`` before
        them, which leaves out its tests of its own cryptography; ``cryptomgr.notests=0`` brings them back.
    :param cpu: CPU model; None: the engine's choice.
    :param without: vCPUs to which no stolen time is offered.
    :param busy: number of vCPUs that the stock userland keeps busy; None: all.
    :param steal: items of time to steal from the start on (docs/steal.md), such as ``["1:30%"]``.
    :param steal_pauses: let the guest's clocks go on while it is paused, and count the pause as stolen.
    :param engine_options: options of the engine, by name.
    :param warm: begin at the start of userland, from a guest that is booted once and kept in the cache.
    :param lpt: offer Live Physical Time, too (docs/lpt.md).
    :param name: name for ``pvtime ps`` and others; None: the guest has no control socket.
    :raises UsageError: a parameter is impossible.
    """

    def __init__(
        self,
        *,
        vcpus: int = 1,
        memory: int = 512 << 20,
        placement: str = "userspace",
        engine: str = AUTO,
        gic: str = "auto",
        kernel: str | os.PathLike[str] | None = None,
        initrd: str | os.PathLike[str] | None = None,
        rootfs: str | os.PathLike[str] | None = None,
        share: str | os.PathLike[str] | None = None,
        share_size: int = DEFAULT_SHARE_SIZE,
        append: str = "",
        cpu: str | None = None,
        without: Iterable[int] = (),
        busy: int | None = None,
        steal: str | Iterable[str] = (),
        steal_pauses: bool = False,
        engine_options: Mapping[str, str] | None = None,
        warm: bool = False,
        lpt: bool = False,
        name: str | None = None,
    ) -> None:
        if not 1 <= vcpus <= MAX_VCPUS:
            raise UsageError(f"vcpus={vcpus}: give 1 to {MAX_VCPUS}")
        if busy is not None and not 0 <= busy <= vcpus:
            raise UsageError(f"busy={busy}: give 0 to vcpus, {vcpus}")
        own_files = rootfs is not None or share is not None
        if initrd is not None and (warm or busy is not None or own_files):
            raise UsageError("warm, busy, rootfs and share need the stock userland: leave out initrd")
        if own_files and warm:
            raise UsageError("a guest with a rootfs or a share has no warm start: leave it out, or warm")
        names = [name.value for name in PlacementName]
        if placement not in names:
            raise UsageError(f"placement={placement!r}: give one of {', '.join(names)}")
        versions = [version.value for version in GicVersion]
        if gic not in versions:
            raise UsageError(f"gic={gic!r}: give one of {', '.join(versions)}")
        guest = GuestOptions(
            kernel=_optional_path(kernel, "kernel"),
            initrd=_optional_path(initrd, "initrd"),
            rootfs=_optional_path(rootfs, "rootfs"),
            share=_optional_path(share, "share"),
            share_size=share_size,
            append=append,
            vcpus=vcpus,
            memory=memory,
            cpu=cpu,
            engine=engine,
            placement=PlacementName(placement),
            gic=GicVersion(gic),
            no_pvtime=frozenset(without),
            busy=busy,
        )
        schedule = _schedule(steal, pauses=steal_pauses)
        self._set_up(source_of(guest, warm=warm), schedule, engine_options or {}, name, lpt=lpt)

    @classmethod
    def restore(
        cls,
        directory: str | os.PathLike[str],
        *,
        steal: str | Iterable[str] = (),
        steal_pauses: bool = False,
        engine_options: Mapping[str, str] | None = None,
        lpt: bool = False,
        name: str | None = None,
    ) -> Self:
        """Return a guest that continues one that was saved to ``directory``, once it is started.

        :param directory: what :meth:`save` or ``pvtime save`` has written; it stays.
        :param steal: see :class:`Guest`, as the others.
        """
        guest = cls.__new__(cls)
        schedule = _schedule(steal, pauses=steal_pauses)
        guest._set_up(FromSaved(_path(directory, "directory")), schedule, engine_options or {}, name, lpt=lpt)
        return guest

    def _set_up(
        self,
        source: MachineSource,
        steal: Schedule,
        engine_options: Mapping[str, str],
        name: str | None,
        *,
        lpt: bool = False,
    ) -> None:
        options = RunOptions(engine_options=engine_options, steal=steal, lpt=lpt, quiet=True)
        self._machine = MachineThread(source, options, name)

    # Its life.

    def start(self) -> Self:
        """Build the machine and start it; return the guest.

        :raises UsageError: the machine cannot be, or the guest was started before.
        :raises EngineError: this host cannot run it.
        """
        self._machine.start()
        return self

    def close(self) -> None:
        """End the guest where it is, and return when nothing of it is left; harmless when it has ended."""
        self._machine.close()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # What it is, and waits for it.

    @property
    def console(self) -> GuestConsole:
        """The guest's console."""
        return self._machine.console

    @property
    def release(self) -> str | None:
        """The kernel's release, such as ``6.1.0-56-cloud-arm64``; None until the guest has printed it."""
        return self._machine.session.release

    @property
    def state(self) -> str:
        """``booting`` until the stock userland has reported, then ``running``; ``paused``; ``ended``."""
        try:
            with self._machine.using() as live:
                return live.state
        except GuestEndedError:
            return "ended"

    @property
    def outcome(self) -> str | None:
        """The end of the guest, such as ``power-off`` or ``stopped`` (docs/report.md); None: it runs."""
        report = self.report
        return report.outcome.value if report is not None else None

    @property
    def report(self) -> RunReport | None:
        """The report of a guest that has ended (docs/report.md); None: it runs."""
        result = self._machine.result
        return result.report if result is not None else None

    def wait_userland(self, timeout: float = BOOT_TIMEOUT_S) -> None:
        """Wait until the stock userland has reported.

        :param timeout: seconds.
        :raises UsageError: the guest has an initrd of its own.
        :raises GuestCommandError: it has not reported in time.
        :raises GuestEndedError: the guest has ended before.
        """
        session, position = self._machine.session, 0
        with self._machine.using() as live:
            if not live.built.agent:
                raise UsageError("only the stock userland reports: wait for a line of the console instead")
        give_up_at = time.monotonic() + timeout
        while not session.is_up:
            left = give_up_at - time.monotonic()
            if session.events.closed:
                self._machine.wait()
                self._machine.raise_ended()
            if left <= 0:
                raise GuestCommandError(f"the guest's userland has not reported within {timeout:g} s")
            _, position = session.events.read(position, left)

    def run_for(self, seconds: float) -> None:
        """Let the guest run for a time.

        :raises GuestEndedError: it has ended meanwhile.
        """
        if self._machine.wait(seconds):
            self._machine.raise_ended()

    def wait(self, timeout: float | None = None) -> str | None:
        """Wait for the guest's end, and return its :attr:`outcome`; None: it runs.

        :param timeout: seconds; None: without limit.
        :raises EngineError: the engine failed.
        """
        if not self._machine.wait(timeout):
            return None
        self._machine.join()
        return self.outcome

    # What may be asked of it.

    def sample(self, *, guest: bool = False) -> Sample:
        """Return the figures of now; of a guest that has ended, the last.

        :param guest: ask the guest for its /proc/stat too, and wait for that until 2 s of its own time have
            passed, or 30 s: what the host steals from it is not its own.
        """
        try:
            with self._machine.using() as live:
                return Sample.of(live.figures(guest=guest))
        except GuestEndedError:
            self._machine.wait()
            result = self._machine.result
            if result is None:
                raise
            return Sample.of(result.last)

    def steal(self, *items: str) -> StealBlock:
        """Steal time by other items from now on (docs/steal.md), such as ``"1:50%"``.

        None, or ``"off"``: steal nothing. In a ``with`` block, the items of before are in force again at its
        end; their times count from then.

        :raises UsageError: an item is impossible.
        :raises GuestEndedError: the guest has ended.
        """
        with self._machine.using() as live:
            before = live.set_steal(_schedule(items, pauses=live.steal.pauses))
        return StealBlock(self, before)

    def _set_steal(self, schedule: Schedule) -> None:
        with self._machine.using() as live:
            live.set_steal(schedule)

    def shell(self, command: str, *, timeout: float = SHELL_TIMEOUT_S, check: bool = True) -> str:
        """Run a command in a shell of the stock guest, as root on any CPU, and return what it printed.

        Standard error comes with it. At most 1 MiB is kept. Bytes that are not UTF-8 are replaced.

        :param timeout: seconds in which it must end.
        :param check: raise where its exit code is not 0.
        :raises UsageError: the guest has no stock userland, or that is not up.
        :raises GuestCommandError: it failed, or has not ended in time, or its files in ``/share``
            cannot be had.
        :raises GuestEndedError: the guest has ended.
        """
        with self._machine.using() as live:
            give_up_at = time.monotonic() + timeout
            result = live.session.shell(command, timeout)
            live.session.collect_share(give_up_at - time.monotonic())
        output = result.output.decode("utf-8", "replace")
        if check and result.code:
            raise GuestCommandError(f"{command}: exit code {result.code}: {output[-200:].strip()}")
        return output

    def events(self, timeout: float | None = None) -> Iterator[RunEvent]:
        """Yield the events since the start (docs/report.md), and those that come, until the guest ends.

        :param timeout: seconds to wait for the next one, after which the iterator ends; None: without limit.
        """
        log, position = self._machine.session.events, 0
        while True:
            closed = log.closed
            events, position = log.read(position, timeout)
            yield from events
            if not events and (closed or timeout is not None):
                return

    def pause(self) -> None:
        """Pause the guest: nothing runs, and nothing is stolen; harmless when it is paused."""
        with self._machine.using() as live:
            live.pause()

    def resume(self) -> None:
        """Let a paused guest run again; harmless when it runs."""
        with self._machine.using() as live:
            live.resume()

    def reset(self) -> None:
        """Reset the guest, which boots again.

        :raises EngineError: it is paused.
        """
        with self._machine.using() as live:
            live.reset()

    def save(self, directory: str | os.PathLike[str], *, keep_running: bool = False) -> SaveResult:
        """Save the guest to a new directory, from which :meth:`restore` continues it, and end it here.

        :param keep_running: do not end it.
        :return: ``bytes`` written, and ``pause_ns``, the time for which it did not run.
        :raises PvtimeError: it cannot be saved, or not there; it runs on.
        """
        with self._machine.using() as live:
            saved = live.save(_path(directory, "directory").absolute(), keep_running=keep_running)
        if not keep_running:
            self.wait()
        return saved

    def migrate(
        self, address: str, *, key: str | os.PathLike[str] | None = None, insecure: bool = False
    ) -> MigrationResult:
        """Move the guest to the process that runs ``pvtime receive ADDRESS``, and end it here.

        :param address: ``unix:PATH`` or ``tcp:HOST:PORT``.
        :param key: file of the key that both sides have, in a network (docs/saved.md).
        :param insecure: anybody on the network may read the guest, and send one.
        :return: ``rounds``, ``sent_bytes``, ``paused_bytes``, ``pause_ns`` and ``total_ns``.
        :raises UsageError: the address is none, or nobody listens there; the guest runs on.
        :raises PvtimeError: the migration failed; the guest runs on, unless the message says otherwise.
        """
        from pvtime.snapshot.endpoint import Endpoint

        peer = Endpoint.parse(address, _optional_path(key, "key"), insecure).absolute()
        with self._machine.using() as live:
            moved = live.exporter.migrate(peer, lambda _round, _bytes: None)
        self.wait()
        return moved

    def stop(self) -> str:
        """Ask the guest to power off, and return its :attr:`outcome`.

        It is stopped if it does nothing for that in 2 s of its own time, or has not done it in 30 s.
        """
        with contextlib.suppress(GuestEndedError), self._machine.using() as live:
            live.stop(now=False)
        outcome = self.wait()
        assert outcome is not None, "it was waited for"
        return outcome


class StealBlock:
    """Injected steal of a ``with`` block, which begins where it was made: :meth:`Guest.steal`."""

    def __init__(self, guest: Guest, before: Schedule) -> None:
        self._guest = guest
        self._before = before

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with contextlib.suppress(GuestEndedError):
            self._guest._set_steal(self._before)


def _path(name: str | os.PathLike[str], parameter: str) -> Path:
    """Return a path; an empty one would mean the current directory, which nobody asked for.

    :raises UsageError: it is empty.
    """
    if not os.fspath(name):
        raise UsageError(f"{parameter}={name!r}: the name of the file is empty")
    return Path(name)


def _optional_path(name: str | os.PathLike[str] | None, parameter: str) -> Path | None:
    return None if name is None else _path(name, parameter)


def _schedule(items: str | Iterable[str], *, pauses: bool) -> Schedule:
    """Return the schedule of some items.

    :raises UsageError: one is impossible.
    """
    texts = [items] if isinstance(items, str) else list(items)
    return Schedule.parse([] if texts == [OFF] else texts, pauses=pauses)
