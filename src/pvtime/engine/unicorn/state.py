# SPDX-License-Identifier: GPL-2.0-or-later
"""Saving and restoring what the engine has of a machine: vCPUs, interrupt controller, stolen time."""

from __future__ import annotations

from dataclasses import dataclass

from pvtime.abi.layout import U64_MAX
from pvtime.engine.unicorn.parts import Parts
from pvtime.engine.unicorn.registers import CpuState
from pvtime.engine.unicorn.vcpu import State, Vcpu
from pvtime.errors import EngineError, GuestMemoryError, SavedStateError
from pvtime.machine.gicv2 import GicV2State
from pvtime.machine.timer import TimerState, counter
from pvtime.steal.account import AccountState, GuestUse

__all__ = ["EngineState", "Keeper"]

_NOT_SAVED = "max"
"""Nothing public gives this model's SVE registers."""


@dataclass(frozen=True)
class VcpuState:
    """One vCPU. Times in ns."""

    power: str
    """:class:`State`."""
    cpu: CpuState | None
    """None where it is switched off."""
    timer: TimerState
    account: AccountState
    ran_ns: int
    loads: int


@dataclass(frozen=True)
class EngineState:
    """Everything but the memory and the devices of the machine."""

    model: str
    counter: int
    """The guest's CNTVCT_EL0 and CNTPCT_EL0, in ticks."""
    gic: GicV2State
    vcpus: list[VcpuState]
    placement: bytes | None
    """The state of the machine's placement (:meth:`Placement.state`)."""


class Keeper:
    """Takes and restores the state of an engine whose vCPUs are all off the CPU."""

    def __init__(self, parts: Parts) -> None:
        self._core = parts.core
        self._gic = parts.gic
        self._vcpus = parts.vcpus
        self._mpidrs = parts.machine.mpidrs
        self._counter = parts.counter
        self._placement = parts.machine.placement

    def state(self) -> EngineState:
        """Return the state.

        :raises EngineError: this CPU model, or what a vCPU is doing, cannot be saved.
        """
        if self._core.model == _NOT_SAVED:
            raise EngineError(
                f"a machine with CPU model {_NOT_SAVED} cannot be saved: its SVE registers cannot be read"
            )
        now = counter()
        # Vcpus first: they bring the structures up to date.
        vcpus = [self._vcpu_state(vcpu, now) for vcpu in self._vcpus]
        placement = self._placement.state()
        return EngineState(self._core.model, self._counter.at(now), self._gic.state(), vcpus, placement)

    def restore(self, state: EngineState) -> None:
        """Resume from ``state``; the guest's memory has been filled, and what drives wires restored.

        :raises SavedStateError: it is the state of no such machine; nothing may run then.
        """
        self._check(state)
        now = counter()
        self._counter.go_on(state.counter, now)
        self._core.contexts.move_counter(self._counter.offset)
        if state.placement is not None:
            self._placement.restore(state.placement)
        for vcpu, saved in zip(self._vcpus, state.vcpus, strict=True):
            self._restore_vcpu(vcpu, saved, now)
        self._gic.restore(state.gic)
        for vcpu, saved in zip(self._vcpus, state.vcpus, strict=True):
            vcpu.state = State(saved.power)
            if vcpu.state is State.IDLE and vcpu.irq:
                vcpu.state = State.RUNNABLE
        self._core.address_space.forget_code()

    def _vcpu_state(self, vcpu: Vcpu, now: int) -> VcpuState:
        off = vcpu.state is State.OFF
        if not off and vcpu.context is None:
            vcpu.context = self._core.contexts.new(self._mpidrs[vcpu.index], *vcpu.start)
        return VcpuState(
            power=vcpu.state.value,
            cpu=None if off else self._core.contexts.read(vcpu.context),
            timer=vcpu.timer.state(now),
            account=vcpu.account.state(vcpu.clock.read(0)),
            ran_ns=vcpu.ran_ns,
            loads=vcpu.loads,
        )

    def _restore_vcpu(self, vcpu: Vcpu, saved: VcpuState, now: int) -> None:
        if saved.cpu is not None:
            vcpu.context = self._core.contexts.make(self._mpidrs[vcpu.index], saved.cpu)
        vcpu.timer.restore(saved.timer, now)
        try:
            vcpu.account.restore(saved.account, vcpu.clock.read(0))
        except GuestMemoryError as error:
            raise SavedStateError(str(error)) from error
        vcpu.ran_ns, vcpu.loads = saved.ran_ns, saved.loads

    def _check(self, state: EngineState) -> None:
        if state.model == _NOT_SAVED:
            raise SavedStateError(
                f"a machine with CPU model {_NOT_SAVED} cannot be saved: this state is not pvtime's"
            )
        if state.model != self._core.model:
            raise SavedStateError(
                f"the saved CPU is a {state.model[:40]!r}, this machine's a {self._core.model!r}"
            )
        if len(state.vcpus) != len(self._vcpus):
            raise SavedStateError(f"{len(state.vcpus)} vCPUs are saved, this machine has {len(self._vcpus)}")
        if (state.placement is None) != (self._placement.state() is None):
            raise SavedStateError("the saved machine has another placement of its stolen time")
        _check_u64("counter", state.counter)
        for vcpu in state.vcpus:
            _check_vcpu(vcpu)


def _check_vcpu(vcpu: VcpuState) -> None:
    if vcpu.power not in {state.value for state in State}:
        raise SavedStateError(f"the saved vCPU is {vcpu.power[:40]!r}")
    if (vcpu.cpu is None) != (vcpu.power == State.OFF.value):
        raise SavedStateError(
            f"the saved vCPU is {vcpu.power} and has {'no' if vcpu.cpu is None else ''} registers"
        )
    if vcpu.cpu is not None:
        vcpu.cpu.check()
    account = vcpu.account
    for name, value in {
        "run time": vcpu.ran_ns,
        "number of loads": vcpu.loads,
        "stolen time": account.truth_ns,
        "injected stolen time": account.injected_ns,
        "address of stolen time": account.registration,
    }.items():
        _check_u64(name, value)
    if account.use not in {use.value for use in GuestUse}:
        raise SavedStateError(f"the saved vCPU's use of stolen time is {account.use[:40]!r}")
    if account.fault is not None and not account.fault.isprintable():
        raise SavedStateError("the saved vCPU has a fault that is no text")


def _check_u64(name: str, value: int) -> None:
    if not 0 <= value <= U64_MAX:
        raise SavedStateError(f"the saved machine has an impossible {name}: {hex(value)[:40]}")
