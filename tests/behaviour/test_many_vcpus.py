# SPDX-License-Identifier: GPL-2.0-or-later
"""More vCPUs than a GICv2 has."""

from __future__ import annotations

from framework.engines import Choice
from pvtime.abi.pvtime import STRUCTURE_STRIDE, PvTime
from pvtime.machine.layout import STOLEN_TIME
from pvtime.probe.guest import boot, guest
from pvtime.probe.mailbox import MAX_PROBES

STARTED = (1, 15, 16, 33, 63)
"""In each of the four clusters; all of them take 20 s on an emulated host."""


def test_a_machine_has_64_vcpus_and_the_structure_of_each_has_the_truth(engine: Choice) -> None:
    with boot(engine.build, guest(MAX_PROBES)) as probe:
        for index in STARTED:
            probe.start_vcpu(index)
            assert probe.call(index, PvTime.ST)[0] == STOLEN_TIME.base + STRUCTURE_STRIDE * index
            if index != STARTED[-1]:
                probe.stop_vcpu(index)  # one that polls is busy
        samples = probe.engine.sample()
    assert len(samples) == MAX_PROBES
    assert samples[-1].enabled
    assert all(sample.truth_ns == sample.structure_ns for sample in samples)
