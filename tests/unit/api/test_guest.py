# SPDX-License-Identifier: GPL-2.0-or-later
"""A guest of the public API, on an engine that runs nothing: its life, threads, errors and remains."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from fake_run import GreetingEngine
from framework.wait import DEADLINE, wait_until
from pvtime import EngineError, Guest, GuestCommandError, GuestEndedError, UsageError
from pvtime.abi.image import IMAGE_MAGIC, ImageHeader
from pvtime.engine.base import Engine
from pvtime.engine.registry import EngineKind, preferred
from pvtime.inject.schedule import NOTHING, Schedule
from pvtime.machine.machine import Machine

engines: list[GreetingEngine] = []
machines: list[Machine] = []


def build(machine: Machine, options: Mapping[str, str], steal: Schedule = NOTHING) -> Engine:
    """Make an engine, and note it and its machine."""
    machines.append(machine)
    engines.append(GreetingEngine(machine))
    return engines[-1]


@pytest.fixture
def new_guest(tmp_path: Path) -> Iterator[Callable[..., Guest]]:
    """Return what makes a guest of files that pass for a kernel and an initrd."""
    engines.clear()
    header = ImageHeader(magic=IMAGE_MAGIC, image_size=1 << 20)
    (tmp_path / "Image").write_bytes(bytes(header) + bytes(4096))
    (tmp_path / "initrd").write_bytes(b"initrd")

    def new(append: str = "", **parameters: object) -> Guest:
        files = {"kernel": tmp_path / "Image", "initrd": str(tmp_path / "initrd"), "memory": 64 << 20}
        return Guest(append=append, **{**files, **parameters})  # type: ignore[arg-type]

    with preferred(EngineKind("fake", "a test", lambda: None, lambda: "1", build)):
        yield new


@pytest.fixture
def guest(new_guest: Callable[..., Guest]) -> Iterator[Guest]:
    """Return one that runs."""
    with new_guest(vcpus=2) as guest:
        yield guest


def test_steal_is_another_in_a_block_and_as_before_behind_it(guest: Guest) -> None:
    (engine,) = engines
    with guest.steal("1:50%"):
        with guest.steal("30%", "4s@2"):
            pass
        guest.steal("off")
    assert engine.schedules == [
        Schedule.parse(["1:50%"]),
        Schedule.parse(["30%", "4s@2"]),
        Schedule.parse(["1:50%"]),
        NOTHING,
        NOTHING,
    ]
    with pytest.raises(UsageError, match="vCPU 2"):
        guest.steal("2:50%")
    block = guest.steal("50%")
    guest.close()
    with pytest.raises(ZeroDivisionError, match="mine"), block:
        raise ZeroDivisionError("mine")  # which the end of the guest does not hide


def test_the_console_is_read_searched_and_typed_at(guest: Guest) -> None:
    assert guest.console.expect("guest (says)").group(1) == "says"
    assert guest.console.read(0) in (" hello\r\n", " hello")
    assert guest.console.text.startswith("guest says hello")
    with pytest.raises(GuestCommandError, match="has not shown 'goodbye' within 0 s"):
        guest.console.expect("goodbye", timeout=0)
    guest.console.send("x" * 100)
    with pytest.raises(GuestCommandError, match="has not taken what was typed"):
        guest.console.send("x" * (1 << 20), timeout=0)


def test_what_needs_the_stock_userland_says_so(guest: Guest) -> None:
    with pytest.raises(UsageError, match="wait for a line of the console"):
        guest.wait_userland()
    with pytest.raises(UsageError, match="leave out the initrd"):
        guest.shell("true")
    assert guest.state == "running"


def test_a_guest_that_cannot_move_runs_on(guest: Guest, tmp_path: Path) -> None:
    for address, options, said in (
        ("somewhere", {}, "somewhere"),
        (f"unix:{tmp_path / 'nobody'}", {}, "there is no such socket"),
        (f"unix:{tmp_path / 'nobody'}", {"insecure": True}, "leave out --key and --insecure"),
        ("tcp:127.0.0.1:7", {}, "give either --key FILE"),
    ):
        with pytest.raises(UsageError, match=said):
            guest.migrate(address, **options)  # type: ignore[arg-type]
    assert guest.state == "running"


def test_live_physical_time_is_offered_where_it_is_wanted(new_guest: Callable[..., Guest]) -> None:
    for lpt in (False, True):
        with new_guest(lpt=lpt):
            assert (machines[-1].config.lpt is not None) == lpt


def test_a_root_is_for_commands_in_the_stock_userland(new_guest: Callable[..., Guest]) -> None:
    with pytest.raises(UsageError, match="rootfs and share need the stock userland: leave out initrd"):
        new_guest(rootfs="root")
    with pytest.raises(UsageError, match="has no warm start: leave it out, or warm"):
        Guest(rootfs="root", warm=True)
    with pytest.raises(UsageError, match="has no warm start: leave it out, or warm"):
        Guest(share="files", warm=True)
    with pytest.raises(UsageError, match="/nonexistent/root"):
        new_guest(initrd=None, rootfs="/nonexistent/root").start()


def test_a_guest_that_dies_raises_in_everybody_who_waits(guest: Guest) -> None:
    waits: list[Callable[[], object]] = [
        lambda: guest.run_for(DEADLINE),
        lambda: guest.console.expect("goodbye", timeout=DEADLINE),
        lambda: (list(guest.events()), guest.run_for(DEADLINE)),  # type: ignore[func-returns-value]
    ]
    raised: list[str] = []

    def wait(work: Callable[[], object]) -> None:
        try:
            work()
        except GuestEndedError as error:
            raised.append(str(error))

    threads = [threading.Thread(target=wait, args=(work,)) for work in waits]
    for thread in threads:
        thread.start()
    engines[0].fail(EngineError("vCPU 0 stopped"))
    for thread in threads:
        thread.join()
    assert raised == ["the guest has ended: vCPU 0 stopped"] * 3
    for work in (lambda: guest.steal("30%"), guest.pause, guest.reset, lambda: guest.shell("true")):
        with pytest.raises(GuestEndedError):
            work()
    with pytest.raises(EngineError, match="vCPU 0 stopped"):
        guest.wait()
    assert (guest.state, guest.outcome) == ("ended", "failed")
    assert guest.sample() == guest.sample(guest=True), "the last figures"


def test_a_guest_that_powers_off_has_a_report(new_guest: Callable[..., Guest]) -> None:
    with new_guest("end") as guest:
        assert guest.wait() == "power-off"
        assert guest.report is not None
        assert guest.report.outcome.value == guest.outcome == "power-off"
        assert guest.stop() == "power-off"
    assert [event.kind.value for event in guest.events()] == ["ended"]


def test_a_guest_is_used_once_and_not_before_its_start(new_guest: Callable[..., Guest]) -> None:
    guest = new_guest()
    for use in (guest.sample, guest.pause, guest.wait, lambda: guest.console, lambda: guest.steal("30%")):
        with pytest.raises(UsageError, match="was not started"):
            use()
    guest.close()
    with guest:
        pass
    guest.close()
    with pytest.raises(UsageError, match="used once"):
        guest.start()


@pytest.mark.parametrize(
    ("parameters", "named"),
    [
        ({"vcpus": 0}, "give 1 to 512"),
        ({"placement": "moon"}, "give one of userspace, hypervisor, guest"),
        ({"initrd": None, "busy": 2}, "give 0 to vcpus"),
        ({"busy": 0}, "leave out initrd"),
        ({"steal": "101%"}, "101%"),
        ({"kernel": ""}, "kernel='': the name of the file is empty"),
        # It packed the current directory.
        ({"initrd": None, "rootfs": ""}, "rootfs='': the name of the file is empty"),
    ],
)
def test_impossible_parameters_are_refused_at_once(
    new_guest: Callable[..., Guest], parameters: dict[str, object], named: str
) -> None:
    with pytest.raises(UsageError, match=named):
        new_guest(**parameters)


def test_a_machine_that_cannot_be_is_refused_at_its_start(new_guest: Callable[..., Guest]) -> None:
    for parameters in ({"memory": 1 << 20}, {"kernel": "/nonexistent"}):
        with pytest.raises(UsageError):
            new_guest(**parameters).start()
    assert threading.active_count() < 10


def test_many_threads_use_a_guest_while_it_is_closed(
    new_guest: Callable[..., Guest], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pvtime.run.exporter.QUICK_S", DEADLINE)
    guest = new_guest(vcpus=2).start()
    errors: list[BaseException] = []
    used = threading.Semaphore(0)

    def use() -> None:
        try:
            while True:
                guest.sample(guest=True)
                with guest.steal("30%"):
                    guest.pause()
                    guest.resume()
                guest.console.send("x")
                used.release()
        except GuestEndedError:
            return
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=use) for _ in range(6)]
    for thread in threads:
        thread.start()
    for _ in range(5):
        used.acquire(timeout=DEADLINE)
    guest.close()
    for thread in threads:
        thread.join()
    assert errors == []


def test_a_named_guest_is_among_the_machines_and_its_socket_goes_with_it(
    new_guest: Callable[..., Guest], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pvtime.run.roll_call import call_the_roll

    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    with new_guest(name="web"):
        (answer,) = call_the_roll(DEADLINE)
        assert answer.info is not None
        assert (answer.name, answer.info.pid) == ("web", os.getpid())
        with pytest.raises(UsageError, match="a machine named web runs already"):
            new_guest(name="web").start()
    assert call_the_roll() == []


def test_nothing_is_left_of_a_guest(new_guest: Callable[..., Guest]) -> None:
    def left() -> set[str | threading.Thread]:
        return {*os.listdir("/proc/self/fd"), *threading.enumerate()}

    with new_guest(vcpus=2):
        pass
    before = left()
    for _ in range(3):
        with new_guest(vcpus=2) as guest:
            guest.sample()
    wait_until(lambda: left() <= before, message=lambda: left() - before)


def test_a_guest_that_still_runs_is_ended_with_the_interpreter(tmp_path: Path) -> None:
    program = f"""
import sys, test_guest
from pathlib import Path
from pvtime import Guest
from pvtime.engine.registry import EngineKind, preferred
with preferred(EngineKind("fake", "a test", lambda: None, lambda: "1", test_guest.build)):
    guest = Guest(kernel="{tmp_path}/Image", initrd="{tmp_path}/initrd", name="left").start()
"""
    header = ImageHeader(magic=IMAGE_MAGIC, image_size=1 << 20)
    (tmp_path / "Image").write_bytes(bytes(header) + bytes(4096))
    (tmp_path / "initrd").write_bytes(b"initrd")
    path = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": path, "XDG_RUNTIME_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=DEADLINE,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert os.listdir(tmp_path / "pvtime") == []
