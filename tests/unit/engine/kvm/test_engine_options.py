# SPDX-License-Identifier: GPL-2.0-or-later
"""Options of the kvm engine: what it refuses, before it looks for /dev/kvm."""

from __future__ import annotations

import pytest

from pvtime.engine.kvm.engine import KvmEngine
from pvtime.errors import UsageError
from pvtime.machine.machine import Machine
from pvtime.probe.guest import guest, machine_with_engine


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"internals": "on"}, "'internals': the kvm engine has only pv-time"),
        ({"pv-time": "off"}, "pv-time=off: choose offered or hidden"),
    ],
)
def test_what_it_does_not_know_is_refused(options: dict[str, str], words: str) -> None:
    def build(machine: Machine) -> KvmEngine:
        return KvmEngine(machine, options)

    with pytest.raises(UsageError, match=words), machine_with_engine(build, guest()):
        pass
