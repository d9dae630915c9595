# SPDX-License-Identifier: GPL-2.0-or-later
"""A machine that is asked to leave: it goes once, or not at all and runs on."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from framework.payload import Guest, Payload, boot
from framework.wait import DEADLINE, wait_until
from pvtime.engine.base import Engine, Outcome
from pvtime.engine.unicorn.engine import UnicornEngine
from pvtime.errors import EngineError, MigrationError, PvtimeError, SavedStateError, UsageError
from pvtime.machine.layout import RAM_BASE
from pvtime.machine.machine import Machine
from pvtime.run import exporter
from pvtime.run.exporter import Exporter
from pvtime.snapshot.address import Address
from pvtime.snapshot.description import Description
from pvtime.snapshot.directory import load, write
from pvtime.snapshot.endpoint import Endpoint
from pvtime.snapshot.receive import ReceivedMachine, await_machine, confirm, receive
from pvtime.snapshot.stream import FrameHeader, FrameKind, MigrationStream
from pvtime.snapshot.tls import create_key

MUCH = 8 << 20
"""Bytes: more than a socket holds for a peer that takes nothing."""


class Exported:
    """A guest that runs until it is told to power off, and who saves and moves it."""

    def __init__(self, guest: Guest[UnicornEngine]) -> None:
        self.guest = guest
        self.ended: list[Outcome] = []
        self.exporter = self._exporter()

    def _exporter(self, **timeouts: float) -> Exporter:
        return Exporter(
            self.guest.engine,
            self.guest.machine,
            agent=False,
            release=lambda: None,
            ended=self.ended.append,
            **timeouts,
        )

    def limit(self, **timeouts: float) -> None:
        """Set other timeouts."""
        self.exporter = self._exporter(**timeouts)

    def runs_on(self) -> None:
        """Check that the machine has not left: its guest hears, and powers off."""
        assert self.ended == []
        self.guest.tell(0)
        self.guest.end()

    def migrate(self, peer: Address, progress: Callable[[int, int], object] = lambda *_: None) -> Background:
        """Begin to move it."""
        return Background(lambda: self.exporter.migrate(Endpoint(peer), progress))


@pytest.fixture
def exported() -> Iterator[Exported]:
    """Return a guest that runs."""
    with boot(Payload().mov(1, 1).keep(1, 1).await_result(0).power_off(), "on") as guest:
        guest.engine.start()
        wait_until(lambda: guest.result(1) == 1)
        guest.machine.memory.write(RAM_BASE + (16 << 20), b"\xa5" * MUCH)
        yield Exported(guest)


@pytest.fixture
def peer(tmp_path: Path) -> Address:
    """Return an address."""
    return Address(path=str(tmp_path / "peer"))


def first_peer(listener: socket.socket) -> socket.socket:
    """Wait for one peer, close the listener, and return the connection."""
    with listener:
        return listener.accept()[0]


class Background(threading.Thread):
    """Does something that ends well or with an error of ours."""

    def __init__(self, work: Callable[[], object]) -> None:
        super().__init__(daemon=True)
        self._work = work
        self.error: PvtimeError | None = None
        self.start()

    def run(self) -> None:
        """Do it."""
        try:
            self._work()
        except PvtimeError as error:
            self.error = error

    def result(self) -> PvtimeError | None:
        """Return the error, once it has ended, which it must."""
        self.join(DEADLINE)
        assert not self.is_alive(), "it does not end"
        return self.error


class HeldWrite:
    """Takes the place of the function that writes, and does so when it may."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.began, self.may = threading.Event(), threading.Event()
        self._write = write
        monkeypatch.setattr(exporter, "write", self)

    def __call__(self, *arguments: object) -> int:
        """Write."""
        self.began.set()
        assert self.may.wait(DEADLINE)
        return self._write(*arguments)  # type: ignore[arg-type]


def test_a_save_ends_the_machine_and_leaves_it_complete(exported: Exported, tmp_path: Path) -> None:
    saved = exported.exporter.save(tmp_path / "saved")
    assert saved.bytes > MUCH
    assert exported.ended == [Outcome.SAVED]
    with load(tmp_path / "saved") as found:
        assert found.description.config.vcpus == 1
    with pytest.raises(EngineError, match="has ended"):
        exported.exporter.save(tmp_path / "again")


def test_a_machine_that_could_not_be_saved_runs_on(exported: Exported, tmp_path: Path) -> None:
    with pytest.raises(SavedStateError, match="exists already"):
        exported.exporter.save(tmp_path)
    with pytest.raises(SavedStateError, match="cannot be written to"):
        exported.exporter.save(tmp_path / "no" / "saved")
    exported.runs_on()


