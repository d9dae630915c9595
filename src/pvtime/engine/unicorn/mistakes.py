# SPDX-License-Identifier: GPL-2.0-or-later
"""Mistakes of stolen time, made on purpose (``--break``): each is one that a VMM has made or could make.

For those who write tests of stolen time, ``pvtime judge`` among them: a test that never saw a mistake proves
nothing. A machine that makes one says so wherever its engine is named.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from pvtime.abi.layout import U64_MAX
from pvtime.engine.base import BREAK
from pvtime.errors import UsageError
from pvtime.machine.layout import RAM_BASE
from pvtime.steal.account import Account, AccountState
from pvtime.steal.structure import StolenTimeStructure, Structure

__all__ = ["MISTAKES", "BrokenAccount", "account_maker", "broken_notice"]

IN_RAM: Final = RAM_BASE + (48 << 20)
USED_NS: Final = 5 * 10**9
FORGETS_EVERY: Final = 10


class BrokenAccount(Account):
    """An account with a mistake: the docstring's first line of a subclass describes it.

    :param accounts: those of the machine's vCPUs so far, to which it adds itself.
    """

    def __init__(self, structure: StolenTimeStructure, accounts: list[BrokenAccount]) -> None:
        super().__init__(structure)
        self.words = structure.words
        self._accounts = accounts
        self._index = len(accounts)
        accounts.append(self)

    def _counts_instead(self, grown: int) -> int:
        """Return what is added to the count, in ns, where the vCPU has waited for ``grown`` more."""
        return grown

    def update_stolen_time(self, run_delay: int) -> None:
        before = self.words[1]
        super().update_stolen_time(run_delay)
        grown = self.words[1] - before & U64_MAX
        self.words[1] = before + self._counts_instead(grown) & U64_MAX


class _OneStructure(BrokenAccount):
    """Give every vCPU the first one's structure, as kvmtool did before 6a1f699."""

    def init_stolen_time(self, run_delay: int) -> int | None:
        super().init_stolen_time(run_delay)
        return self._accounts[0].ipa


class _InRam(BrokenAccount):
    """Give an address in what the device tree calls RAM."""

    def init_stolen_time(self, run_delay: int) -> int | None:
        super().init_stolen_time(run_delay)
        return IN_RAM + 64 * self._index


class _Misaligned(BrokenAccount):
    """Give an address that is 8 bytes too high."""

    def init_stolen_time(self, run_delay: int) -> int | None:
        ipa = super().init_stolen_time(run_delay)
        return None if ipa is None else ipa + 8


class _NoAddress(BrokenAccount):
    """Announce stolen time, and give no address."""

    def init_stolen_time(self, run_delay: int) -> int | None:
        return None


class _NotFromZero(BrokenAccount):
    """Keep the count at PV_TIME_ST."""

    def init_stolen_time(self, run_delay: int) -> int | None:
        return self.ipa


class _Microseconds(BrokenAccount):
    """Count in us."""

    _rest = 0

    def _counts_instead(self, grown: int) -> int:
        whole, self._rest = divmod(self._rest + grown, 1000)
        return whole


class _NoUpdate(BrokenAccount):
    """Never write the count."""

    def update_stolen_time(self, run_delay: int) -> None:
        pass


class _Twice(BrokenAccount):
    """Count what another thread lost as well."""

    def _counts_instead(self, grown: int) -> int:
        return 2 * grown


class _Beyond(BrokenAccount):
    """Write a word behind the structure's 16 bytes."""

    def update_stolen_time(self, run_delay: int) -> None:
        super().update_stolen_time(run_delay)
        self.words[2] = run_delay


class _Backwards(BrokenAccount):
    """Forget the count at every tenth update."""

    _updates = 0

    def update_stolen_time(self, run_delay: int) -> None:
        super().update_stolen_time(run_delay)
        self._updates += 1
        if self._updates % FORGETS_EVERY == 0:
            self.words[1] = 0


class _AnotherVcpu(BrokenAccount):
    """Count what is stolen from the next vCPU."""

    _waited = _seen = 0
    """By this vCPU; and of that of the next one, what was counted."""

    def _of_next(self) -> int:
        """Return what is stolen from the next vCPU and was not counted, in ns."""
        following = self._accounts[(self._index + 1) % len(self._accounts)]
        assert isinstance(following, _AnotherVcpu)
        before, self._seen = self._seen, following._waited
        return self._seen - before

    def init_stolen_time(self, run_delay: int) -> int | None:
        self._of_next()
        return super().init_stolen_time(run_delay)

    def _counts_instead(self, grown: int) -> int:
        self._waited += grown
        return self._of_next()


class _NotSaved(BrokenAccount):
    """Restore a machine without the memory of its structures."""

    def restore(self, state: AccountState, run_delay: int) -> None:
        super().restore(state, run_delay)
        self.words[:] = memoryview(bytes(8 * len(self.words))).cast("Q")


class _UsedThread(BrokenAccount):
    """Count what the thread had waited, 5 s, before a machine was restored on it."""

    def restore(self, state: AccountState, run_delay: int) -> None:
        super().restore(state, run_delay)
        self._last_steal -= USED_NS


MISTAKES: Final[Mapping[str, type[BrokenAccount]]] = {
    "one-structure": _OneStructure,
    "in-ram": _InRam,
    "misaligned": _Misaligned,
    "no-address": _NoAddress,
    "not-from-zero": _NotFromZero,
    "microseconds": _Microseconds,
    "no-update": _NoUpdate,
    "twice": _Twice,
    "beyond": _Beyond,
    "backwards": _Backwards,
    "another-vcpu": _AnotherVcpu,
    "not-saved": _NotSaved,
    "used-thread": _UsedThread,
}


def account_maker(options: Mapping[str, str]) -> Callable[[Structure | None], Account]:
    """Return the class of a machine's accounts, or a function that makes broken ones.

    A vCPU without a structure has nothing to be wrong in.

    :raises UsageError: there is no such mistake. The function: the guest itself provides the structure.
    """
    name = options.get(BREAK)
    if name is None:
        return Account
    if name not in MISTAKES:
        raise UsageError(f"there is no mistake {name!r} to make: give one of {', '.join(MISTAKES)}")
    mistake, accounts = MISTAKES[name], list[BrokenAccount]()

    def make(structure: Structure | None) -> Account:
        if structure is None:
            return Account(None)
        if not isinstance(structure, StolenTimeStructure):
            raise UsageError("--break is for structures that the host provides: take another placement")
        return mistake(structure, accounts)

    return make


def broken_notice(name: str) -> str:
    """Return the sentence that a machine with a mistake must show."""
    return f"BROKEN ON PURPOSE (--break {name}): its stolen time is wrong"
