# SPDX-License-Identifier: GPL-2.0-or-later
"""One vCPU's count of stolen time, by the rules of Linux' arch/arm64/kvm/pvtime.c."""

from __future__ import annotations

from pvtime.steal.placement import Placement

__all__ = ["Account"]

_U64 = (1 << 64) - 1


class Account:
    """Brings a vCPU's run_delay into its structure.

    The structure holds the only copy of the count: each update reads it, adds what is new and writes it
    back. So whoever writes the structure while the vCPU is stopped (a restore, a VMM that injects steal)
    is heard, and a guest that overwrites it deceives nobody but itself: :meth:`truth` does not read it.
    """

    def __init__(self, placement: Placement | None) -> None:
        self._placement = placement
        self._last = 0
        self._baseline = 0
        self.enabled = False

    @property
    def available(self) -> bool:
        """The vCPU has a structure: what PV_TIME_FEATURES(PV_TIME_ST) asks."""
        return self._placement is not None

    def enable(self, run_delay: int) -> int | None:
        """PV_TIME_ST: start counting from zero and return the structure's IPA; None without a structure.

        Each call starts again (kvm_init_stolen_time): CPU hotplug and kexec come through here.
        """
        if self._placement is None:
            return None
        self._placement.reset()
        self._last = self._baseline = run_delay
        self.enabled = True
        return self._placement.ipa

    def update(self, run_delay: int) -> None:
        """Bring the structure up to date (kvm_update_stolen_time): at each load, before the guest runs.

        As on KVM this does not wait for the guest to enable anything.
        """
        delta = run_delay - self._last
        if self._placement is None or not delta:
            return
        self._last = run_delay
        self._placement.store((self._placement.load() + delta) & _U64)

    def truth(self, run_delay: int) -> int:
        """Return what was stolen, in ns, since the last :meth:`enable`; before the first: since the start."""
        return run_delay - self._baseline if self._placement is not None else 0

    def structure(self) -> int:
        """Return ``stolen_time``, in ns, as the guest would read it; 0 without a structure."""
        return self._placement.load() if self._placement is not None else 0

    def reset(self, run_delay: int) -> None:
        """The machine starts anew: an empty structure that the guest has not asked for."""
        self.enable(run_delay)
        self.enabled = False
