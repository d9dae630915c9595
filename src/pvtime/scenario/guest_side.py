# SPDX-License-Identifier: GPL-2.0-or-later
"""The guest's side of a placement: the calls that a kernel or firmware makes to have stolen time."""

from __future__ import annotations

from dataclasses import dataclass

from pvtime.abi.pvtime import STRUCTURE_STRIDE, PvTime, StolenTime
from pvtime.abi.registration import KvmStealTime, RegisterCall, RegisterResult, Registration
from pvtime.probe.mailbox_client import ProbeError
from pvtime.probe.probe import Probe
from pvtime.steal.placement import PlacementName

__all__ = ["GuestSide", "signed"]

_ENABLE = 1


def signed(value: int) -> int:
    """Return the value of a 64-bit register as a signed number."""
    return value - (1 << 64) if value >> 63 else value


@dataclass(frozen=True)
class GuestSide:
    """A kernel or firmware, and the calls that it makes.

    :param base: address of its memory for the vCPUs' structures, used where the guest provides it.
    """

    placement: PlacementName
    base: int

    @property
    def guest_provides(self) -> bool:
        """Whether the guest provides the memory."""
        return self.placement is PlacementName.GUEST

    @property
    def call(self) -> str:
        """Name of the call that enables stolen time."""
        return "SET" if self.guest_provides else "PV_TIME_ST"

    def area_of(self, vcpu: int) -> int:
        """Return the address of a vCPU's structure in the guest's own memory."""
        return self.base + vcpu * STRUCTURE_STRIDE

    def request(self, probe: Probe, vcpu: int) -> int:
        """Request stolen time; return the answer: an address, 0, or a negative error."""
        if self.guest_provides:
            return self.set(probe, vcpu, self.area_of(vcpu) | _ENABLE)
        return signed(probe.call(vcpu, PvTime.ST)[0])

    def enable(self, probe: Probe, vcpu: int) -> int:
        """Request stolen time; return the address of the structure.

        :raises ProbeError: the request is refused.
        """
        answer = self.request(probe, vcpu)
        if answer < 0:
            raise ProbeError(f"vCPU {vcpu}: {self.call} answers {answer}")
        return self.area_of(vcpu) if self.guest_provides else answer

    def set(self, probe: Probe, vcpu: int, value: int) -> int:
        """Make the call SET, which only the placement guest has; return its answer."""
        return signed(probe.call(vcpu, RegisterCall.SET, value)[0])

    def disable(self, probe: Probe, vcpu: int) -> int:
        """Have the hypervisor stop writing; return the answer."""
        return self.set(probe, vcpu, 0)

    def registered(self, probe: Probe, vcpu: int) -> Registration | None:
        """Return the registered address of a vCPU; None where the placement has no call GET."""
        answer = probe.call(vcpu, RegisterCall.GET)[0]
        return None if signed(answer) == RegisterResult.NOT_SUPPORTED else Registration(answer)

    def count(self, probe: Probe, vcpu: int, structure: int) -> int:
        """Return the count that the guest reads in a structure, in ns."""
        return probe.load(vcpu, self.count_address(structure))

    def count_address(self, structure: int) -> int:
        """Return the address of the count in a structure."""
        offset = KvmStealTime.steal.offset if self.guest_provides else StolenTime.stolen_time.offset
        return structure + offset
