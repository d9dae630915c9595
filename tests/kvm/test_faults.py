# SPDX-License-Identifier: GPL-2.0-or-later
"""A fault of a vCPU ends in one message that names it, and leaves nothing behind."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Iterator

import pytest

from framework.bare import BareVm, bare_vm
from framework.engines import Choice
from framework.payload import Payload, boot_on
from framework.wait import DEADLINE
from pvtime.abi.kvm_reg import PC
from pvtime.abi.kvm_run import ExitReason, SystemEventType
from pvtime.abi.kvm_types import VcpuFeature
from pvtime.abi.pvtime import PvTime
from pvtime.engine.base import Outcome
from pvtime.engine.kvm.exits import ExitHandler, KvmRunView
from pvtime.engine.kvm.ioctl import KvmError
from pvtime.engine.kvm.mmio import MmioBus
from pvtime.errors import EngineError, PvtimeError
from pvtime.machine.layout import CONSOLE

WHERE = 0x4008_1234


class NoEvents:
    """An engine to which nothing happens."""

    def end(self, outcome: Outcome) -> None:
        raise AssertionError(outcome)

    def restart(self) -> None:
        raise AssertionError

    def fail(self, error: PvtimeError) -> None:
        raise error


@pytest.fixture
def bare() -> Iterator[BareVm]:
    """A VM with two vCPUs, of which vCPU 1 stands at a known place."""
    with bare_vm() as bare:
        bare.vcpus[1].set_reg(PC, WHERE)
        yield bare


def serve(bare: BareVm) -> None:
    """Have vCPU 1's exit served, as its page says it is."""
    vcpu = bare.vcpus[1]
    view = KvmRunView(vcpu.map)
    try:
        ExitHandler(vcpu, view, MmioBus([]), NoEvents()).handle()
    finally:
        view.close()


@pytest.mark.parametrize(
    ("reason", "name"), [(ExitReason.UNKNOWN, "UNKNOWN"), (ExitReason.SHUTDOWN, "SHUTDOWN"), (4711, "4711")]
)
def test_an_exit_that_nothing_handles_names_itself_the_vcpu_and_its_pc(
    reason: int, name: str, bare: BareVm
) -> None:
    bare.vcpus[1].kvm_run.exit_reason = reason
    with pytest.raises(EngineError, match=rf"vCPU 1 left the guest with KVM exit .*{name} at PC {WHERE:#x}"):
        serve(bare)


def test_an_internal_error_says_what_kvm_says_of_it(bare: BareVm) -> None:
    page = bare.vcpus[1].kvm_run
    page.exit_reason = ExitReason.INTERNAL_ERROR
    page.internal.suberror, page.internal.ndata, page.internal.data[0] = 3, 1, 0xABC
    with pytest.raises(EngineError, match=rf"vCPU 1 .*INTERNAL_ERROR \(suberror 3: 0xabc\) at PC {WHERE:#x}"):
        serve(bare)


def test_a_failed_entry_says_the_reason_and_the_cpu(bare: BareVm) -> None:
    page = bare.vcpus[1].kvm_run
    page.exit_reason = ExitReason.FAIL_ENTRY
    page.fail_entry.hardware_entry_failure_reason, page.fail_entry.cpu = 0x77, 1
    with pytest.raises(EngineError, match=rf"FAIL_ENTRY \(reason 0x77 on CPU 1\) at PC {WHERE:#x}"):
        serve(bare)


def test_a_crash_that_the_guest_reports_is_a_failure(bare: BareVm) -> None:
    page = bare.vcpus[1].kvm_run
    page.exit_reason = ExitReason.SYSTEM_EVENT
    page.system_event.type = SystemEventType.CRASH
    with pytest.raises(EngineError, match=r"vCPU 1 .*SYSTEM_EVENT at PC .*system event 3"):
        serve(bare)


def test_a_vcpu_that_another_thread_wants_to_run_is_refused(bare: BareVm) -> None:
    vcpu = bare.vcpus[0]
    vcpu.kvm_run.immediate_exit = 1
    with pytest.raises(InterruptedError):
        vcpu.enter()
    refusals: list[EngineError] = []

    def enter() -> None:
        with pytest.raises(EngineError) as caught:
            vcpu.enter()
        refusals.append(caught.value)

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert f"vCPU 0 belongs to thread {threading.get_native_id()}" in str(refusals[0])
    with pytest.raises(InterruptedError):
        vcpu.enter()


def test_a_second_initialisation_with_other_features_is_einval(bare: BareVm) -> None:
    with pytest.raises(KvmError, match="vCPU 0") as caught:
        bare.vcpus[0].init(bare.vm.preferred_target(), VcpuFeature.PSCI_0_2, VcpuFeature.POWER_OFF)
    assert caught.value.errno == errno.EINVAL


def test_a_vcpus_thread_that_dies_takes_the_machine_down_with_one_message(
    engine: Choice, monkeypatch: pytest.MonkeyPatch
) -> None:
    payload = Payload().call(PvTime.ST).cpu_on(1, "spin").mov(9, CONSOLE.base).load(1, 9, size=1).halt()
    payload.label("spin").call(PvTime.ST).halt()
    threads, files = set(threading.enumerate()), set(os.listdir("/proc/self/fd"))

    def broken(offset: int, size: int) -> int:
        raise ZeroDivisionError("a device is broken")

    with boot_on(engine, payload, vcpus=2) as guest:
        monkeypatch.setattr(guest.machine.console, "read", broken)
        guest.engine.start()
        message = "^vCPU 0 failed: ZeroDivisionError: a device is broken$"
        with pytest.raises(EngineError, match=message):
            guest.engine.wait(DEADLINE)
        with pytest.raises(EngineError, match=message):
            guest.engine.wait()
        guest.engine.stop()
        assert set(threading.enumerate()) == threads, "a thread is left behind"
        assert len(guest.engine.sample()) == 2, "the last figures are gone"
    assert set(os.listdir("/proc/self/fd")) == files, "a descriptor is left behind"


def test_a_machine_that_ends_leaves_no_thread_and_no_descriptor(engine: Choice) -> None:
    payload = Payload().call(PvTime.ST).cpu_on(1, "spin").await_result(0).power_off()
    payload.label("spin").call(PvTime.ST).halt()
    threads, files = set(threading.enumerate()), set(os.listdir("/proc/self/fd"))
    for ended_by_guest in (True, False):
        with boot_on(engine, payload, vcpus=2) as guest:
            guest.engine.start()
            assert len(guest.engine.sample()) == 2
            guest.tell(0, int(ended_by_guest))
            if ended_by_guest:
                guest.end()
        assert set(threading.enumerate()) == threads
        assert set(os.listdir("/proc/self/fd")) == files
