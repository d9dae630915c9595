# SPDX-License-Identifier: GPL-2.0-or-later
"""The hypervisor calls of a guest: SMCCC, PV time and PSCI by HVC, answered as KVM does.

The reference is Linux' arch/arm64/kvm/hypercalls.c. Calls that say who the hypervisor is, and those that
need its entropy or its PTP clock, are KVM's own and get NOT_SUPPORTED here.
"""

from __future__ import annotations

from collections.abc import Sequence

from pvtime.abi.layout import U32_MAX
from pvtime.abi.pvtime import PvTime
from pvtime.abi.registration import LptCall, RegisterCall
from pvtime.abi.smccc import NOT_SUPPORTED, SUCCESS, VERSION_1_1, Smccc
from pvtime.machine.psci import PsciCalls
from pvtime.steal.account import Account
from pvtime.steal.live_physical_time import LivePhysicalTime
from pvtime.steal.service_calls import lpt_call, pv_time_features, pv_time_st, register_call

__all__ = ["hypercall"]


def hypercall(
    index: int,
    account: Account,
    run_delay: int,
    psci: PsciCalls,
    registers: Sequence[int],
    lpt: LivePhysicalTime | None = None,
) -> int:
    """Answer vCPU ``index``'s HVC.

    :param account: the calling vCPU's.
    :param run_delay: the calling vCPU's, now, in ns.
    :param registers: X0 to X3 as the guest left them.
    :param lpt: the machine's; None: it has none.
    :return: what X0 gets, signed; X1 to X3 get 0.
    """
    function = registers[0] & U32_MAX
    match function:
        case Smccc.VERSION:
            return VERSION_1_1
        case Smccc.ARCH_FEATURES:
            # KVM says yes here whether or not user space gave any vCPU a structure.
            return SUCCESS if registers[1] & U32_MAX == PvTime.FEATURES else NOT_SUPPORTED
        case PvTime.FEATURES:
            return pv_time_features(account, registers[1], lpt)
        case PvTime.ST:
            return pv_time_st(account, run_delay)
        case PvTime.LPT if lpt is not None:
            return lpt.pv_time_lpt()
    if function in frozenset(RegisterCall) and account.offers(function):
        return register_call(account, run_delay, function, registers[1], lpt)
    if lpt is not None and function in frozenset(LptCall):
        return lpt_call(lpt, function, registers[1])
    return psci.call(index, function, registers[1:4])
