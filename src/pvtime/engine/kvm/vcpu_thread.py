# SPDX-License-Identifier: GPL-2.0-or-later
"""A vCPU's thread, from its first entry to the guest to its end."""

from __future__ import annotations

import ctypes
import fcntl
import signal
import threading
import time
from collections.abc import Callable
from enum import Enum, auto
from pathlib import Path
from typing import Final

from pvtime.abi.kvm import KvmIoctl
from pvtime.abi.kvm_reg import PC
from pvtime.engine.base import VcpuSample
from pvtime.engine.call_queue import CallQueue
from pvtime.engine.kvm.exits import (
    ADDRESS,
    DATA,
    EXIT_REASON,
    IS_WRITE,
    LENGTH,
    MMIO,
    ExitHandler,
    KvmRunView,
    MachineEvents,
)
from pvtime.engine.kvm.injector import InjectedVcpu
from pvtime.engine.kvm.ioctl import KvmError
from pvtime.engine.kvm.mmio import MmioBus
from pvtime.engine.kvm.sampler import Sampler, last_sample
from pvtime.engine.kvm.thread_times import ThreadTimes
from pvtime.engine.kvm.vcpu_fd import VcpuFd
from pvtime.errors import EngineError, PvtimeError
from pvtime.inject.schedule import Schedule
from pvtime.steal.kvm_truth import KvmTruth, StolenState

__all__ = ["VcpuThread", "install_kick"]

KICK: Final = signal.SIGRTMIN + 4
"""The signal that brings a vCPU's thread out of the guest."""

FAULTS: Final = {signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGSEGV}
"""Signals of a thread's own faults: one that blocks them dies without faulthandler's traceback."""

KICK_INTERVAL_S: Final = 0.05
"""Time between two kicks of a thread that is to exit."""


def install_kick() -> None:
    """Give :data:`KICK` a handler that does nothing, so that it interrupts KVM_RUN and nothing else.

    Python's own handlers can be set by the main thread only, and would wake it at each kick. So this one is
    the C library's getpid(2), which is allowed in a handler and has no effect. signal(3) sets SA_RESTART,
    which KVM_RUN does not heed and other system calls do.
    """
    libc = ctypes.CDLL(None)
    libc.signal.argtypes = (ctypes.c_int, ctypes.c_void_p)
    libc.signal.restype = ctypes.c_void_p
    libc.signal(KICK, ctypes.cast(libc.getpid, ctypes.c_void_p))


def run_guest(
    vcpu: VcpuFd, view: KvmRunView, bus: MmioBus, exits: ExitHandler, may_enter: Callable[[], bool]
) -> None:
    """Enter the guest and handle its exits for as long as ``may_enter()``, which is asked after each kick.

    The loop holds the interpreter's lock for as short as possible: a device register's read is written out
    here, and fcntl.ioctl gets no third argument (given one, CPython 3.11 raises and drops two exceptions to
    find out that it is a number). Measured in the lab on a host with two CPUs that others were using too, the
    best of 48 windows of 0.25 s, reads of a device register a second:

    ====================================  ======  =======
    ..                                    1 vCPU  2 vCPUs
    ====================================  ======  =======
    a call for each step, third argument    6486     7442
    this loop                              11215     8469
    ====================================  ======  =======

    The best windows are the quiet ones. The medians of two series with two vCPUs were 1901 and 5710 for the
    first, 1975 and 2937 for this one: on a busy host, the wake-up of a thread takes most of the time.

    Two vCPUs that do nothing but exit are still slower together than one, and no way in plain Python was
    found to change that: a thread that returns from KVM_RUN while the other one holds the lock sleeps until
    it is woken, which the other one does not wait for. So the console does not exit
    (:mod:`pvtime.engine.kvm.uart_shadow`, :mod:`pvtime.engine.kvm.mmio`), and no other device is used often.

    :raises KvmError: KVM cannot run the vCPU.
    """
    enter, request, fd, read, handle = fcntl.ioctl, int(KvmIoctl.RUN), vcpu.fd, bus.read, exits.handle
    words, quads, flags = view.words, view.quads, view.bytes
    reason, mmio, address, length, data, is_write = EXIT_REASON, MMIO, ADDRESS, LENGTH, DATA, IS_WRITE
    while may_enter():
        while True:
            try:
                enter(fd, request)
            except InterruptedError:
                break
            except OSError as error:
                place = f"{vcpu.name} at PC {vcpu.get_reg(PC):#x}"
                raise KvmError(f"KVM_RUN ({place})", error.errno or 0) from error
            if words[reason] == mmio and not flags[is_write]:
                quads[data] = read(quads[address], words[length])
            else:
                handle()