def test_one_is_served_at_a_time_and_nobody_wakes_a_machine_that_is_being_saved(
    exported: Exported, tmp_path: Path, peer: Address, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = HeldWrite(monkeypatch)
    saving = Background(lambda: exported.exporter.save(tmp_path / "saved", keep_running=True))
    assert held.began.wait(DEADLINE)
    with pytest.raises(UsageError, match="already"):
        exported.exporter.save(tmp_path / "other")
    with pytest.raises(UsageError, match="already"):
        exported.exporter.migrate(Endpoint(peer), lambda *_: None)
    assert exported.guest.engine.state(), "it is still paused"
    held.may.set()
    assert saving.result() is None
    exported.runs_on()


def test_the_end_of_a_run_waits_for_a_save_and_lets_nobody_begin_another(
    exported: Exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = HeldWrite(monkeypatch)
    saving = Background(lambda: exported.exporter.save(tmp_path / "saved"))
    assert held.began.wait(DEADLINE)
    exported.guest.engine.stop()
    closing = Background(exported.exporter.close)
    assert closing.is_alive()
    held.may.set()
    assert closing.result() is None
    assert saving.result() is None
    load(tmp_path / "saved").close()
    with pytest.raises(EngineError, match="has ended"):
        exported.exporter.save(tmp_path / "again")


def test_the_end_of_a_run_does_not_wait_for_a_peer_that_takes_nothing(
    exported: Exported, peer: Address
) -> None:
    listener = peer.listen()
    moving = exported.migrate(peer)
    with first_peer(listener) as silent:
        assert silent.recv(1), "it has begun"
        exported.exporter.close()
        assert isinstance(moving.result(), MigrationError)
    exported.runs_on()


def test_a_peer_that_takes_nothing_is_given_up(exported: Exported, peer: Address) -> None:
    # A frame of a MiB would have 4 s: these have a quarter of one, and the socket holds few of them.
    for piece in range(32):
        exported.guest.machine.memory.write(RAM_BASE + (8 << 20) + piece * (128 << 10), b"\xa5" * (64 << 10))
    exported.limit(peer_timeout_s=0.1)
    listener = peer.listen()
    moving = exported.migrate(peer)
    with first_peer(listener):
        assert "did not take" in str(moving.result())
    exported.runs_on()


def test_a_peer_that_does_not_answer_keeps_no_guest_paused(exported: Exported, peer: Address) -> None:
    exported.limit(paused_timeout_s=0.1)
    listener = peer.listen()
    moving = exported.migrate(peer)
    with first_peer(listener) as connection:
        with suppress(MigrationError):  # it was given up already
            _take_until_ready(MigrationStream(connection))
        assert "timed out" in str(moving.result())
    exported.runs_on()


def test_a_peer_that_answers_a_byte_now_and_then_keeps_no_guest_paused(
    exported: Exported, peer: Address
) -> None:
    # Each byte of its answer began the time anew: a byte every 4 s kept the guest paused for a minute.
    exported.limit(paused_timeout_s=0.5)
    listener = peer.listen()
    moving = exported.migrate(peer)
    with first_peer(listener) as connection, suppress(MigrationError, OSError):
        _take_until_ready(MigrationStream(connection))
        for byte in bytes(FrameHeader(kind=FrameKind.READY))[:-1]:
            connection.sendall(bytes([byte]))
            moving.join(0.1)
    assert "timed out" in str(moving.result())
    exported.runs_on()


def test_whoever_asked_may_go_and_the_machine_stays(exported: Exported, peer: Address) -> None:
    def gone(_number: int, _size: int) -> None:
        raise MigrationError("the client has gone")

    listener = peer.listen()
    moving = exported.migrate(peer, gone)
    with pytest.raises(MigrationError, match="gave up: the client has gone"):
        _take_until_go(MigrationStream(first_peer(listener)))
    assert "has gone" in str(moving.result())
    exported.runs_on()


def _take_until_ready(stream: MigrationStream) -> None:
    """Be a target that believes everything, and then says nothing."""
    for kind in (FrameKind.HELLO, FrameKind.KERNEL, FrameKind.INITRD):
        stream.receive(kind)
    while stream.receive(FrameKind.PAGES, FrameKind.STATE)[0] is not FrameKind.STATE:
        pass
    stream.receive(FrameKind.DIGEST)


def _take_until_go(stream: MigrationStream) -> None:
    """Be one that takes the machine."""
    _take_until_ready(stream)
    stream.send(FrameKind.READY)
    stream.receive(FrameKind.GO)


def test_a_machine_whose_target_refuses_at_the_last_moment_runs_on(exported: Exported, peer: Address) -> None:
    listener = peer.listen()
    moving = exported.migrate(peer)
    stream = MigrationStream(first_peer(listener))
    _take_until_ready(stream)
    stream.give_up("no room")
    assert "no room" in str(moving.result())
    stream.close()
    exported.runs_on()


def test_a_machine_that_was_given_away_does_not_run_here_whatever_becomes_of_it(
    exported: Exported, peer: Address, tmp_path: Path
) -> None:
    listener = peer.listen()
    moving = exported.migrate(peer)
    stream = MigrationStream(first_peer(listener))
    _take_until_go(stream)
    stream.close()
    assert "has ended here; whether it runs there is not known" in str(moving.result())
    assert exported.ended == [Outcome.MIGRATED]
    assert exported.guest.engine.state(), "it is paused"
    with pytest.raises(EngineError, match="has ended"):
        exported.exporter.save(tmp_path / "saved")


def _build(description: Description) -> tuple[Machine, Engine]:
    machine = Machine(description.config, lambda _: None, lambda _: None)
    return machine, UnicornEngine(machine, {})


def test_a_target_goes_on_where_its_source_does_not_hear_of_it(exported: Exported, peer: Address) -> None:
    here, there = socket.socketpair()
    listener = peer.listen()
    moving = exported.migrate(peer)
    source, target = MigrationStream(first_peer(listener)), MigrationStream(there)
    relay = Background(lambda: _relay(source, MigrationStream(here)))
    received = receive(target, _build)
    machine, engine = received.machine, received.engine
    try:
        assert relay.result() is None
        engine.start()
        confirm(target)
        guest = Guest(machine, engine)
        guest.tell(0)
        guest.end()
    finally:
        engine.stop()
        machine.close()
    assert moving.result() is not None


def test_a_machine_arrives_in_a_network_after_peers_that_were_none(
    exported: Exported, tmp_path: Path
) -> None:
    # A stray connection ended the wait, and so it would be anybody's in the network to end it.
    create_key(tmp_path / "key")
    create_key(tmp_path / "other")
    dropped: list[str] = []
    arrived: list[tuple[ReceivedMachine, MigrationStream]] = []
    with Address(host="127.0.0.1", port=0).listen() as listener:
        host, port = listener.getsockname()
        here = Endpoint(Address(host=host, port=port), tmp_path / "key")
        receiving = Background(
            lambda: arrived.append(await_machine(listener, here.protect, _build, dropped.append))
        )
        socket.create_connection((host, port)).close()
        with socket.create_connection((host, port)) as stray:
            stray.sendall(b"GET / HTTP/1.1\r\n\r\n")
            wait_until(lambda: len(dropped) == 2)
        for peer in (Endpoint(here.address, tmp_path / "other"), Endpoint(here.address, insecure=True)):
            with pytest.raises(MigrationError):
                exported.exporter.migrate(peer, lambda *_: None)
        moving = Background(lambda: exported.exporter.migrate(here, lambda *_: None))
        assert receiving.result() is None
    [(received, stream)] = arrived
    try:
        received.engine.start()
        confirm(stream)
        assert moving.result() is None
        guest = Guest(received.machine, received.engine)
        guest.tell(0)
        guest.end()
    finally:
        received.engine.stop()
        received.machine.close()
    assert len(dropped) == 4
    assert all("TLS" in reason for reason in dropped)


def test_a_target_does_not_wait_for_ever_for_peers_that_are_none(peer: Address) -> None:
    dropped: list[str] = []
    with peer.listen() as listener:
        receiving = Background(
            lambda: await_machine(listener, Endpoint(peer).protect, _build, dropped.append, max_dropped=2)
        )
        for _ in range(2):
            peer.connect().close()
        assert "2 peers were dropped and none sent a machine; the last one: the peer closed" in str(
            receiving.result()
        )
    assert len(dropped) == 2


def _relay(source: MigrationStream, target: MigrationStream) -> None:
    """Pass on what a source says until GO, and break down then."""
    kind = FrameKind.HELLO
    while kind is not FrameKind.GO:
        if kind is FrameKind.DIGEST:
            target.receive(FrameKind.READY)
            source.send(FrameKind.READY)
        kind, content = source.receive(
            FrameKind.HELLO,
            FrameKind.KERNEL,
            FrameKind.INITRD,
            FrameKind.PAGES,
            FrameKind.STATE,
            FrameKind.DIGEST,
            FrameKind.GO,
        )
        target.send(kind, content)
    source.close()
    target.close()


def test_what_was_saved_goes_on(exported: Exported, tmp_path: Path) -> None:
    exported.exporter.save(tmp_path / "saved", keep_running=True)
    with load(tmp_path / "saved") as saved:
        machine = Machine(saved.description.config, lambda _: None, lambda _: None)
        engine = UnicornEngine(machine, {})
        try:
            saved.restore(machine, engine)
            engine.start()
            guest = Guest(machine, engine)
            guest.tell(0)
            guest.end()
        finally:
            engine.stop()
            machine.close()
    exported.runs_on()


def test_a_machine_that_was_paused_stays_so_over_a_save_and_is_not_moved_or_reset(
    exported: Exported, peer: Address, tmp_path: Path
) -> None:
    exporter, engine = exported.exporter, exported.guest.engine
    exporter.pause()
    exporter.pause()
    assert exporter.paused
    exporter.save(tmp_path / "saved", keep_running=True)
    engine.state()  # which a machine that runs has not
    with pytest.raises(EngineError, match="resume it to reset it"):
        exporter.reset()
    with peer.listen(), pytest.raises(EngineError, match="resume it to migrate it"):
        exporter.migrate(Endpoint(peer), lambda *_: None)
    engine.state()
    exporter.resume()
    assert not exporter.paused
    exported.runs_on()
    for ask in (exporter.pause, exporter.resume, exporter.reset):
        with pytest.raises(EngineError, match="the machine has ended"):
            ask()
