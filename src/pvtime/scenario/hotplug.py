# SPDX-License-Identifier: GPL-2.0-or-later
"""hotplug: a vCPU goes off, comes back and requests stolen time again."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from pvtime.abi.pvtime import STRUCTURE_STRIDE
from pvtime.errors import EngineError
from pvtime.images.cache import FetchProgress
from pvtime.machine.layout import RAM_BASE
from pvtime.scenario.env import ScenarioEnv, await_loads, await_stolen, count_text, fate_of_count, re_enable
from pvtime.scenario.events import Event, Finding, Step
from pvtime.scenario.model import Scenario
from pvtime.steal.placement import PlacementName
from pvtime.userland.protocol import Ready

if TYPE_CHECKING:
    from pvtime.scenario.linux_guest import LinuxGuest

__all__ = ["SCENARIO"]

MEMORY: Final = RAM_BASE + (16 << 20)
LOADS: Final = 10
U64: Final = 1 << 64
YEAR_NS: Final = 365.25 * 86400 * 1e9
PREVIOUS_NS: Final = 200_000_000
"""Least reading that the guest keeps: most hosts steal less between a request and the next reading."""
REQUESTS: Final = 20
"""At most: a busier host steals more than the previous count before the new one is read."""
CPU: Final = 1
"""Linux' CPU that goes offline."""
LINUX_STOLEN_NS: Final = 300_000_000
"""Stolen from each of Linux' CPUs before: 30 ticks of /proc/stat."""


def events(env: ScenarioEnv) -> Iterator[Event]:
    """Switch vCPU 1 off and on; vCPUs 0 and 2 keep running."""
    kernel = env.guest_side(MEMORY)
    with env.boot(3) as probe:
        structures = [kernel.enable(probe, index) for index in range(3)]
        await_stolen(probe, 0, 1, ns=PREVIOUS_NS)
        previous = kernel.count(probe, 1, structures[1])
        yield Step(
            f"vCPU 1's structure is at {structures[1]:#x}; the guest reads {previous} ns there and "
            "remembers it."
        )
        probe.stop_vcpu(1)
        gone = probe.engine.sample()[1]
        ram_before = probe.machine.memory.read(kernel.area_of(1), STRUCTURE_STRIDE)
        probe.start_vcpu(1)
        back = await_loads(probe, 1, LOADS)[1]
        yield Step(
            f"After CPU_OFF the count is {count_text(gone)}. After CPU_ON and {LOADS} loads, without another "
            f"request, it is {count_text(back)}."
        )
        if not back.enabled:
            alone = probe.machine.memory.read(kernel.area_of(1), STRUCTURE_STRIDE) == ram_before
            meanwhile = "disabled, its memory left alone" if alone else "disabled, and written"
        else:
            meanwhile = "continues" if back.count_ns >= gone.count_ns else "runs backwards"
        yield env.finding(
            "the count after CPU_ON", meanwhile, "continues", guest="disabled, its memory left alone"
        )
        for index in (0, 2):
            probe.rest(index)
        for _ in range(REQUESTS):
            _, after, observed = re_enable(probe, 1, lambda: kernel.enable(probe, 1))
            clock = kernel.count(probe, 1, structures[1])
            if clock < previous:
                break
        yield env.finding("the count after a new request", observed, "starts from zero")
        elapsed = (clock - previous) % U64
        yield Step(
            f"After another {kernel.call} the count is {count_text(after)}. A guest that remembers its "
            f"previous reading computes {clock} - {previous}, which in 64 bits is {elapsed} ns, or "
            f"{elapsed / YEAR_NS:.0f} years."
        )
        observed = "underflows" if elapsed > clock else "does not underflow"
        yield env.finding("clock - previous, with previous kept", observed, "underflows")
        others = [sample for sample in probe.engine.sample() if sample.index != 1]
        same = all(sample.truth_ns == sample.structure_ns and sample.enabled for sample in others)
        yield env.finding("the other vCPUs", "exact to the ns" if same else "disturbed", "exact to the ns")


def real(progress: FetchProgress, placement: PlacementName) -> Iterator[Event]:
    """Take CPU 1 of Debian's kernel offline and bring it back; see :attr:`Scenario.real`."""
    from pvtime.scenario.linux_guest import stock_linux  # needs Unicorn

    with stock_linux(progress, placement, 2) as guest:
        release = guest.wait_for(Ready, "userland").release
        for _ in range(REQUESTS):  # it does not run backwards where as much is stolen until it is read
            guest.command("busy", 2)
            guest.until(
                lambda now: all(sample.truth_ns > LINUX_STOLEN_NS for sample in now),
                "stolen time of busy vCPUs",
            )
            stat_before, before = _steal(guest), guest.engine.sample()[CPU]
            guest.command("offline", CPU)
            guest.command("online", CPU)
            now = guest.engine.sample()[CPU]
            stat = _steal(guest)
            if stat < stat_before:
                break
        yield Step(
            f"Linux {release} is busy on both CPUs. {_ms(before.truth_ns)} have been stolen from "
            f"CPU {CPU}; /proc/stat says {_ms(stat_before)}."
        )
        yield Step(
            f"CPU {CPU} goes offline and online: its count is {_ms(now.count_ns)}, /proc/stat says "
            f"{_ms(stat)}."
        )
        observed = fate_of_count(before, now) if now.enabled else "continues"
        yield Finding("the count after a new request", observed, "starts from zero")
        observed = "runs backwards" if stat < stat_before else "does not run backwards"
        yield Step(
            f"Linux (steal_account_process_time) adds clock - previous, which underflows, to a sum that "
            f"wraps: {_ms(stat_before)} before, {_ms(stat)} after."
        )
        yield Finding("steal in /proc/stat", observed, "runs backwards")


def _steal(guest: LinuxGuest) -> int:
    steal = guest.steal_of(CPU)
    if steal is None:
        raise EngineError(f"CPU {CPU} is not online")
    return steal


def _ms(ns: int) -> str:
    return f"{ns / 1e6:.3f} ms"


SCENARIO: Final = Scenario(
    "hotplug", "a vCPU goes off, comes back and asks for stolen time again", events, real=real
)
