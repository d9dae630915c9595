# SPDX-License-Identifier: GPL-2.0-or-later
"""The state of a machine on the embedded engine: vCPUs, interrupt controller, stolen time."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

from pvtime.engine.unicorn.registers import CpuRegisters
from pvtime.engine.unicorn.unicorn_vm import UnicornVm
from pvtime.engine.unicorn.vcpu import SchedState, UnicornVcpu
from pvtime.errors import EngineError, GuestMemoryError, SavedStateError
from pvtime.machine.gicv2 import GicV2, GicV2State
from pvtime.machine.gicv3 import GicV3State
from pvtime.machine.layout import MAX_VCPUS
from pvtime.machine.timer import MAX_HZ, MIN_HZ, TimerState
from pvtime.records import dataclass
from pvtime.schema import U64, length, matching, within
from pvtime.steal.account import AccountState
from pvtime.steal.live_physical_time import LptState, rebase
from pvtime.steal.placement import MAX_PLACEMENT_STATE
from pvtime.steal.run_delay import RunDelay

__all__ = ["UnicornState", "refuse_unsavable", "restore_engine", "save_engine"]

_NOT_SAVED = "max"
"""Nothing public gives this model's SVE registers."""


@dataclass(frozen=True)
class UnicornVcpuState:
    """One vCPU. Times in ns."""

    power: SchedState
    cpu: CpuRegisters | None
    """None where it is switched off."""
    timer: TimerState
    account: AccountState
    ran_ns: U64
    stolen_ns: U64
    idle_ns: U64
    stopped_ns: U64
    host_ns: U64
    loads: U64


@dataclass(frozen=True)
class UnicornState:
    """Everything but the memory and the devices of the machine."""

    model: Annotated[str, matching("[!-~]{1,64}", "the name of a CPU model")]
    counter: U64
    """The guest's CNTVCT_EL0 and CNTPCT_EL0, in ticks."""
    frequency: Annotated[int, within(MIN_HZ, MAX_HZ)]
    """CNTFRQ_EL0 of the host, in Hz."""
    lpt: LptState | None
    """Live Physical Time; None: the machine has none."""
    gicv2: GicV2State | None
    gicv3: GicV3State | None
    """The interrupt controller is one of the two."""
    vcpus: Annotated[list[UnicornVcpuState], length(1, MAX_VCPUS)]
    placement: Annotated[bytes, length(0, MAX_PLACEMENT_STATE)] | None
    """The state of the machine's placement (:meth:`Placement.state`)."""


def refuse_unsavable(vm: UnicornVm) -> None:
    """Check that the CPU model and the devices can be saved.

    :raises EngineError: they cannot.
    """
    vm.machine.refuse_unsavable()
    if vm.core.model == _NOT_SAVED:
        raise EngineError(
            f"a machine with CPU model {_NOT_SAVED} cannot be saved: its SVE registers cannot be read"
        )


def save_engine(vm: UnicornVm) -> UnicornState:
    """Return the state of a machine whose vCPUs are all off the CPU.

    :raises EngineError: this CPU model, or what a vCPU is doing, cannot be saved.
    """
    refuse_unsavable(vm)
    now = vm.counter.host()
    # The vCPUs come first: they bring the structures up to date.
    vcpus = [_save_vcpu(vm, vcpu, now) for vcpu in vm.vcpus]
    placement = vm.machine.placement.state()
    lpt = vm.machine.lpt
    return UnicornState(
        model=vm.core.model,
        counter=vm.counter.at(now),
        frequency=vm.counter.rate.hz,
        lpt=None if lpt is None else lpt.state(),
        gicv2=vm.gic.state() if isinstance(vm.gic, GicV2) else None,
        gicv3=None if isinstance(vm.gic, GicV2) else vm.gic.state(),
        vcpus=vcpus,
        placement=placement,
    )


def restore_engine(vm: UnicornVm, state: UnicornState) -> None:
    """Resume from ``state``; the guest's memory has been filled, and what drives wires restored.

    :raises SavedStateError: it is not the state of such a machine; nothing may run then.
    """
    _check(vm, state)
    now = vm.counter.host()
    counter = _rebase(vm, state, state.counter)
    vm.counter.go_on(counter, now)
    vm.core.contexts.move_counter(vm.counter.offset)
    if state.placement is not None:
        vm.machine.placement.restore(state.placement)
    for vcpu, saved in zip(vm.vcpus, state.vcpus, strict=True):
        # The compare value, seen from the counter; both may be of another frequency here.
        remaining = _rebase(vm, state, state.counter + saved.timer.remaining) - counter
        _restore_vcpu(vm, vcpu, replace(saved, timer=replace(saved.timer, remaining=remaining)), now)
    _restore_lpt(vm, state)
    _restore_gic(vm, state)
    for vcpu, saved in zip(vm.vcpus, state.vcpus, strict=True):
        vcpu.state = saved.power
        if vcpu.state is SchedState.IDLE and vcpu.irq:
            vcpu.state = SchedState.RUNNABLE
    vm.core.address_space.forget_code()


