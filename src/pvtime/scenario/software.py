# SPDX-License-Identifier: GPL-2.0-or-later
"""Software in a guest that wants stolen time, a kernel or firmware: by the calls of its placement."""

from __future__ import annotations

from dataclasses import dataclass

from pvtime.abi.pvtime import STRUCTURE_STRIDE, PvTime, StolenTime
from pvtime.abi.registration import KvmStealTime, RegisterCall, RegisterResult, Registration
from pvtime.probe.post import ProbeError
from pvtime.probe.probe import Probe
from pvtime.steal.placement import PlacementName

__all__ = ["Software", "signed"]

_ENABLE = 1


def signed(value: int) -> int:
    """Return what a register of 64 bits holds as a signed number."""
    return value - (1 << 64) if value >> 63 else value


@dataclass(frozen=True)
class Software:
    """What it does on a vCPU.

    :param base: where it has memory for the vCPUs' structures, if it has to provide that.
    """

    placement: PlacementName
    base: int

    @property
    def gives(self) -> bool:
        """It provides the memory."""
        return self.placement is PlacementName.GUEST

    @property
    def call(self) -> str:
        """What it calls to have stolen time."""
        return "SET" if self.gives else "PV_TIME_ST"

    def own(self, vcpu: int) -> int:
        """Return the address that it would give for a vCPU."""
        return self.base + vcpu * STRUCTURE_STRIDE

    def ask(self, probe: Probe, vcpu: int) -> int:
        """Ask for stolen time; return the answer: an address, 0, or an error, below 0."""
        if self.gives:
            return self.set(probe, vcpu, self.own(vcpu) | _ENABLE)
        return signed(probe.call(vcpu, PvTime.ST)[0])

    def enable(self, probe: Probe, vcpu: int) -> int:
        """Ask for stolen time; return the address of the structure.

        :raises ProbeError: it is refused.
        """
        answer = self.ask(probe, vcpu)
        if answer < 0:
            raise ProbeError(f"vCPU {vcpu}: {self.call} answers {answer}")
        return self.own(vcpu) if self.gives else answer

    def set(self, probe: Probe, vcpu: int, value: int) -> int:
        """Make the placement guest's call SET, which the others do not have; return its answer."""
        return signed(probe.call(vcpu, RegisterCall.SET, value)[0])

    def disable(self, probe: Probe, vcpu: int) -> int:
        """Ask the hypervisor to leave the memory alone; return the answer."""
        return self.set(probe, vcpu, 0)

    def given(self, probe: Probe, vcpu: int) -> Registration | None:
        """Return what the hypervisor says that a vCPU has given; None where it has no such call."""
        answer = probe.call(vcpu, RegisterCall.GET)[0]
        return None if signed(answer) == RegisterResult.NOT_SUPPORTED else Registration(answer)

    def count(self, probe: Probe, vcpu: int, structure: int) -> int:
        """Return what the guest reads in a structure, in ns."""
        return probe.load(vcpu, self.count_address(structure))

    def count_address(self, structure: int) -> int:
        """Return where in a structure the count is."""
        offset = KvmStealTime.steal.offset if self.gives else StolenTime.stolen_time.offset
        return structure + offset
