# SPDX-License-Identifier: GPL-2.0-or-later
"""Frames between two processes, and addresses: a peer is input."""

from __future__ import annotations

import socket
import time
import tracemalloc
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Self, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from framework.wait import DEADLINE
from pvtime.errors import MigrationError, PvtimeError, UsageError
from pvtime.snapshot.address import Address
from pvtime.snapshot.description import Description
from pvtime.snapshot.receive import _receive_memory_and_state, receive
from pvtime.snapshot.stream import (
    FORMAT,
    LIMITS,
    MAX_ROUNDS,
    MESSAGE_TIMEOUT_S,
    MIN_RATE,
    PAGES_HEADER_SIZE,
    Connection,
    FrameHeader,
    FrameKind,
    MigrationStream,
    PeerError,
)


@pytest.fixture
def pair() -> Iterator[tuple[MigrationStream, MigrationStream]]:
    """Return two ends of a connection."""
    ends = socket.socketpair()
    for end in ends:
        end.settimeout(DEADLINE)
    streams = MigrationStream(ends[0]), MigrationStream(ends[1])
    yield streams
    for stream in streams:
        stream.close()


def test_frames_come_as_they_were_sent_and_both_ends_have_one_digest(
    pair: tuple[MigrationStream, MigrationStream],
) -> None:
    source, target = pair
    source.send(FrameKind.HELLO, b"who", b"ever")
    source.send(FrameKind.PAGES, bytes(8), memoryview(b"page"))
    assert target.receive(FrameKind.HELLO) == (FrameKind.HELLO, bytearray(b"whoever"))
    assert target.receive(FrameKind.PAGES, FrameKind.STATE) == (FrameKind.PAGES, bytearray(8) + b"page")
    assert source.digest == target.digest


def test_a_frame_out_of_turn_is_refused_and_named(pair: tuple[MigrationStream, MigrationStream]) -> None:
    pair[0].send(FrameKind.GO)
    with pytest.raises(MigrationError, match="sent GO where READY or RUNNING was expected"):
        pair[1].receive(FrameKind.READY, FrameKind.RUNNING)


def test_why_a_peer_gives_up_is_told(pair: tuple[MigrationStream, MigrationStream]) -> None:
    pair[0].give_up("no room")
    with pytest.raises(PeerError, match="the peer gave up: no room"):
        pair[1].receive(FrameKind.READY)


def test_a_peer_that_has_gone_is_noticed_and_its_last_words_are_heard(
    pair: tuple[MigrationStream, MigrationStream],
) -> None:
    pair[0].give_up("no such placement")
    pair[0].close()
    with pytest.raises(PeerError, match="no such placement"):
        pair[1].send(FrameKind.KERNEL, bytes(8 << 20))


class SlowPeer:
    """A connection to a peer that takes, or sends, so much at a time, and some time passes each time.

    :param size: bytes at a time.
    :param interval_s: time that passes for each.
    """

    def __init__(self, size: int, interval_s: float) -> None:
        self.taken = b""
        self.data = b""
        self.now = 1000.0
        """Time of the test's clock."""
        self._size = size
        self._interval_s = interval_s
        self._timeout_s = 0.0

    def stream(self) -> MigrationStream:
        """Return a stream over this connection."""
        return MigrationStream(cast("Connection", self), clock=lambda: self.now)

    def settimeout(self, value: float) -> None:
        """Note it."""
        self._timeout_s = value

    def send(self, data: memoryview) -> int:
        """Take some."""
        self._pass_time()
        self.taken += data[: self._size]
        return len(data[: self._size])

    def recv_into(self, buffer: memoryview) -> int:
        """Send some."""
        self._pass_time()
        part = self.data[: min(self._size, len(buffer))]
        buffer[: len(part)] = part
        self.data = self.data[len(part) :]
        return len(part)

    def _pass_time(self) -> None:
        self.now += min(self._interval_s, self._timeout_s)
        if self._interval_s >= self._timeout_s:
            raise TimeoutError


def test_a_peer_that_takes_a_frame_in_pieces_gets_it_whole() -> None:
    peer = SlowPeer(3, interval_s=0.1)
    peer.stream().send(FrameKind.KERNEL, b"a kernel")
    assert peer.taken == bytes(FrameHeader(kind=FrameKind.KERNEL, length=8)) + b"a kernel"


