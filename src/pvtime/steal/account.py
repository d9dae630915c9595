# SPDX-License-Identifier: GPL-2.0-or-later
"""One vCPU's count of stolen time, by the rules of Linux' arch/arm64/kvm/pvtime.c."""

from __future__ import annotations

from enum import Enum
from typing import Annotated

from pvtime.abi.layout import U64_MAX
from pvtime.abi.registration import RegisterResult, Registration
from pvtime.errors import GuestMemoryError
from pvtime.records import dataclass
from pvtime.schema import U64, matching
from pvtime.steal.structure import Structure

__all__ = ["Account", "AccountState", "GuestUse"]


class GuestUse(Enum):
    """Whether the guest uses its stolen time."""

    ABSENT = "absent"
    """The vCPU has no structure, or none that the guest has registered."""
    OFFERED = "offered"
    """The vCPU has a structure, and the guest has not asked for it."""
    ENABLED = "enabled"
    """The guest has called PV_TIME_ST, or registered an address."""


@dataclass(frozen=True)
class AccountState:
    """The part of an account that is in no guest's memory. Times in ns."""

    truth_ns: U64
    injected_ns: U64
    use: GuestUse
    registration: U64
    """The address that the guest has registered (:class:`Registration`); 0: none."""
    starts: U64
    """Number of the guest's calls of PV_TIME_ST, or of its registrations of an address."""
    fault: Annotated[str, matching("[ -~]{0,200}", "a short text in ASCII")] | None


