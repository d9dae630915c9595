# SPDX-License-Identifier: GPL-2.0-or-later
"""One vCPU's thread, from the vCPU's first entry to its end.

The loop holds the interpreter's lock for as short as it can: its steps are written out where they are taken,
and fcntl.ioctl gets no third argument (given one, CPython 3.11 raises and drops two exceptions to find out
that it is a number). Measured in the lab on a host with two CPUs that others were using too, the best of 48
windows of 0.25 s, reads of a device register a second:

====================================  ======  =======
..                                    1 vCPU  2 vCPUs
====================================  ======  =======
a call for each step, third argument    6486     7442
this loop                              11215     8469
====================================  ======  =======

The best windows are the quiet ones. The medians of two series with two vCPUs were 1901 and 5710
for the first, 1975 and 2937 for this one: where the host is busy, waking a thread takes as long as that.

Two vCPUs that do nothing but exit are still slower together than one, and no way in plain Python was found to
change that: a thread that returns from KVM_RUN while the other one holds the lock sleeps until it is woken,
which the other one does not wait for. So the console does not exit (:mod:`pvtime.engine.kvm.window`,
:mod:`pvtime.engine.kvm.ring`), and nothing else of a machine does so often.
"""

from __future__ import annotations

import fcntl
import signal
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from typing import Final

from pvtime.abi.kvm import KvmIoctl
from pvtime.abi.kvm_reg import PC
from pvtime.engine.base import VcpuSample
from pvtime.engine.kvm.bus import Bus
from pvtime.engine.kvm.exits import MMIO, Exits, Owner
from pvtime.engine.kvm.injector import InjectedVcpu
from pvtime.engine.kvm.ioctl import KvmError
from pvtime.engine.kvm.kick import KICK, block_other_signals
from pvtime.engine.kvm.meter import Meter, figures
from pvtime.engine.kvm.page import ADDRESS, DATA, EXIT_REASON, IS_WRITE, LENGTH, RunPage
from pvtime.engine.kvm.vcpu import Vcpu
from pvtime.errors import EngineError, PvtimeError
from pvtime.steal.kvm_truth import KvmTruth, StolenState
from pvtime.steal.run_delay import Schedstat

__all__ = ["VcpuRunner"]

PATIENCE: Final = 0.05
"""Seconds between kicks of a thread that does not answer: what it steps over may be a WFI, which sleeps."""

_RUN: Final = int(KvmIoctl.RUN)


class _Leave(BaseException):
    """The thread is asked to end."""