def test_a_peer_that_takes_a_byte_every_29_s_is_given_up() -> None:
    # Its timeout began again with each byte: it could hold a migration up for ever.
    peer = SlowPeer(1, interval_s=29)
    with pytest.raises(MigrationError, match="timed out: it did not take KERNEL in time"):
        peer.stream().send(FrameKind.KERNEL, b"a kernel")
    assert peer.now <= 1000 + MESSAGE_TIMEOUT_S + 1


def test_a_peer_that_sends_a_byte_every_29_s_is_given_up() -> None:
    peer = SlowPeer(1, interval_s=29)
    peer.data = bytes(FrameHeader(kind=FrameKind.HELLO, length=8)) + b"a hello "
    with pytest.raises(MigrationError, match="timed out: HELLO did not arrive whole in time"):
        peer.stream().receive(FrameKind.HELLO)
    assert peer.now <= 1000 + MESSAGE_TIMEOUT_S + 1


@pytest.mark.parametrize("direction", ["send", "receive"])
def test_a_large_frame_may_take_longer(direction: str) -> None:
    size, rate = 40 << 20, 2 * MIN_RATE
    assert size / rate > 2 * MESSAGE_TIMEOUT_S
    peer = SlowPeer(rate, interval_s=1)
    if direction == "send":
        peer.stream().send(FrameKind.KERNEL, bytes(size))
        return
    peer.data = bytes(FrameHeader(kind=FrameKind.KERNEL, length=size)) + bytes(size)
    _, kernel = peer.stream().receive(FrameKind.KERNEL)
    assert len(kernel) == size


def test_frames_that_are_each_in_time_are_not_when_all_together_are_late() -> None:
    peer = SlowPeer(64, interval_s=4)
    stream = peer.stream()
    stream.set_deadline(10)
    stream.send(FrameKind.GO)
    stream.send(FrameKind.GO)
    with pytest.raises(MigrationError, match="did not take GO in time"):
        stream.send(FrameKind.GO)
    assert peer.now == 1010
    with pytest.raises(MigrationError, match="READY did not arrive"):
        stream.receive(FrameKind.READY)
    stream.set_deadline(None)
    peer.data = bytes(FrameHeader(kind=FrameKind.RUNNING))
    assert stream.receive(FrameKind.RUNNING)[0] is FrameKind.RUNNING


@dataclass
class NoMachine:
    """Memory that takes everything."""

    size: int = 64 << 20

    @property
    def memories(self) -> list[Self]:
        """Return the one region."""
        return [self]

    def memory_at(self, _ipa: int, _length: int) -> Self:
        """Return the one region."""
        return self

    def write(self, _ipa: int, _data: memoryview) -> None:
        """Forget it."""


def test_a_peer_that_sends_a_byte_in_each_frame_is_given_up() -> None:
    # Each frame was in time: it could keep all others waiting for years.
    peer = SlowPeer(64, interval_s=10)
    size = PAGES_HEADER_SIZE + 1
    peer.data = (bytes(FrameHeader(kind=FrameKind.PAGES, length=size)) + bytes(size)) * 100
    with pytest.raises(MigrationError, match="timed out"):
        _receive_memory_and_state(peer.stream(), NoMachine())  # type: ignore[arg-type]
    assert 1000 + MESSAGE_TIMEOUT_S < peer.now < 1000 + (MAX_ROUNDS + 2) * MESSAGE_TIMEOUT_S


def test_a_deadline_can_be_extended() -> None:
    peer = SlowPeer(64, interval_s=4)
    stream = peer.stream()
    stream.set_deadline(5)
    stream.extend_deadline(5)
    stream.send(FrameKind.GO)
    stream.send(FrameKind.GO)
    with pytest.raises(MigrationError, match="did not take GO in time"):
        stream.send(FrameKind.GO)
    assert peer.now == 1010


def test_nothing_follows_a_frame_that_was_not_sent_whole() -> None:
    # Over TLS whatever follows completes it first: GO, though the source has resumed the machine.
    peer = SlowPeer(8, interval_s=20)
    stream = peer.stream()
    with pytest.raises(MigrationError, match="did not take GO"):
        stream.send(FrameKind.GO)
    stream.give_up("too slow")
    assert peer.taken == bytes(FrameHeader(kind=FrameKind.GO))[:8]


