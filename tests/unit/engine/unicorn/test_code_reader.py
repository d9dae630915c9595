# SPDX-License-Identifier: GPL-2.0-or-later
"""A vCPU that waits for another one in a loop is known by the instructions there."""

from __future__ import annotations

import pytest

from framework.payload import Payload, boot
from pvtime.engine.unicorn.vcpu import UnicornVcpu

WFE, YIELD, NOP = 0xD503_205F, 0xD503_203F, 0xD503_201F


@pytest.mark.parametrize(("hint", "spins"), [(WFE, True), (YIELD, True), (NOP, False)])
def test_a_loop_with_a_wait_in_it_spins(hint: int, spins: bool) -> None:
    payload = Payload().mov(1, 1).keep(1, 0)
    for _ in range(16):
        payload.word(NOP)
    payload.label("wait").word(hint).b("wait")
    with boot(payload, "on") as guest:
        guest.engine.start()
        guest.until(lambda: guest.result(0))

        def vcpu() -> UnicornVcpu:
            return guest.engine.vm.vcpus[0]

        loads = guest.engine.call(lambda: vcpu().loads)
        guest.until(lambda: guest.engine.call(lambda: vcpu().loads > loads + 2))
        assert guest.engine.call(lambda: vcpu().spins) is spins