class VcpuRunner:
    """Runs a vCPU on a thread of its own."""

    def __init__(
        self,
        vcpu: Vcpu,
        bus: Bus,
        truth: KvmTruth,
        owner: Owner,
        parking: int,
        victim: InjectedVcpu | None = None,
    ) -> None:
        self._vcpu = vcpu
        self._truth = truth
        self._owner = owner
        self._parking = parking
        self._victim = victim
        if victim is not None:
            victim.begin_life(truth)
        self._bus = bus
        self._page = RunPage(vcpu.map)
        self._exits = Exits(vcpu, self._page, bus, owner)
        self._mail: deque[Callable[[], object]] = deque()
        self._sample = figures(vcpu.index, truth)
        self._stolen = truth.state(0)
        self._paused = False
        self._woken = threading.Event()
        self._gate = threading.Lock()
        self._there = False
        self._thread = threading.Thread(target=self._main, name=f"pvtime-vcpu{vcpu.index}", daemon=True)

    # For other threads.

    def start(self, *, paused: bool) -> None:
        """Start the thread, which keeps out of the guest until :meth:`resume` where it is paused.

        :raises EngineError: the host has no room for another thread.
        """
        self._there, self._paused = True, paused
        if paused and self._victim is not None:
            self._victim.pause(time.monotonic_ns())
        try:
            self._thread.start()
        except RuntimeError as error:
            self._there = False
            raise EngineError(f"no thread for {self._vcpu.name}: {error}") from error

    def sample(self) -> VcpuSample:
        """Bring the vCPU out of the guest, measure, and return its figures; after its end the last ones."""
        self._call(self._measure_running)
        return self._sample

    def pause(self) -> Callable[[], None]:
        """Measure, and keep the vCPU out of the guest until :meth:`resume`. Return what waits for that."""
        return self._post(self._pause)

    @property
    def stolen(self) -> StolenState:
        """What a saved machine must hold of the vCPU's stolen time, while it is paused."""
        return self._stolen

    def refresh(self) -> None:
        """Measure a vCPU that is paused: what its structure is in has changed."""
        self._call(self._rest)

    def resume(self) -> None:
        """Let the vCPU into the guest again."""
        self._paused = False
        self._woken.set()

    def _call(self, work: Callable[[], object]) -> None:
        """Have the thread do something outside of the guest; nothing where it has ended."""
        self._post(work)()

    def _post(self, work: Callable[[], object]) -> Callable[[], None]:
        """Do so, and return what waits until it has been done."""
        if not self._there:
            return lambda: None
        done = threading.Event()

        def deliver() -> None:
            work()
            done.set()

        self._mail.append(deliver)
        self._woken.set()
        there = self.kick()

        def wait() -> None:
            nonlocal there
            while there and not done.wait(PATIENCE):
                there = self.kick()

        return wait

    def rob(self) -> None:
        """Have the vCPU leave the guest and pay what it owes."""
        self._mail.append(self._give_in)
        self._woken.set()
        self.kick()

    @property
    def tid(self) -> int:
        """The kernel's number of the thread, which has started."""
        return self._thread.native_id or 0

    def leave(self) -> None:
        """Have the thread measure for the last time and end; see :meth:`join`."""
        self._mail.append(self._leave)
        self._woken.set()
        self.kick()

    def join(self) -> None:
        """Wait for the thread's end after :meth:`leave`."""
        while self.kick():
            self._thread.join(PATIENCE)

    def kick(self) -> bool:
        """Bring the vCPU out of the guest, or keep it from entering; return whether its thread is there."""
        with self._gate:  # A thread that has ended has no identifier any more.
            if self._there and self._thread.ident is not None:
                # KVM reads immediate_exit first: it serves where the signal comes before KVM_RUN.
                self._page.set_immediate_exit(True)
                signal.pthread_kill(self._thread.ident, KICK)
            return self._there

    def close(self) -> None:
        """Let go of the vCPU's page, after :meth:`join`."""
        self._page.close()

    # The thread.

    def _main(self) -> None:
        block_other_signals()
        try:
            clock = Schedstat(threading.get_native_id())
            try:
                self._vcpu.claim()
                self._meter = Meter(self._vcpu, self._page, self._exits, self._truth, clock, self._parking)
                self._run()
            except _Leave:
                self._pay()
                self._measure(final=True)
            finally:
                clock.close()
        except PvtimeError as error:
            self._owner.fail(error)
        except Exception as error:
            fault = EngineError(f"{self._vcpu.name} failed: {type(error).__name__}: {error}")
            fault.__cause__ = error
            self._owner.fail(fault)
        finally:
            with self._gate:
                self._there = False

    def _run(self) -> None:
        enter, run, fd, serve, read = fcntl.ioctl, _RUN, self._vcpu.fd, self._exits.serve, self._bus.read
        words, quads, flags = self._page.words, self._page.quads, self._page.bytes
        reason, mmio, address, length, data, is_write = EXIT_REASON, MMIO, ADDRESS, LENGTH, DATA, IS_WRITE
        self._read_mail()
        while True:
            try:
                enter(fd, run)
            except InterruptedError:
                self._read_mail()
            except OSError as error:
                where = f"{self._vcpu.name} at PC {self._vcpu.get_reg(PC):#x}"
                raise KvmError(f"KVM_RUN ({where})", error.errno or 0) from error
            else:
                if words[reason] == mmio and not flags[is_write]:
                    quads[data] = read(quads[address], words[length])
                else:
                    serve()

    def _read_mail(self) -> None:
        # Cleared first: whoever posts later sets it later.
        self._page.set_immediate_exit(False)
        while True:
            while self._mail:
                self._mail.popleft()()
            timeout = None if self._paused else self._pay() / 1e9
            if timeout == 0:
                return
            self._woken.wait(timeout)
            self._woken.clear()

    def _pay(self) -> int:
        """Return for how long, in ns, the vCPU is still to be kept out of the guest on purpose."""
        return self._victim.remaining(time.monotonic_ns()) if self._victim is not None else 0

    def _give_in(self) -> None:
        if self._victim is None:
            return
        if not self._paused:
            self._measure(final=False)
        if self._paused or self._vcpu.stopped:
            self._victim.let_go()
        else:
            self._victim.give_in(time.monotonic_ns())

    def _measure_running(self) -> None:
        # A measurement steps the guest: when it was paused, or began to be held, the last one was taken.
        if self._paused:
            return
        if self._pay():
            truth, structure = self._truth.figures
            self._sample = replace(
                self._sample, truth_ns=truth, structure_ns=structure, injected_ns=self._truth.injected_ns
            )
        else:
            self._measure(final=False)

    def _pause(self) -> None:
        if not self._paused:
            self._pay()
            self._rest()
            self._paused = True
            if self._victim is not None:
                self._victim.pause(time.monotonic_ns())

    def _rest(self) -> None:
        self._measure(final=False)
        self._meter.settle()
        self._stolen = self._meter.stolen()

    def _measure(self, *, final: bool) -> None:
        self._sample = self._meter.measure(final=final)

    @staticmethod
    def _leave() -> None:
        raise _Leave