def test_a_source_learns_that_its_target_is_none_of_pvtimes(
    pair: tuple[MigrationStream, MigrationStream],
) -> None:
    source, target = pair
    target._write(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n", time.monotonic() + DEADLINE)
    target.close()
    with pytest.raises(PeerError, match="does not speak pvtime's protocol"):
        source.send(FrameKind.KERNEL, bytes(8 << 20))


def test_memory_is_taken_as_data_comes() -> None:
    # A header of 16 bytes made the target touch the 1 GiB that it announced.
    tracemalloc.start()
    try:
        peer = SlowPeer(1 << 20, interval_s=0)
        peer.data = bytes(FrameHeader(kind=FrameKind.KERNEL, length=1 << 30)) + bytes(3 << 20)
        before, _ = tracemalloc.get_traced_memory()
        with pytest.raises(MigrationError, match="closed the connection"):
            peer.stream().receive(FrameKind.KERNEL)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most - before < 16 << 20


def test_a_closed_connection_is_an_error(pair: tuple[MigrationStream, MigrationStream]) -> None:
    pair[0].close()
    with pytest.raises(MigrationError, match="closed the connection"):
        pair[1].receive(FrameKind.READY)


@pytest.mark.parametrize("kind", list(LIMITS))
def test_a_length_that_is_too_long_is_refused_before_it_is_read(kind: FrameKind) -> None:
    ends = socket.socketpair()
    ends[0].sendall(bytes(FrameHeader(kind=kind, length=LIMITS[kind] + 1)))
    with pytest.raises(MigrationError, match=r"too long|was expected"):
        MigrationStream(ends[1]).receive(kind)
    for end in ends:
        end.close()


def _never(_description: Description) -> object:
    raise AssertionError("nothing is built of rubbish")


@given(data=st.binary(max_size=200))
def test_rubbish_is_refused_by_name(data: bytes) -> None:
    ends = socket.socketpair()
    ends[0].sendall(data)
    ends[0].shutdown(socket.SHUT_WR)
    with pytest.raises(PvtimeError):
        receive(MigrationStream(ends[1]), _never)  # type: ignore[arg-type]
    for end in ends:
        end.close()


@given(text=st.binary(max_size=100))
def test_a_greeting_that_is_none_is_refused_by_name(text: bytes) -> None:
    ends = socket.socketpair()
    for end in ends:
        end.settimeout(DEADLINE)
    MigrationStream(ends[0]).send(FrameKind.HELLO, text)
    with pytest.raises(PvtimeError):
        receive(MigrationStream(ends[1]), _never)  # type: ignore[arg-type]
    for end in ends:
        end.close()


def test_a_peer_with_an_older_protocol_is_refused_and_told_why(
    pair: tuple[MigrationStream, MigrationStream],
) -> None:
    source, target = pair
    source.send(FrameKind.HELLO, b'{"format": "pvtime migration 1", "engine": "unicorn", "config": {}}')
    with pytest.raises(MigrationError, match=f"'pvtime migration 1', this pvtime's is '{FORMAT}'"):
        receive(target, _never)  # type: ignore[arg-type]
    with pytest.raises(PeerError, match="use the same version of pvtime for both"):
        source.receive(FrameKind.READY)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "unix:",
        "tcp:",
        "tcp:host",
        "tcp::1",
        "tcp:host:0",
        "tcp:host:65536",
        "udp:host:1",
        "tcp:h:x",
        "tcp:a..b:7",
    ],
)
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="is not an address: give unix:PATH or tcp:HOST:PORT"):
        Address.parse(text)


def test_addresses_read_as_they_were_written() -> None:
    for text in ("unix:/run/a b", "tcp:127.0.0.1:7000", "tcp:localhost:1"):
        assert str(Address.parse(text)) == text
    assert Address.parse("tcp:[::1]:7").host == "::1"


def test_a_path_is_for_its_owner_and_goes_with_its_listener(tmp_path: Path) -> None:
    address = Address.parse(f"unix:{tmp_path}/socket")
    path = tmp_path / "socket"
    with address.listen():
        assert path.stat().st_mode & 0o077 == 0
        address.connect().close()
    assert not path.exists()


def test_where_nobody_listens_is_said(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot connect: there is no such socket: check"):
        Address.parse(f"unix:{tmp_path}/nobody").connect()
