# SPDX-License-Identifier: GPL-2.0-or-later
"""One vCPU's count of stolen time, by the rules of Linux' arch/arm64/kvm/pvtime.c."""

from __future__ import annotations

from dataclasses import dataclass

from pvtime.abi.registration import RegisterResult, Registration
from pvtime.errors import GuestMemoryError
from pvtime.steal.placement import Placement
from pvtime.steal.registered import Registered

__all__ = ["Account", "AccountState"]

_U64 = (1 << 64) - 1


@dataclass(frozen=True)
class AccountState:
    """What of an account is in no guest's memory. Times in ns."""

    truth_ns: int
    injected_ns: int
    enabled: bool
    registration: int
    """Where the guest has its structure (:class:`Registration`); 0 for the other placements."""
    kept_ns: int
    """The count where the guest's memory for it has gone."""
    fault: str | None


class Account:
    """Brings a vCPU's run_delay into its structure.

    The structure holds the only copy of the count: each update reads it, adds what is new and writes it
    back. So whoever writes the structure while the vCPU is stopped (a restore, a VMM that injects steal)
    is heard, and a guest that overwrites it deceives nobody but itself: :meth:`truth` does not read it.

    :param placement: where the structure is; None: this vCPU has none.
    """

    def __init__(self, placement: Placement | None) -> None:
        self._placement = placement
        self._last = 0
        self._baseline = 0
        self._kept = 0, 0
        """Truth and count when counting stopped, in ns."""
        self.enabled = False
        self.injected_ns = 0
        """How much of :meth:`truth` was stolen on purpose."""
        self.fault: str | None = None
        """Why counting stopped, or stands still, without the guest having asked for it."""

    # What the guest asks for

    @property
    def available(self) -> bool:
        """The vCPU has a structure that is not the guest's own: what PV_TIME_FEATURES(PV_TIME_ST) asks."""
        return self._placement is not None and self.registered is None

    @property
    def registered(self) -> Registered | None:
        """The structure where the guest provides it; None in the other placements."""
        return self._placement if isinstance(self._placement, Registered) else None

    @property
    def ipa(self) -> int | None:
        """Where the guest finds the structure; None: there is none now."""
        return None if self._placement is None else self._placement.ipa

    @property
    def counting(self) -> bool:
        """There is a structure to count in."""
        return self.ipa is not None

    def enable(self, run_delay: int) -> int | None:
        """PV_TIME_ST: start counting from zero and return the structure's IPA; None without a structure.

        Each call starts again (kvm_init_stolen_time): CPU hotplug and kexec come through here.
        """
        if self._placement is None or self.ipa is None:
            return None
        self._last = self._baseline = run_delay
        self.injected_ns = 0
        self.enabled = True
        self.fault = None
        try:
            self._placement.reset()
        except GuestMemoryError as error:
            self._fail(error)
        return self.ipa

    def register(self, run_delay: int, registration: Registration) -> RegisterResult:
        """Take the address that the guest gives, or with a clear enable bit leave its memory alone."""
        if (registered := self.registered) is None:
            return RegisterResult.NOT_SUPPORTED
        if not registration.enable:
            self.update(run_delay)
            self._stop(run_delay)
            return RegisterResult.SUCCESS
        result = registered.check(registration)
        if result is RegisterResult.SUCCESS:
            registered.give(registration)
            self.enable(run_delay)
        return result

    def power_off(self, run_delay: int) -> None:
        """CPU_OFF: a structure in the guest's own memory is given up with it."""
        if self.registered is not None:
            self.register(run_delay, Registration(0))

    # What the host does

    def load(self, run_delay: int) -> None:
        """The vCPU is loaded: bring its structure up to date before the guest runs."""
        if self.registered is not None:
            self.registered.run()
        self.update(run_delay)

    def update(self, run_delay: int) -> None:
        """Bring the structure up to date (kvm_update_stolen_time): at each load, and when somebody looks.

        As on KVM this does not wait for the guest to enable anything, and what could not be written,
        because the VMM has taken the memory away, is made up for when it is back.
        """
        delta = run_delay - self._last
        if self._placement is None or self.ipa is None or not delta:
            return
        try:
            self._placement.store((self._placement.load() + delta) & _U64)
        except GuestMemoryError as error:
            self._fail(error)
        else:
            self._last = run_delay
            self.fault = None

    def preempt(self) -> None:
        """The vCPU is kept from running: what a guest that provides the memory is told of it."""
        if self.registered is not None and self.counting:
            try:
                self.registered.preempt()
            except GuestMemoryError as error:
                self._fail(error)

    def inject(self, ns: int) -> None:
        """Note that ``ns`` of the run_delay were stolen on purpose."""
        if self.counting:
            self.injected_ns += ns

    def truth(self, run_delay: int) -> int:
        """Return what was stolen, in ns, since the last :meth:`enable`; before the first: since the start."""
        return run_delay - self._baseline if self.counting else self._kept[0]

    def structure(self) -> int:
        """Return the count, in ns, as the guest would read it; 0 without a structure."""
        if self._placement is None or self.ipa is None:
            return self._kept[1]
        try:
            return self._placement.load()
        except GuestMemoryError:
            return self._last - self._baseline

    def reset(self, run_delay: int) -> None:
        """The machine starts anew: an empty structure that the guest has not asked for."""
        if self.registered is not None:
            self.registered.disable()
        self.enable(run_delay)
        self.enabled = False
        self.injected_ns = 0
        self.fault = None
        self._kept = 0, 0

    # A saved machine

    def state(self, run_delay: int) -> AccountState:
        """Return what a saved machine must hold beside its memory; at a moment at which nothing runs."""
        self.update(run_delay)
        return AccountState(
            truth_ns=self.truth(run_delay),
            injected_ns=self.injected_ns,
            enabled=self.enabled,
            registration=int(self.registered.registration) if self.registered is not None else 0,
            kept_ns=self._kept[1],
            fault=self.fault,
        )

    def restore(self, state: AccountState, run_delay: int) -> None:
        """Go on from a saved state: what is stolen from here on is added to the count in the guest's memory.

        :raises GuestMemoryError: the guest's address is no longer good for a structure.
        """
        self._last = run_delay
        self._baseline = run_delay - state.truth_ns
        self._kept = state.truth_ns, state.kept_ns
        self.injected_ns, self.enabled, self.fault = state.injected_ns, state.enabled, state.fault
        if self.registered is not None and state.registration:
            if self.registered.check(Registration(state.registration)) is not RegisterResult.SUCCESS:
                raise GuestMemoryError(f"stolen time of a vCPU cannot be at {state.registration & ~1:#x}")
            self.registered.give(Registration(state.registration))

    def _fail(self, error: GuestMemoryError) -> None:
        """The structure cannot be written. What the guest gave it has lost; other memory may come back."""
        self.fault = f"the structure at {self.ipa or 0:#x} cannot be written: {error}"
        if self.registered is not None:
            self._stop(self._last)

    def _stop(self, run_delay: int) -> None:
        """Count no further; the count is kept."""
        if self.registered is not None and self.counting:
            truth = run_delay - self._baseline
            self._kept = truth, self._last - self._baseline if self.fault else self.structure()
            self.registered.disable()
            self.enabled = False
