# SPDX-License-Identifier: GPL-2.0-or-later
"""Power control of vCPUs that are not there."""

from __future__ import annotations

__all__ = ["FakePower"]


class FakePower:
    """Notes what PSCI asks for. Only vCPU 0 is on at the start."""

    def __init__(self, vcpus: int) -> None:
        self.on = [index == 0 for index in range(vcpus)]
        self.asked: list[tuple[object, ...]] = []

    def is_on(self, index: int) -> bool:
        """See :meth:`pvtime.machine.psci.Power.is_on`."""
        return self.on[index]

    def power_on(self, index: int, entry: int, context: int) -> None:
        """See :meth:`pvtime.machine.psci.Power.power_on`."""
        self.on[index] = True
        self.asked.append(("on", index, entry, context))

    def power_off(self, index: int) -> None:
        """See :meth:`pvtime.machine.psci.Power.power_off`."""
        self.on[index] = False
        self.asked.append(("off", index))

    def suspend(self, index: int) -> None:
        """See :meth:`pvtime.machine.psci.Power.suspend`."""
        self.asked.append(("suspend", index))

    def system_off(self) -> None:
        """See :meth:`pvtime.machine.psci.Power.system_off`."""
        self.asked.append(("system off",))

    def system_reset(self) -> None:
        """See :meth:`pvtime.machine.psci.Power.system_reset`."""
        self.asked.append(("system reset",))