class VcpuThreadState(Enum):
    """The work of a vCPU's thread."""

    NEW = auto()
    """It has not started."""
    RUNNING = auto()
    """It enters the guest, but for the holds of an injected steal."""
    PAUSED = auto()
    """It keeps out of the guest until it is resumed."""
    LEAVING = auto()
    """It has taken the last figures, and exits."""
    EXITED = auto()
    """It takes no calls any more."""


class VcpuThread:
    """Runs a vCPU on a thread of its own.

    :param parking: see :class:`~pvtime.engine.kvm.sampler.Sampler`.
    """

    def __init__(
        self,
        vcpu: VcpuFd,
        bus: MmioBus,
        truth: KvmTruth,
        events: MachineEvents,
        parking: int,
        injected: InjectedVcpu,
        times: ThreadTimes,
    ) -> None:
        self._vcpu = vcpu
        self._bus = bus
        self._events = events
        self._injected = injected
        injected.reset(truth)
        self._view = KvmRunView(vcpu.map)
        self._exits = ExitHandler(vcpu, self._view, bus, events)
        pauses_steal = injected.pauses_steal
        self._sampler = Sampler(
            vcpu, self._view, self._exits, truth, times, parking, pauses_steal=pauses_steal
        )
        self._sample = last_sample(vcpu.index, truth, times)
        self._stolen = truth.state(0)
        self._state = VcpuThreadState.NEW
        self._calls = CallQueue(self._kick)
        self._exit_lock = threading.Lock()
        """Held while the thread is signalled, and when it exits: one that has exited cannot be signalled."""
        self._thread = threading.Thread(target=self._main, name=f"pvtime-vcpu{vcpu.index}", daemon=True)

    # For other threads.

    def start(self, *, paused: bool) -> None:
        """Start the thread, which keeps out of the guest until :meth:`resume` where it is paused.

        :raises EngineError: the host has no room for another thread.
        """
        self._state = VcpuThreadState.PAUSED if paused else VcpuThreadState.RUNNING
        if paused:
            self._injected.pause(time.monotonic_ns())
        try:
            self._thread.start()
        except RuntimeError as error:
            self._state = VcpuThreadState.NEW
            raise EngineError(f"no thread for {self._vcpu.name}: {error}") from error

    def sample(self) -> VcpuSample:
        """Bring the vCPU out of the guest, measure, and return its figures; after its end the last ones."""
        self._calls.submit(self._measure_now)()
        return self._sample

    def pause(self) -> Callable[[], object]:
        """Have the vCPU measured and kept out of the guest until :meth:`resume`; return the wait for that."""
        return self._calls.submit(self._pause)

    @property
    def stolen(self) -> StolenState:
        """The part of a saved machine about the vCPU's stolen time, while the vCPU is paused."""
        return self._stolen

    def refresh(self) -> None:
        """Measure a paused vCPU: the memory of its structure has changed."""
        self._calls.submit(self._measure_paused)()

    def resume(self) -> Callable[[], object]:
        """Let the vCPU into the guest again; return the wait for that."""
        return self._calls.submit(self._resume)

    def set_steal(self, schedule: Schedule) -> None:
        """Have the vCPU follow another schedule from now on."""
        self._calls.call(lambda: self._injected.replace(schedule, time.monotonic_ns()))

    def hold(self) -> None:
        """Have the vCPU leave the guest and begin the hold that was requested."""
        self._calls.submit(self._begin_hold)

    @property
    def tid(self) -> int:
        """The kernel's number of the thread, which has started."""
        return self._thread.native_id or 0

    def leave(self) -> None:
        """Have the thread measure for the last time and exit; see :meth:`join`.

        A paused vCPU keeps the figures of its pause: it may have gone on elsewhere from them.
        """
        self._calls.submit(self._leave)

    def join(self) -> None:
        """Wait for the thread's exit after :meth:`leave`."""
        while self._kick():
            self._thread.join(KICK_INTERVAL_S)
        if self._thread.ident is not None:  # it takes no calls any more, and has only to end
            self._thread.join()

    def close(self) -> None:
        """Release the vCPU's mapping, after :meth:`join`."""
        self._view.close()

    def _kick(self) -> bool:
        """Bring the vCPU out of the guest, or keep it from entering; return whether its thread is alive."""
        with self._exit_lock:
            if self._state in (VcpuThreadState.NEW, VcpuThreadState.EXITED) or self._thread.ident is None:
                return False
            # KVM reads immediate_exit first: it serves where the signal comes before KVM_RUN.
            self._view.set_immediate_exit(True)
            signal.pthread_kill(self._thread.ident, KICK)
            return True

    # The thread.

    def _main(self) -> None:
        try:
            # For who looks at the host: ps -L, perf, pvtime judge. Python tells the kernel from 3.14 on.
            Path("/proc/thread-self/comm").write_text(self._thread.name)
            # Signals are the main thread's, but for the kick and the faults.
            signal.pthread_sigmask(signal.SIG_SETMASK, signal.valid_signals() - {KICK} - FAULTS)
            self._run()
        except PvtimeError as error:
            self._events.fail(error)
        except Exception as error:
            fault = EngineError(f"{self._vcpu.name} failed: {type(error).__name__}: {error}")
            fault.__cause__ = error
            self._events.fail(fault)
        finally:
            with self._exit_lock:
                self._state = VcpuThreadState.EXITED

    def _run(self) -> None:
        try:
            self._sampler.open()
            run_guest(self._vcpu, self._view, self._bus, self._exits, self._may_enter)
        finally:
            self._sampler.close()

    def _may_enter(self) -> bool:
        """Run the pending calls, wait while the vCPU is kept out of the guest; return whether to enter it."""
        while True:
            self._view.set_immediate_exit(False)  # first: a call that is submitted from here on sets it again
            self._calls.run_pending()
            if self._state is VcpuThreadState.LEAVING:
                return False
            if self._state is VcpuThreadState.PAUSED:
                self._calls.wait(None)
            elif remaining_ns := self._charge():
                self._calls.wait(remaining_ns / 1e9)
            else:
                return True

    def _charge(self) -> int:
        """Account for the injected steal until now; return the rest of the hold, in ns."""
        now = time.monotonic_ns()
        self._injected.charge(now)
        return self._injected.remaining(now)

    def _begin_hold(self) -> None:
        if self._state is VcpuThreadState.RUNNING:
            self._measure(final=False)
        if self._state is not VcpuThreadState.RUNNING or self._vcpu.stopped:
            self._injected.cancel()
        else:
            self._injected.begin_hold(time.monotonic_ns())

    def _pause(self) -> None:
        if self._state is VcpuThreadState.RUNNING:
            self._charge()
            self._measure_paused()
            self._injected.pause(time.monotonic_ns())
            self._state = VcpuThreadState.PAUSED

    def _resume(self) -> None:
        if self._state is VcpuThreadState.PAUSED:
            self._injected.resume(time.monotonic_ns())
            self._sampler.resume()
            self._state = VcpuThreadState.RUNNING

    def _leave(self) -> None:
        if self._state is VcpuThreadState.RUNNING:
            self._charge()
            self._measure(final=True)
        self._state = VcpuThreadState.LEAVING

    def _measure_now(self) -> None:
        # A measurement steps the guest: when the vCPU was paused, or began to be held, the last one was made.
        if self._state is not VcpuThreadState.RUNNING:
            return
        if self._charge():
            self._sample = self._sampler.account(off=False)
        else:
            self._measure(final=False)

    def _measure_paused(self) -> None:
        self._measure(final=False)
        self._sampler.complete_access()
        self._stolen = self._sampler.stolen()

    def _measure(self, *, final: bool) -> None:
        self._sample = self._sampler.measure(final=final)
