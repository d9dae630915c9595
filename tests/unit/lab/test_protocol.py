# SPDX-License-Identifier: GPL-2.0-or-later
"""Host and lab understand each other, however the serial line cuts what they say."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pvtime.lab.protocol import CHUNK, AgentFrame, CommandRequest, FrameError, FrameReader, pack

frames = st.lists(st.tuples(st.sampled_from(AgentFrame), st.binary(max_size=300)), max_size=20)


@given(frames, st.integers(1, 50))
def test_frames_survive_being_cut_anywhere(sent: list[tuple[AgentFrame, bytes]], step: int) -> None:
    line = b"".join(pack(kind, payload) for kind, payload in sent)
    reader = FrameReader()
    pieces = (line[at : at + step] for at in range(0, len(line), step))
    assert [frame for piece in pieces for frame in reader.feed(piece)] == sent


def test_a_long_payload_goes_in_several_frames() -> None:
    payload = bytes(range(256)) * 1000
    received = list(FrameReader().feed(pack(AgentFrame.STDOUT, payload)))
    assert len(received) == len(payload) // CHUNK + 1
    assert b"".join(piece for _, piece in received) == payload


@pytest.mark.parametrize(
    "noise", [b"\0" * 8, b"Unable to handle kernel paging request", b"\x11\xff\xff\xff\xff"]
)
def test_noise_is_not_taken_for_frames(noise: bytes) -> None:
    with pytest.raises(FrameError):
        list(FrameReader().feed(noise))


def test_a_request_comes_through() -> None:
    request = CommandRequest(["pvtime", "run"], {"TERM": "dumb"}, ["out.json"], (80, 25))
    assert CommandRequest.decode(request.encode()) == request
