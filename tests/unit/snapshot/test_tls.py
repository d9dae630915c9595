# SPDX-License-Identifier: GPL-2.0-or-later
"""TLS between two processes that have one key: who has another one, or none, is refused on both sides."""

from __future__ import annotations

import os
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest

from framework.wait import DEADLINE
from pvtime.errors import MigrationError, PvtimeError, UsageError
from pvtime.snapshot.address import Address
from pvtime.snapshot.endpoint import Endpoint
from pvtime.snapshot.stream import Connection, FrameKind, MigrationStream
from pvtime.snapshot.tls import TlsKey, create_key


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Return two keys."""
    directory = tmp_path_factory.mktemp("keys")
    create_key(directory / "first")
    create_key(directory / "second")
    return directory / "first", directory / "second"


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Return two ends of a connection."""
    pair = socket.socketpair()
    for end in pair:
        end.settimeout(DEADLINE)
    yield pair
    for end in pair:
        end.close()


def meet(source: Callable[[], Connection], target: Callable[[], Connection]) -> list[str]:
    """Connect both sides and send a frame; return what each says: the frame's content, or its error."""
    said = ["", ""]

    def take() -> None:
        try:
            with closing(MigrationStream(target(), DEADLINE)) as stream:
                said[1] = bytes(stream.receive(FrameKind.HELLO)[1]).decode()
                stream.send(FrameKind.READY)
        except PvtimeError as error:
            said[1] = str(error)

    thread = threading.Thread(target=take)
    thread.start()
    try:
        stream = MigrationStream(source(), DEADLINE)
        stream.send(FrameKind.HELLO, b"a secret")
        said[0] = stream.receive(FrameKind.READY)[0].name
    except PvtimeError as error:
        said[0] = str(error)
    thread.join()
    return said


def test_two_that_have_a_key_understand_each_other(
    keys: tuple[Path, Path], ends: tuple[socket.socket, socket.socket]
) -> None:
    key = TlsKey(keys[0])
    assert meet(lambda: key.client(ends[0]), lambda: key.server(ends[1])) == ["READY", "a secret"]


@pytest.mark.parametrize("source", [0, 1])
def test_another_key_is_refused_by_both_sides(
    source: int, keys: tuple[Path, Path], ends: tuple[socket.socket, socket.socket]
) -> None:
    ours, theirs = TlsKey(keys[source]), TlsKey(keys[1 - source])
    for said in meet(lambda: ours.client(ends[0]), lambda: theirs.server(ends[1])):
        assert "does not have the same key: give both sides a copy of one file with --key" in said


def test_a_source_without_a_certificate_is_refused(
    keys: tuple[Path, Path], ends: tuple[socket.socket, socket.socket]
) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    said = meet(lambda: context.wrap_socket(ends[0]), lambda: TlsKey(keys[0]).server(ends[1]))
    assert "does not have the same key" in said[1]
    assert "a secret" not in said


def test_another_certificate_in_the_file_lets_nobody_in(
    keys: tuple[Path, Path], ends: tuple[socket.socket, socket.socket], tmp_path: Path
) -> None:
    # It may be an authority's, which knows many.
    both = tmp_path / "both"
    both.touch(0o600)
    both.write_bytes(keys[0].read_bytes() + keys[1].read_bytes())
    said = meet(lambda: TlsKey(keys[1]).client(ends[0]), lambda: TlsKey(both).server(ends[1]))
    assert "does not have the same key" in said[1]


def test_who_uses_no_tls_is_refused_and_nothing_is_sent_to_it(
    keys: tuple[Path, Path], ends: tuple[socket.socket, socket.socket]
) -> None:
    said = meet(lambda: ends[0], lambda: TlsKey(keys[0]).server(ends[1]))
    assert "it does not use TLS" in said[1]


def test_a_source_sends_nothing_to_a_target_without_tls(
    keys: tuple[Path, Path], ends: tuple[socket.socket, socket.socket]
) -> None:
    said = meet(lambda: TlsKey(keys[0]).client(ends[0]), lambda: ends[1])
    assert "there is no TLS connection to the peer" in said[0]
    assert said[1] == "the peer does not speak pvtime's protocol, or uses TLS where this side does not"


def test_a_handshake_that_does_not_go_on_is_given_up(
    keys: tuple[Path, Path], ends: tuple[socket.socket, socket.socket]
) -> None:
    with pytest.raises(MigrationError, match="timed out: it did not complete the TLS handshake"):
        TlsKey(keys[0], handshake_timeout_s=0.05).server(ends[1])


def test_a_connection_that_was_broken_on_purpose_sends_nothing_without_tls(
    keys: tuple[Path, Path], ends: tuple[socket.socket, socket.socket]
) -> None:
    key, sides = TlsKey(keys[0]), []
    thread = threading.Thread(target=lambda: sides.append(key.server(ends[1])))
    thread.start()
    stream = MigrationStream(key.client(ends[0]), DEADLINE)
    thread.join()
    stream.cancel()
    with pytest.raises(MigrationError, match=r"broken|closed"):
        stream.send(FrameKind.HELLO, b"a secret")
    with pytest.raises(MigrationError, match="closed the connection"):
        MigrationStream(sides[0]).receive(FrameKind.HELLO)