def _rebase(vm: UnicornVm, state: UnicornState, ticks: int) -> int:
    """Return ticks of the saved machine's counter as ticks of this host's.

    They are the same, as the guest's registers are, unless it keeps time by Live Physical Time.
    """
    lpt, hz = vm.machine.lpt, vm.counter.rate.hz
    if lpt is None or state.lpt is None or not state.lpt.asked or state.frequency == hz:
        return ticks
    return rebase(ticks, lpt.pv_hz, state.frequency, hz)


def _restore_lpt(vm: UnicornVm, state: UnicornState) -> None:
    """Begin a run; a machine that was saved without Live Physical Time can be given it."""
    if (lpt := vm.machine.lpt) is None:
        return
    if state.lpt is not None:
        try:
            lpt.restore(state.lpt)
        except GuestMemoryError as error:
            raise SavedStateError(f"lpt: {error}") from error
    lpt.begin_run(vm.counter.rate.hz)


def _restore_gic(vm: UnicornVm, state: UnicornState) -> None:
    if isinstance(vm.gic, GicV2):
        if state.gicv2 is None or state.gicv3 is not None:
            raise SavedStateError("gicv2: this machine has a GICv2, and no other")
        vm.gic.restore(state.gicv2)
    else:
        if state.gicv3 is None or state.gicv2 is not None:
            raise SavedStateError("gicv3: this machine has a GICv3, and no other")
        vm.gic.restore(state.gicv3)


def _save_vcpu(vm: UnicornVm, vcpu: UnicornVcpu, now: int) -> UnicornVcpuState:
    off = vcpu.state is SchedState.OFF
    if not off and vcpu.context is None:
        vcpu.context = vm.core.contexts.new(vm.machine.mpidrs[vcpu.index], *vcpu.entry)
    return UnicornVcpuState(
        power=vcpu.state,
        cpu=None if off else vm.core.contexts.read(vcpu.context),
        timer=vcpu.timer.state(now),
        account=vcpu.account.state(vcpu.run_delay.read(0)),
        ran_ns=vcpu.ran_ns,
        stolen_ns=vcpu.run_delay.read(0),
        idle_ns=vcpu.idle_ns,
        stopped_ns=vcpu.stopped_ns,
        host_ns=vcpu.host_ns,
        loads=vcpu.loads,
    )


def _restore_vcpu(vm: UnicornVm, vcpu: UnicornVcpu, saved: UnicornVcpuState, now: int) -> None:
    if saved.cpu is not None:
        vcpu.context = vm.core.contexts.make(vm.machine.mpidrs[vcpu.index], saved.cpu)
    vcpu.timer.restore(saved.timer, now)
    vcpu.run_delay = RunDelay(saved.stolen_ns)
    try:
        vcpu.account.restore(saved.account, vcpu.run_delay.read(0))
    except GuestMemoryError as error:
        raise SavedStateError(str(error)) from error
    vcpu.ran_ns, vcpu.idle_ns, vcpu.loads = saved.ran_ns, saved.idle_ns, saved.loads
    vcpu.stopped_ns, vcpu.host_ns = saved.stopped_ns, saved.host_ns


def _check(vm: UnicornVm, state: UnicornState) -> None:
    if state.model == _NOT_SAVED:
        raise SavedStateError(
            f"model: a machine with CPU model {_NOT_SAVED} cannot be saved: the state is not pvtime's"
        )
    if state.model != vm.core.model:
        raise SavedStateError(
            f"model: the saved CPU is a {state.model!r}, this machine's a {vm.core.model!r}"
        )
    if len(state.vcpus) != len(vm.vcpus):
        raise SavedStateError(f"vcpus: {len(state.vcpus)} vCPUs are saved, this machine has {len(vm.vcpus)}")
    if (state.placement is None) != (vm.machine.placement.state() is None):
        raise SavedStateError("placement: the saved machine has another placement of its stolen time")
    if state.lpt is not None and vm.machine.lpt is None:
        raise SavedStateError("lpt: the saved machine has Live Physical Time, this one has not")
    for index, vcpu in enumerate(state.vcpus):
        if (vcpu.cpu is None) != (vcpu.power is SchedState.OFF):
            registers = "no registers" if vcpu.cpu is None else "registers"
            raise SavedStateError(
                f"cpu of vCPU {index}: it is {vcpu.power.value} (power) and has {registers}"
            )
        if vcpu.cpu is not None:
            vcpu.cpu.check(index)
