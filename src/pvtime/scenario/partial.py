# SPDX-License-Identifier: GPL-2.0-or-later
"""partial: one vCPU of two has no structure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from pvtime.abi.pvtime import PvTime
from pvtime.abi.smccc import NOT_SUPPORTED, SUCCESS, Smccc
from pvtime.images.cache import FetchProgress
from pvtime.machine.layout import RAM_BASE
from pvtime.scenario.env import ScenarioEnv, await_stolen, count_text
from pvtime.scenario.events import Event, Finding, Step
from pvtime.scenario.guest_side import signed
from pvtime.scenario.model import Scenario
from pvtime.steal.placement import PlacementName
from pvtime.userland.protocol import Ready

__all__ = ["SCENARIO"]

MEMORY: Final = RAM_BASE + (16 << 20)
WITHOUT: Final = 1


def events(env: ScenarioEnv) -> Iterator[Event]:
    """Give vCPU 1 no structure."""
    kernel = env.guest_side(MEMORY)
    with env.boot(no_pvtime=frozenset({WITHOUT})) as probe:
        for index in range(2):
            general = signed(probe.call(index, Smccc.ARCH_FEATURES, PvTime.FEATURES)[0])
            own = signed(probe.call(index, PvTime.FEATURES, PvTime.ST)[0])
            yield Step(
                f"vCPU {index}: ARCH_FEATURES(PV_TIME_FEATURES) answers {general}, "
                f"PV_TIME_FEATURES(PV_TIME_ST) {own}."
            )
            yield env.finding(
                f"PV_TIME_FEATURES on the vCPU with{'out' if index == WITHOUT else ''} a structure",
                {SUCCESS: "yes", NOT_SUPPORTED: "no"}.get(own, str(own)),
                "no" if index == WITHOUT else "yes",
                guest="no",
            )
        kernel.enable(probe, 0)
        answer = kernel.request(probe, WITHOUT)
        yield Step(f"vCPU {WITHOUT} requests stolen time all the same: {kernel.call} answers {answer}.")
        observed = "NOT_SUPPORTED" if answer == NOT_SUPPORTED else f"{answer:#x}"
        yield env.finding("a request by the vCPU without a structure", observed, "NOT_SUPPORTED")
        counting, without = await_stolen(probe, 0)
        yield Step(
            f"{counting.truth_ns} ns have been stolen from vCPU 0, and the count in its structure is "
            f"{count_text(counting)}. That of vCPU {WITHOUT} is {count_text(without)}."
        )
        observed = "counts" if counting.truth_ns == counting.structure_ns else "is disturbed"
        yield env.finding("the other vCPU", observed, "counts")


def real(progress: FetchProgress, placement: PlacementName) -> Iterator[Event]:
    """Boot Debian's kernel with two vCPUs, one without a structure; see :attr:`Scenario.real`."""
    from pvtime.scenario.linux_guest import stock_linux  # needs Unicorn

    with stock_linux(progress, placement, 2, no_pvtime=frozenset({WITHOUT})) as guest:
        release = guest.wait_for(Ready, "userland").release
        online = [cpu for cpu in range(2) if guest.steal_of(cpu) is not None]
        yield Step(f"Linux {release} is up. CPUs in its /proc/stat: {online}.")
        observed = "online" if WITHOUT in online else "not brought online"
        yield Finding("the CPU without a structure", observed, "not brought online")
        counts = [sample.enabled for sample in guest.engine.sample()]
        yield Step(f"vCPUs that have asked for stolen time: {[i for i, on in enumerate(counts) if on]}.")
        yield Finding("the other CPU", "has stolen time" if counts[0] else "has none", "has stolen time")


SCENARIO: Final = Scenario("partial", "one vCPU has no structure", events, real=real)
