# SPDX-License-Identifier: GPL-2.0-or-later
"""Frames between two processes, and addresses: a peer is input."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from framework.wait import DEADLINE
from pvtime.errors import MigrationError, PvtimeError, UsageError
from pvtime.snapshot.address import Address, first_peer
from pvtime.snapshot.description import Description
from pvtime.snapshot.receive import receive
from pvtime.snapshot.stream import LIMITS, FrameHeader, FrameKind, MigrationStream, PeerError


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
    with pytest.raises(MigrationError, match="frame 8 where READY or RUNNING was expected"):
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


class Sluggish:
    """A connection that takes three bytes at a time, and would not take all in one call's time."""

    def __init__(self) -> None:
        self.taken = b""

    def send(self, data: memoryview) -> int:
        """Take some."""
        self.taken += data[:3]
        return len(data[:3])


def test_a_peer_is_waited_for_as_long_as_it_takes_something() -> None:
    connection = Sluggish()
    MigrationStream(cast("socket.socket", connection)).send(FrameKind.KERNEL, b"a kernel")
    assert connection.taken == bytes(FrameHeader(kind=FrameKind.KERNEL, length=8)) + b"a kernel"


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
    with pytest.raises(MigrationError, match="'pvtime migration 1', this pvtime's is 'pvtime migration 2'"):
        receive(target, _never)  # type: ignore[arg-type]
    with pytest.raises(PeerError, match="use the same version of pvtime for both"):
        source.receive(FrameKind.READY)


@pytest.mark.parametrize(
    "text",
    ["", "unix:", "tcp:", "tcp:host", "tcp::1", "tcp:host:0", "tcp:host:65536", "udp:host:1", "tcp:h:x"],
)
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="is not an address: give unix:PATH or tcp:HOST:PORT"):
        Address.parse(text)


def test_addresses_read_as_they_were_written() -> None:
    for text in ("unix:/run/a b", "tcp:127.0.0.1:7000", "tcp:localhost:1"):
        assert str(Address.parse(text)) == text
    assert Address.parse("tcp:[::1]:7").host == "::1"


def test_a_path_is_for_its_owner_and_goes_when_a_peer_has_come(tmp_path: Path) -> None:
    address = Address.parse(f"unix:{tmp_path}/socket")
    path = tmp_path / "socket"
    listener = address.listen()
    assert path.stat().st_mode & 0o077 == 0
    with address.connect() as connection, first_peer(listener) as accepted:
        assert not path.exists()
        connection.sendall(b"it is")
        assert accepted.recv(10) == b"it is"


def test_where_nobody_listens_is_said(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot connect: No such file"):
        Address.parse(f"unix:{tmp_path}/nobody").connect()
