# SPDX-License-Identifier: GPL-2.0-or-later
"""The PV-time service calls, answered as KVM does (arch/arm64/kvm/{hypercalls,pvtime}.c); and our own."""

from __future__ import annotations

from pvtime.abi.layout import U32_MAX
from pvtime.abi.pvtime import PvTime
from pvtime.abi.registration import LptCall, RegisterCall, Registration
from pvtime.abi.smccc import NOT_SUPPORTED, SUCCESS
from pvtime.steal.account import Account
from pvtime.steal.live_physical_time import LivePhysicalTime

__all__ = ["lpt_call", "pv_time_features", "pv_time_st", "register_call"]


def pv_time_features(account: Account, function: int, lpt: LivePhysicalTime | None = None) -> int:
    """PV_TIME_FEATURES: whether *this* vCPU offers ``function``, whose upper half is ignored.

    :param lpt: the machine's; None: it has none.
    """
    if lpt is not None and lpt.offers(function & U32_MAX):
        return SUCCESS
    pv_time = function & U32_MAX in (PvTime.FEATURES, PvTime.ST)
    return SUCCESS if pv_time and account.offers(function & U32_MAX) else NOT_SUPPORTED


def pv_time_st(account: Account, run_delay: int) -> int:
    """PV_TIME_ST: the IPA of the calling vCPU's structure, whose count starts again."""
    ipa = account.init_stolen_time(run_delay) if account.offers(PvTime.ST) else None
    return NOT_SUPPORTED if ipa is None else ipa


def lpt_call(lpt: LivePhysicalTime, function: int, argument: int) -> int:
    """The calls of the placement ``guest`` for Live Physical Time (:class:`LptCall`)."""
    if not lpt.guest_provides:
        return NOT_SUPPORTED
    if function == LptCall.SET:
        return lpt.register(Registration(argument))
    return int(lpt.registration)


def register_call(
    account: Account, run_delay: int, function: int, argument: int, lpt: LivePhysicalTime | None = None
) -> int:
    """The calls of the placement ``guest`` (:class:`RegisterCall`).

    :param lpt: the machine's; None: it has none.
    """
    if not account.offers(function):
        return NOT_SUPPORTED
    match function:
        case RegisterCall.SET:
            return account.register(run_delay, Registration(argument))
        case RegisterCall.GET:
            return int(account.registration)
    if lpt is not None and lpt.guest_provides and argument & U32_MAX in frozenset(LptCall):
        return SUCCESS
    return SUCCESS if account.offers(argument & U32_MAX) else NOT_SUPPORTED
