# SPDX-License-Identifier: GPL-2.0-or-later
"""Live Physical Time (never merged): a guest that is moved between frequencies while it reads."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest

from framework.engines import CHOICES, Choice
from framework.moved import Image, put, take
from pvtime.abi.arm64 import CNTP_CTL_EL0, CNTP_CVAL_EL0, CNTPCT_EL0, CNTVCT_EL0
from pvtime.abi.pvtime import LPT_OFFSET, PvTime
from pvtime.abi.registration import LptCall, RegisterResult
from pvtime.engine.base import COUNTER_FREQUENCY
from pvtime.engine.unicorn.engine import UnicornEngine
from pvtime.errors import SavedStateError, UsageError
from pvtime.machine.layout import RAM_BASE, STOLEN_TIME
from pvtime.machine.machine import Machine, MachineConfig
from pvtime.machine.timer import MAX_HZ, MIN_HZ, NATIVE, TimerControl
from pvtime.probe.guest import boot, guest
from pvtime.probe.probe import Probe
from pvtime.steal.live_physical_time import rebase, scale
from pvtime.steal.placement import PlacementName

PV_HZ = NATIVE.hz
HOSTS = [25_000_000, 1_000_000_000, PV_HZ, 19_200_000]
OWN = RAM_BASE + (16 << 20)
GATE = RAM_BASE + (17 << 20)


def config(placement: PlacementName = PlacementName.USERSPACE, vcpus: int = 1) -> MachineConfig:
    """Return a machine with the probe and Live Physical Time."""
    return replace(guest(vcpus), placement=placement, lpt=PV_HZ)


def ask(probe: Probe, vcpu: int = 0) -> int:
    """Have the guest ask for the structure; return its address."""
    if probe.machine.config.placement is not PlacementName.GUEST:
        return probe.call(vcpu, PvTime.LPT)[0]
    assert probe.call(vcpu, LptCall.SET, OWN | 1)[0] == RegisterResult.SUCCESS
    return OWN


@contextmanager
def arrived(image: Image, hz: int, internals: str = "on") -> Iterator[Probe]:
    """Start a machine from an image, on a host with a counter of ``hz``."""
    options = {"internals": internals, COUNTER_FREQUENCY: str(hz)}
    machine, engine = put(image, options, lambda _: None, lambda _: None)
    try:
        engine.start()
        yield Probe(machine, engine)
    finally:
        engine.stop()
        machine.close()


@pytest.fixture(scope="module")
def image_of_one_that_asked() -> Image:
    """Return a machine whose guest has asked for the structure."""
    with boot(CHOICES["unicorn"][0].build, config()) as probe:
        ask(probe)
        return take(probe.machine, probe.engine)


def count(image: Image) -> int:
    """Return the guest's counter when it was taken down."""
    return int(image.document()["counter"])


@pytest.mark.parametrize("placement", PlacementName)
def test_it_is_continuous_over_many_moves_and_a_reader_notices_each(placement: PlacementName) -> None:
    with boot(CHOICES["unicorn"][0].build, config(placement)) as probe:
        structure = ask(probe)
        last = probe.read_lpt(0, structure, GATE)
        assert last.counter == last.ticks, "it begins with the frequency of the first host"
        probe.begin_lpt_watch(0, structure, 4)
        image = take(probe.machine, probe.engine)
    old_hz, ticks, retries = PV_HZ, last.ticks, 0
    for run, hz in enumerate(HOSTS * 2, 2):
        left = scale(PV_HZ, old_hz).apply(count(image))
        with arrived(image, hz, ("on", "off")[run % 2]) as probe:
            watch = probe.end_lpt_watch(0)
            assert watch.backwards == 0
            assert watch.ticks == scale(PV_HZ, hz).apply(watch.counter)
            assert watch.ticks >= left >= ticks, "the guest's time went back"
            assert watch.retries in (0, 1), "a reading is repeated if the move came into it"
            retries += watch.retries
            ticks = watch.ticks
            probe.begin_lpt_watch(0, structure, 2 * run + 2)
            image = take(probe.machine, probe.engine)
        saved = rebase(count(image), PV_HZ, hz, PV_HZ)
        assert saved >= watch.ticks
        old_hz = hz