def test_a_key_is_its_owners_alone(keys: tuple[Path, Path], tmp_path: Path) -> None:
    assert keys[0].stat().st_mode & 0o777 == 0o600
    os.chmod(keys[1], 0o640)
    try:
        with pytest.raises(UsageError, match="other users may read it: chmod 600"):
            TlsKey(keys[1])
    finally:
        os.chmod(keys[1], 0o600)
    with pytest.raises(UsageError, match=f"key {keys[0]}: File exists"):
        create_key(keys[0])
    with pytest.raises(UsageError, match="is not a regular file"):
        TlsKey(tmp_path)


@pytest.mark.parametrize("content", [b"", b"secret", b"\xff" * 100, bytes(100_000)])
def test_what_is_no_key_is_refused_before_anybody_connects(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.touch(0o600)
    path.write_bytes(content)
    endpoint = Endpoint(Address(host="127.0.0.1", port=7), path)
    with pytest.raises(UsageError, match=f"key {path}: it is not a PEM file with a private key") as refused:
        endpoint.prepare_key()
    assert "\n" not in str(refused.value)


def test_a_key_that_does_not_exist_is_made_by_the_target_alone(tmp_path: Path) -> None:
    path = tmp_path / "key"
    endpoint = Endpoint(Address(host="127.0.0.1", port=7), path)
    with pytest.raises(UsageError, match=f"key {path}: it does not exist: give a copy of"):
        endpoint.connect()
    assert not path.exists()
    assert endpoint.prepare_key()
    assert not endpoint.prepare_key(), "it is not new any more"


def test_without_openssl_a_new_key_is_refused_with_the_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UsageError, match="install it, or give a PEM file"):
        create_key(tmp_path / "key")
    assert os.listdir(tmp_path) == []


def forward(reader: socket.socket, writer: socket.socket, record: list[bytes]) -> None:
    """Pass bytes on, and record them, until the reader's peer closes."""
    with writer, suppress(OSError):  # one of the peers may end first
        while data := reader.recv(1 << 16):
            record.append(data)
            writer.sendall(data)


@pytest.fixture
def tapped() -> Iterator[tuple[socket.socket, socket.socket, list[bytes]]]:
    """Return two ends of a connection, and what the first will have sent."""
    (source, tap), (outlet, target) = socket.socketpair(), socket.socketpair()
    sent: list[bytes] = []
    for end in (source, target):
        end.settimeout(DEADLINE)
    threads = [
        threading.Thread(target=forward, args=(tap, outlet, sent)),
        threading.Thread(target=forward, args=(outlet, tap, [])),
    ]
    for thread in threads:
        thread.start()
    yield source, target, sent
    for end in (source, target):
        end.close()
    for thread in threads:
        thread.join()


def test_a_recorded_connection_that_is_sent_again_is_refused(
    keys: tuple[Path, Path],
    tapped: tuple[socket.socket, socket.socket, list[bytes]],
    ends: tuple[socket.socket, socket.socket],
) -> None:
    key = TlsKey(keys[0])
    source, target, sent = tapped
    assert meet(lambda: key.client(source), lambda: key.server(target)) == ["READY", "a secret"]
    recorded = b"".join(sent)
    assert b"a secret" not in recorded

    def send_again() -> socket.socket:
        ends[0].sendall(recorded)
        return ends[0]

    said = meet(send_again, lambda: key.server(ends[1]))
    assert "there is no TLS connection to the peer" in said[1]


def test_a_target_that_is_shown_its_own_bytes_is_not_convinced(
    keys: tuple[Path, Path],
) -> None:
    # Both sides have one key: nobody may pass for the other by sending back what it sent.
    key = TlsKey(keys[0], handshake_timeout_s=0.5)
    for side in key.client, key.server:
        here, there = socket.socketpair()
        echo = threading.Thread(target=forward, args=(there, there, []))
        echo.start()
        with pytest.raises(MigrationError, match=r"no TLS connection|timed out"):
            side(here)
        here.close()
        echo.join()


def test_two_targets_or_two_sources_that_are_connected_do_not_convince_each_other(
    keys: tuple[Path, Path],
) -> None:
    for role in "client", "server":
        sides = socket.socketpair()
        key = TlsKey(keys[0], handshake_timeout_s=0.5)
        said: list[str] = []

        def take(end: socket.socket, key: TlsKey = key, role: str = role, said: list[str] = said) -> None:
            with pytest.raises(MigrationError) as caught:
                getattr(key, role)(end)
            said.append(str(caught.value))

        thread = threading.Thread(target=take, args=(sides[0],))
        thread.start()
        take(sides[1])
        thread.join()
        assert len(said) == 2
