"""The far end of SPDY streams, without a network."""

from __future__ import annotations

import json
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lbproxy.demo.spdy import DICTIONARY, FIN, Control, Frame, HeaderCodec, SpdyEcho, control_frame, data_frame

COMMAND = frozenset({"error", "stdin", "stdout"})


class Client:
    """Makes a client's frames and takes the answers apart, with a header codec of its own."""

    def __init__(self) -> None:
        self.codec = HeaderCodec()

    def open(self, stream: int, kind: str) -> bytes:
        head = stream.to_bytes(4) + bytes(6)
        return control_frame(Control.SYN_STREAM, head + self.codec.encode({"streamtype": kind}))

    def read(self, answer: bytes) -> list[Frame]:
        frames = []
        while answer:
            size = 8 + int.from_bytes(answer[5:8])
            head, payload = int.from_bytes(answer[:4]), answer[8:size]
            control = head & 0xFFFF if head >> 31 else 0
            stream = int.from_bytes(payload[:4]) if control else head
            frames.append(Frame(control, stream, answer[4], payload))
            answer = answer[size:]
        return frames


def data(frames: list[Frame], stream: int) -> bytes:
    return b"".join(frame.payload for frame in frames if frame.control == 0 and frame.stream == stream)


def test_the_dictionary_is_the_one_of_the_draft() -> None:
    """Section 2.6.10.1; its Adler-32 is what every SPDY/3 zlib stream names."""
    assert (len(DICTIONARY), zlib.adler32(DICTIONARY)) == (1423, 0xE3C6A7C2)


@given(st.lists(st.dictionaries(st.text(min_size=1), st.text()), max_size=4))
def test_header_blocks_share_one_zlib_stream(blocks: list[dict[str, str]]) -> None:
    one, other = HeaderCodec(), HeaderCodec()
    assert [other.decode(one.encode(block)) for block in blocks] == blocks


@given(st.integers(1, 40), st.binary(max_size=100))
def test_a_command_echoes_its_input_whatever_the_pieces(step: int, text: bytes) -> None:
    client, far = Client(), SpdyEcho(COMMAND, b"hello\n")
    sent = client.open(1, "error") + client.open(3, "stdin") + client.open(5, "stdout")
    sent += data_frame(3, text) + data_frame(3, b"", FIN)
    answer = b"".join(far.feed(sent[at : at + step]) for at in range(0, len(sent), step))
    frames = client.read(answer)
    assert [frame.stream for frame in frames if frame.control == Control.SYN_REPLY] == [1, 3, 5]
    assert data(frames, 5) == b"hello\n" + text
    assert json.loads(data(frames, 1))["status"] == "Success"
    assert [frame.stream for frame in frames if frame.flags & FIN] == [5, 1]
    assert far.finished


def test_a_command_without_input_ends_when_its_streams_are_open() -> None:
    client, far = Client(), SpdyEcho(frozenset({"error", "stdout"}), b"hello\n")
    assert data(client.read(far.feed(client.open(1, "error"))), 1) == b""
    assert data(client.read(far.feed(client.open(3, "stdout"))), 3) == b"hello\n"
    assert far.finished


def test_a_forwarded_port_echoes_each_connection_on_its_own_stream() -> None:
    client, far = Client(), SpdyEcho()
    for stream, kind in ((1, "error"), (3, "data"), (5, "error"), (7, "data")):
        far.feed(client.open(stream, kind))
    frames = client.read(far.feed(data_frame(7, b"seven") + data_frame(3, b"three", FIN)))
    assert frames == [Frame(0, 7, 0, b"seven"), Frame(0, 3, FIN, b"three")]


def test_pings_come_back() -> None:
    ping = control_frame(Control.PING, (7).to_bytes(4))
    assert SpdyEcho().feed(ping) == ping


def test_what_is_not_spdy_3_is_refused() -> None:
    with pytest.raises(ValueError, match="not SPDY/3"):
        SpdyEcho().feed(b"\x80\x02\x00\x01\x00\x00\x00\x00")
    with pytest.raises(zlib.error):
        SpdyEcho().feed(control_frame(Control.SYN_STREAM, bytes(10) + b"garbage"))
