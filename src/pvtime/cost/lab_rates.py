# SPDX-License-Identifier: GPL-2.0-or-later
"""Rates of loads, entries and exits of guests on an arm64 host's KVM: the half that runs in the lab.

Exits are KVM's own statistics (debugfs), which cost nothing more. Each exit is followed by an entry but for
the last one. Updates, one for each load that is followed by an entry, are counted by a kprobe at the update.
In a second window tracepoints count entries and exits too, to be compared with the statistics, and a third
one is without any probe, to show what counting takes. The guest is paused while counters are read.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Final, Self

from pvtime.cost.lab_workloads import Workload, workload_guest
from pvtime.engine.kvm.engine import KvmEngine
from pvtime.probe.guest import machine_with_engine
from pvtime.steal.placement import PlacementName

__all__ = ["RateSetup", "WindowCounts", "hits_in_histogram", "hits_in_profile", "main"]

TRACEFS: Final = Path("/sys/kernel/tracing")
MODULE: Final = Path("/sys/module/pvtime_kvm/parameters")
DEBUGFS: Final = Path("/sys/kernel/debug")
FUNCTION: Final = "kvm_update_stolen_time"
PROBE: Final = "pvtime_updates"
STATISTICS: Final = ("exits", "mmio_exit_user", "signal_exits", "hvc_exit_stat", "wfi_exit_stat")
CHECKS: Final = 4
WARM_UP_S: Final = 0.05
"""Time in which the vCPUs start."""


@dataclass(frozen=True)
class RateSetup:
    """A guest and its windows."""

    workload: str
    vcpus: int
    window_s: float = 0.4
    """Length of the window in which updates are counted; the others have a :data:`CHECKS`-th of it."""
    placement: str = PlacementName.USERSPACE.value
    """Provider of the structures; the hypervisor needs pvtime's kernel module."""
    at_entries: bool = False
    """Have pvtime's kernel module make an update at each entry, and count them, in one window alone."""

    def encode(self) -> str:
        """Return it as an argument of a command."""
        return json.dumps(asdict(self))

    @classmethod
    def decode(cls, text: str) -> Self:
        """Read such an argument."""
        return cls(**json.loads(text))


@dataclass(frozen=True)
class WindowCounts:
    """Counts of all vCPUs together in a window; None: not counted in it."""

    duration_ns: int
    exits: int
    user_exits: int
    """Exits to user space, a signal's included."""
    updates: int | None
    traced_entries: int | None
    traced_exits: int | None


def hits_in_profile(text: str, probe: str = PROBE) -> int:
    """Return a probe's hits from kprobe_profile: lines of name, hits, misses.

    :raises ValueError: it is not in there, or was missed.
    """
    for line in text.splitlines():
        fields = line.split()
        if fields[:1] == [probe]:
            if len(fields) != 3 or int(fields[2]):
                raise ValueError(f"the probe missed calls: {line.strip()}")
            return int(fields[1])
    raise ValueError(f"no probe {probe} in kprobe_profile")


def hits_in_histogram(text: str) -> int:
    """Return the hits of a histogram trigger.

    :raises ValueError: there are none in it.
    """
    for line in text.splitlines():
        name, _, number = line.strip().partition(":")
        if name == "Hits":
            return int(number)
    raise ValueError("no hits in a histogram")


def _mount(kind: str, path: Path) -> None:
    if not os.path.ismount(path) and os.system(f"mount -t {kind} {kind} {path}"):
        raise SystemExit(f"this kernel has no {kind}: use another one")


@contextlib.contextmanager
def _update_probe() -> Iterator[None]:
    (TRACEFS / "kprobe_events").write_text(f"p:{PROBE} {FUNCTION}\n")
    event = TRACEFS / "events/kprobes" / PROBE / "enable"
    event.write_text("1")
    try:
        yield
    finally:
        event.write_text("0")
        (TRACEFS / "kprobe_events").write_text("")


@contextlib.contextmanager
def _module_updates() -> Iterator[None]:
    """Have the module make KVM's own update in place of KVM, or its own, and at each entry."""
    for name, value in (("method", "merged"), ("moment", "entry")):
        (MODULE / name).write_text(value)
    try:
        yield
    finally:
        for name, value in (("moment", "load"), ("method", "kvm")):
            (MODULE / name).write_text(value)


def _module_count() -> int:
    return int((MODULE / "updates").read_text())


@contextlib.contextmanager
def _histograms() -> Iterator[None]:
    triggers = [TRACEFS / "events/kvm" / name / "trigger" for name in ("kvm_entry", "kvm_exit")]
    for trigger in triggers:
        trigger.write_text("hist:keys=common_type")
    try:
        yield
    finally:
        for trigger in triggers:
            trigger.write_text("!hist:keys=common_type")


def _statistics() -> dict[str, int]:
    """Return KVM's statistics of all VMs, of which the measured one alone runs."""
    return {name: int((DEBUGFS / "kvm" / name).read_text()) for name in STATISTICS}


def _counters(updates: bool, traced: bool) -> tuple[dict[str, int], int, list[int]]:
    profile = hits_in_profile((TRACEFS / "kprobe_profile").read_text()) if updates else 0
    histograms = [
        hits_in_histogram((TRACEFS / "events/kvm" / name / "hist").read_text()) if traced else 0
        for name in ("kvm_entry", "kvm_exit")
    ]
    return _statistics(), profile, histograms


def _window(
    engine: KvmEngine, seconds: float, *, updates: bool = False, traced: bool = False, module: bool = False
) -> WindowCounts:
    """Let the paused guest run for a time, and count."""
    before, profile, traced_before = _counters(updates, traced)
    made = _module_count() if module else 0
    began = time.monotonic_ns()
    engine.resume()
    time.sleep(seconds)
    engine.pause()
    ended = time.monotonic_ns()
    after, profile_after, traced_after = _counters(updates, traced)
    entries, exits = (new - old for new, old in zip(traced_after, traced_before, strict=True))
    grown = {name: after[name] - before[name] for name in STATISTICS}
    return WindowCounts(
        duration_ns=ended - began,
        exits=grown["exits"],
        user_exits=grown["mmio_exit_user"] + grown["signal_exits"],
        updates=profile_after - profile if updates else _module_count() - made if module else None,
        traced_entries=entries if traced else None,
        traced_exits=exits if traced else None,
    )


def measure(setup: RateSetup) -> list[WindowCounts]:
    """Run the guest; return its three windows: with the probe, with tracepoints, and without both."""
    config = workload_guest(Workload(setup.workload), setup.vcpus)
    config = replace(config, placement=PlacementName(setup.placement))
    with machine_with_engine(KvmEngine, config) as made:
        _, engine = made
        engine.start()
        time.sleep(WARM_UP_S)
        engine.pause()
        if setup.at_entries:
            with _module_updates():
                return [_window(engine, setup.window_s, module=True)]
        with _update_probe():
            windows = [_window(engine, setup.window_s, updates=True)]
        with _histograms():
            windows.append(_window(engine, setup.window_s / CHECKS, traced=True))
        windows.append(_window(engine, setup.window_s / CHECKS))
        return windows


def main(arguments: list[str]) -> None:
    """Measure the setups that the arguments describe, in turn; a line of JSON for each."""
    _mount("tracefs", TRACEFS)
    _mount("debugfs", DEBUGFS)
    for argument in arguments:
        windows = measure(RateSetup.decode(argument))
        print(json.dumps([asdict(window) for window in windows]), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