class Account:
    """Brings a vCPU's run_delay into its structure. Each ``run_delay`` is the vCPU's, now, in ns.

    The structure holds the only copy of the count: each update reads it, adds what is new and writes it
    back. So whoever writes the structure while the vCPU is stopped (a restore, a VMM that injects steal)
    is heard, and a guest that overwrites it deceives nobody but itself: :meth:`truth` does not read it.

    :param structure: None: this vCPU has none.
    """

    def __init__(self, structure: Structure | None) -> None:
        self._structure = structure
        self.use = GuestUse.ABSENT if structure is None or structure.ipa is None else GuestUse.OFFERED
        self._last_steal = 0
        self._baseline = 0
        self.injected_ns = 0
        """The part of :meth:`truth` that was stolen on purpose."""
        self.starts = 0
        """Number of counts that the guest has started."""
        self.fault: str | None = None
        """The reason why the last write of the structure failed; None: it did not."""

    # The kernel's two functions.

    def init_stolen_time(self, run_delay: int) -> int | None:
        """Start counting from zero and return the structure's IPA; None without a structure.

        kvm_init_stolen_time, for PV_TIME_ST: each call starts the count again, so CPU hotplug and kexec do.
        """
        if self._structure is None or (ipa := self._structure.ipa) is None:
            return None
        self.use = GuestUse.ENABLED
        self.starts += 1
        self._clear(run_delay)
        return ipa

    def update_stolen_time(self, run_delay: int) -> None:
        """Bring the structure up to date (kvm_update_stolen_time).

        As on KVM this does not wait for the guest to enable anything. A delta that could not be written,
        because the VMM has taken the memory away, is added when the memory is back.
        """
        delta = run_delay - self._last_steal
        if self._structure is None or self.use is GuestUse.ABSENT or not delta:
            return
        try:
            self._structure.store((self._structure.load() + delta) & U64_MAX)
        except GuestMemoryError as error:
            self._fail(error)
        else:
            self._last_steal = run_delay
            self.fault = None

    def vcpu_load(self, run_delay: int) -> None:
        """Bring the structure up to date before the guest runs."""
        if self._structure is not None:
            self._structure.on_load()
        self.update_stolen_time(run_delay)

    # What else happens to a vCPU.

    @property
    def ipa(self) -> int | None:
        """The address at which the guest finds the structure; None: it has none now."""
        return self._structure.ipa if self._structure is not None else None

    def offers(self, function: int) -> bool:
        """Return whether the guest of this vCPU is offered a service call about its structure."""
        return self._structure is not None and function in self._structure.calls

    @property
    def registration(self) -> Registration:
        """The address that the guest has registered; 0: none."""
        return self._structure.registration if self._structure is not None else Registration(0)

    def register(self, run_delay: int, registration: Registration) -> RegisterResult:
        """Use the address that the guest registers, or with a clear enable bit none any more."""
        if self._structure is None:
            return RegisterResult.NOT_SUPPORTED
        self.update_stolen_time(run_delay)
        result = self._structure.register(registration)
        if result is RegisterResult.SUCCESS and registration.enable:
            self.init_stolen_time(run_delay)
        self._note_absence()
        return result

    def preempt(self) -> None:
        """Note that the vCPU is kept from running."""
        if self._structure is not None:
            try:
                self._structure.on_preempt()
            except GuestMemoryError as error:
                self._fail(error)

    def power_off(self, run_delay: int) -> None:
        """Note that the vCPU is switched off."""
        if self._structure is not None:
            self.update_stolen_time(run_delay)
            self._structure.on_power_off()
            self._note_absence()

    def reset(self, run_delay: int) -> None:
        """Note that the machine starts again, with an empty structure that the guest has not asked for."""
        if self._structure is not None:
            self._structure.on_power_off()
        self.use = GuestUse.OFFERED
        self._clear(run_delay)
        self._note_absence()

    def inject(self, ns: int) -> None:
        """Note that ``ns`` of the run_delay were stolen on purpose."""
        self.injected_ns += ns

    # The figures.

    def truth(self, run_delay: int) -> int:
        """Return the time, in ns, that was stolen since the guest last started a count, or since the start.

        It is the host's figure: it goes on counting where the guest has no structure.
        """
        return run_delay - self._baseline

    def structure(self) -> int | None:
        """Return the count, in ns, as the guest reads it; None where nobody can read it in memory."""
        if self._structure is None or self.use is GuestUse.ABSENT:
            return None
        try:
            return self._structure.load()
        except GuestMemoryError:
            return None

    # A saved machine.

    def state(self, run_delay: int) -> AccountState:
        """Return what a saved machine must hold beside its memory, while nothing runs."""
        self.update_stolen_time(run_delay)
        return AccountState(
            truth_ns=self.truth(run_delay),
            injected_ns=self.injected_ns,
            use=self.use,
            registration=int(self.registration),
            starts=self.starts,
            fault=self.fault,
        )

    def restore(self, state: AccountState, run_delay: int) -> None:
        """Continue from a saved state: later steal is added to the count in the guest's memory.

        :raises GuestMemoryError: the registered address is no longer good for a structure.
        """
        self._last_steal = run_delay
        self._baseline = run_delay - state.truth_ns
        self.injected_ns, self.starts, self.fault = state.injected_ns, state.starts, state.fault
        if self._structure is not None and state.registration:
            result = self._structure.register(Registration(state.registration))
            if result is not RegisterResult.SUCCESS:
                raise GuestMemoryError(f"stolen time of a vCPU cannot be at {state.registration & ~1:#x}")
        self.use = state.use
        self._note_absence()

    def _clear(self, run_delay: int) -> None:
        """Count from zero, in a cleared structure."""
        self._last_steal = self._baseline = run_delay
        self.injected_ns = 0
        self.fault = None
        if self.ipa is not None and self._structure is not None:
            try:
                self._structure.clear()
            except GuestMemoryError as error:
                self._fail(error)

    def _fail(self, error: GuestMemoryError) -> None:
        self.fault = f"the structure at {self.ipa or 0:#x} cannot be written: {error}"
        if self._structure is not None:
            self._structure.on_fault()
        self._note_absence()

    def _note_absence(self) -> None:
        if self.ipa is None:
            self.use = GuestUse.ABSENT