def test_a_counter_arrives_as_the_first_tick_that_is_not_before() -> None:
    with boot(CHOICES["unicorn"][0].build, config()) as probe:
        ask(probe)
        image = take(probe.machine, probe.engine)
    old_hz = PV_HZ
    for hz in HOSTS:
        machine, engine = put(image, {COUNTER_FREQUENCY: str(hz)}, lambda _: None, lambda _: None)
        before = count(image)
        image = take(machine, engine)
        engine.stop()
        machine.close()
        assert count(image) >= rebase(before, PV_HZ, old_hz, hz)
        old_hz = hz


def test_a_reader_that_is_moved_in_its_midst_reads_again(engine: Choice) -> None:
    with boot(engine.build, config()) as probe:
        structure = ask(probe)
        assert probe.read_lpt(0, structure, GATE).retries == 0
        probe.begin_lpt_read(0, structure, GATE)
        image = take(probe.machine, probe.engine)
    left = count(image)
    with arrived(image, 25_000_000) as probe:
        reading = probe.end_lpt_read(0, GATE)
        assert reading.retries == 1
        assert probe.engine.notice is None
        assert reading.ticks == scale(PV_HZ, 25_000_000).apply(reading.counter) >= left
        # The counter of the one host with the scale of the other.
        assert reading.unchecked > 2 * left


def test_all_vcpus_have_one_time() -> None:
    with boot(CHOICES["unicorn"][0].build, config(vcpus=2)) as probe:
        probe.start_vcpu(1)
        structures = [ask(probe, vcpu) for vcpu in (0, 1)]
        assert structures == [STOLEN_TIME.base + LPT_OFFSET] * 2
        image = take(probe.machine, probe.engine)
    with arrived(image, 25_000_000) as probe:
        readings = [probe.read_lpt(turn % 2, structures[0], GATE).ticks for turn in range(20)]
        assert readings == sorted(readings), "one vCPU's time is before another's"


def test_a_timer_armed_before_a_move_fires_at_its_time() -> None:
    with boot(CHOICES["unicorn"][0].build, config()) as probe:
        structure = ask(probe)
        due = probe.read_register(0, CNTPCT_EL0) + NATIVE.ticks(300_000_000)
        probe.write_register(0, CNTP_CVAL_EL0, due)
        probe.write_register(0, CNTP_CTL_EL0, TimerControl.of(enable=1))
        image = take(probe.machine, probe.engine)
    with arrived(image, 25_000_000) as probe:
        compare = probe.read_register(0, CNTP_CVAL_EL0)
        there = scale(PV_HZ, 25_000_000)
        assert there.apply(compare - 1) < due <= there.apply(compare)
        fired = False
        while not fired:
            before = probe.read_lpt(0, structure, GATE).ticks
            fired = bool(TimerControl(probe.read_register(0, CNTP_CTL_EL0)).istatus)
            after = probe.read_lpt(0, structure, GATE).ticks
            assert before < due or fired, "it is late"
            assert after >= due or not fired, "it is early"


def test_a_guest_that_has_not_asked_keeps_its_ticks() -> None:
    with boot(CHOICES["unicorn"][0].build, config()) as probe:
        before = probe.read_register(0, CNTVCT_EL0)
        image = take(probe.machine, probe.engine)
        left = count(image)
    with arrived(image, 1_000_000_000) as probe:
        assert "its clocks run at 16 times their speed (--counter-frequency 62500000" in str(
            probe.engine.notice
        )
        probe.engine.pause()
        image = take(probe.machine, probe.engine)
        assert image.document()["lpt"] == {"sequence_number": 4, "asked": False, "registration": 0}
    # A rebased counter would be sixteen times as much; a run of this test takes no century.
    assert before <= left <= count(image) < 16 * left


def test_a_machine_can_be_given_it_when_it_is_restored_but_not_lose_it() -> None:
    with boot(CHOICES["unicorn"][0].build, guest()) as probe:
        image = take(probe.machine, probe.engine)
    with arrived(replace(image, config=config()), 25_000_000) as probe:
        structure = ask(probe)
        assert probe.read_lpt(0, structure, GATE).retries == 0
        image = take(probe.machine, probe.engine)
    with (
        pytest.raises(SavedStateError, match="the saved machine has Live Physical Time, this one has not"),
        arrived(replace(image, config=guest()), 25_000_000),
    ):
        pass


def test_a_reset_is_a_run_and_the_new_kernel_has_not_asked() -> None:
    with boot(CHOICES["unicorn"][0].build, config()) as probe:
        ask(probe)
        lpt = probe.machine.lpt
        assert lpt is not None
        assert lpt.asked
        rebooted = probe.reset()
        assert not lpt.asked
        structure = ask(rebooted)
        assert rebooted.load(0, structure + 8) == 4


def test_a_hostile_guest_harms_only_itself(engine: Choice) -> None:
    with boot(engine.build, config(PlacementName.GUEST)) as probe:
        for argument in (1, OWN | 3, OWN + 8 | 1, STOLEN_TIME.base | 1, (1 << 64) - 63):
            answer = probe.call(0, LptCall.SET, argument)[0] - (1 << 64)
            assert answer == RegisterResult.INVALID_PARAMETER
        structure = ask(probe)
        probe.fill(0, structure, 64, 0xFFFF_FFFF_FFFF_FFFF)
        image = take(probe.machine, probe.engine)
    with arrived(image, 25_000_000) as probe:
        assert probe.load(0, structure + 8) == 4, "what the guest wrote there is not believed"


@pytest.mark.parametrize("counter", [0, 1 << 62, (1 << 64) - 1])
@pytest.mark.parametrize("remaining", [-(1 << 64) + 1, 0, (1 << 64) - 1])
def test_a_state_with_the_greatest_numbers_is_restored(
    counter: int, remaining: int, image_of_one_that_asked: Image
) -> None:
    document = image_of_one_that_asked.document()
    document["counter"], document["frequency"] = counter, MIN_HZ
    document["vcpus"][0]["timer"] = {"control": 1, "remaining": remaining}
    with arrived(image_of_one_that_asked.with_document(document), MAX_HZ) as probe:
        met = TimerControl(probe.read_register(0, CNTP_CTL_EL0)).istatus
        assert met == (remaining <= 0)


@pytest.mark.parametrize("number", [3, 1 << 64, -2])
def test_an_impossible_sequence_number_is_refused(number: int, image_of_one_that_asked: Image) -> None:
    document = image_of_one_that_asked.document()
    document["lpt"]["sequence_number"] = number
    with (
        pytest.raises(SavedStateError, match=r"lpt\.sequence_number"),
        arrived(image_of_one_that_asked.with_document(document), PV_HZ),
    ):
        pass


def test_the_kvm_engine_refuses_it_by_name() -> None:
    from pvtime.engine.kvm.engine import KvmEngine

    machine = Machine(config(), lambda _: None, lambda _: None)
    try:
        with pytest.raises(
            UsageError, match="the kvm engine has no Live Physical Time, which was never merged"
        ):
            KvmEngine(machine)
        with pytest.raises(UsageError, match="--counter-frequency: on the kvm engine"):
            KvmEngine(machine, {COUNTER_FREQUENCY: "25000000"})
    finally:
        machine.close()


def test_it_is_off_by_default(engine: Choice) -> None:
    with boot(engine.build, guest()) as probe:
        assert probe.call(0, PvTime.FEATURES, PvTime.LPT)[0] == (1 << 64) - 1
        assert probe.call(0, PvTime.LPT)[0] == (1 << 64) - 1
        assert isinstance(probe.engine, UnicornEngine)
        assert probe.engine.vm.machine.lpt is None
