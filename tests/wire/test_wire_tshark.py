# SPDX-License-Identifier: GPL-2.0-or-later
"""Every packet as Wireshark's DRBD dissector reads it: lengths, names and fields agree, in all three header forms."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from replblock.wire.commands import COMMANDS, OPENING, Cmd, Stream
from replblock.wire.headers import pack_packet
from tests.wire.samples import ALL_FEATURES, OPENING_SAMPLES, Sample, pack_95, samples
from tests.wire.tshark import Packet, Segment, assert_clean, read, write_pcap

DATA, META = 0, 1


def check(sample: Sample, seen: Packet) -> None:
    name = COMMANDS[sample.cmd].name
    assert (seen.command, seen.length) == (sample.cmd, len(sample.body)), name
    assert name in seen.label or sample.cmd == Cmd.SUPERSEDED, seen.label
    for field, value in sample.fields.items():
        assert seen.number(field) == value, f"{name} {field}"
    for field, raw in sample.opaque.items():
        assert seen.bytes_of(field) == raw, f"{name} {field}"
    for field, text in sample.strings.items():
        assert seen.fields[field] == [text], f"{name} {field}"


def capture(path: Path, version: int, features: int, pack: Callable[[int, bytes], bytes]) -> list[Sample]:
    """Two connections: the opening packets, then every packet of the version on the connection it belongs to."""
    opening = {DATA: (Cmd.INITIAL_DATA, Cmd.CONNECTION_FEATURES), META: (Cmd.INITIAL_META,)}
    sent, segments = [], []
    for stream, cmds in opening.items():
        for cmd in cmds:
            sent.append(OPENING_SAMPLES[cmd])
            segments.append(Segment(stream, True, pack_packet(0, cmd, sent[-1].body)))
    answer = OPENING_SAMPLES[Cmd.CONNECTION_FEATURES]
    segments.append(Segment(DATA, False, pack_packet(0, answer.cmd, answer.body)))
    sent.append(answer)
    for sample in samples(version, features):
        stream = META if COMMANDS[sample.cmd].stream is Stream.META else DATA
        for to_listener in (True, False):
            sent.append(sample)
            segments.append(Segment(stream, to_listener, pack(sample.cmd, sample.body)))
    write_pcap(path, segments)
    return sent


@pytest.mark.parametrize(
    ("version", "features", "pack"),
    [
        pytest.param(86, 0, lambda cmd, body: pack_packet(86, cmd, body), id="h80-86"),
        pytest.param(88, 0, lambda cmd, body: pack_packet(88, cmd, body), id="h80-88"),
        pytest.param(91, 0, lambda cmd, body: pack_packet(91, cmd, body), id="h80-91"),
        pytest.param(97, 0, pack_95, id="h95-97"),
        pytest.param(99, ALL_FEATURES, lambda cmd, body: pack_packet(99, cmd, body), id="mixed-99"),
        pytest.param(101, 0, lambda cmd, body: pack_packet(101, cmd, body, 0), id="h100-plain"),
        pytest.param(101, ALL_FEATURES, lambda cmd, body: pack_packet(101, cmd, body, 0), id="h100-all"),
    ],
)
def test_every_packet(tmp_path: Path, version: int, features: int, pack: Callable[[int, bytes], bytes]) -> None:
    pcap = tmp_path / "all.pcap"
    sent = capture(pcap, version, features, pack)
    seen = assert_clean(pcap)
    assert len(seen) == len(sent)
    for sample, packet in zip(sent, seen):
        check(sample, packet)


def test_the_samples_leave_no_packet_out() -> None:
    """So that a new row of the table cannot escape tshark's opinion."""
    known = {sample.cmd for version in (86, 101) for sample in samples(version, ALL_FEATURES)} | OPENING
    unused = {Cmd.BECOME_SYNC_TARGET, Cmd.BECOME_SYNC_SOURCE}
    ours = {Cmd.LZ4}
    assert known | unused | ours == set(COMMANDS)


def test_volumes_and_a_body_over_many_segments(tmp_path: Path) -> None:
    data, trim = (next(s for s in samples(101, ALL_FEATURES) if s.cmd == cmd) for cmd in (Cmd.DATA, Cmd.TRIM))
    long = data._replace(body=data.body[:24] + b"\x77" * (1 << 20), fields=data.fields | {"size": 1 << 20}, opaque={})
    stream = pack_packet(101, long.cmd, long.body, 3) + pack_packet(101, trim.cmd, trim.body, 65535 >> 1)
    opening = pack_packet(0, Cmd.INITIAL_DATA)
    write_pcap(tmp_path / "long.pcap", [Segment(DATA, True, opening), Segment(DATA, True, stream)])
    _, first, second = assert_clean(tmp_path / "long.pcap")
    check(long, first)
    check(trim, second)
    assert (first.volume, second.volume) == (3, 32767)


@pytest.mark.parametrize("lost", [3, 4, 5, 6])
def test_the_helper_sees_a_hole_in_the_capture(tmp_path: Path, lost: int) -> None:
    """dumpcap drops segments when its buffer is full: such a capture must not pass for a clean one."""
    packet = pack_packet(101, Cmd.UNPLUG_REMOTE)
    opening = Segment(DATA, True, pack_packet(0, Cmd.INITIAL_DATA))
    segments = [opening, Segment(DATA, True, pack_packet(101, Cmd.DATA, bytes(24 + 4096)) + packet[:5])]
    segments += [Segment(DATA, True, packet[5:]), Segment(DATA, True, packet)]
    segments += [Segment(DATA, False, packet)]          # acknowledges everything before it
    write_pcap(tmp_path / "whole.pcap", segments)
    assert len(assert_clean(tmp_path / "whole.pcap")) == 5
    write_pcap(tmp_path / "hole.pcap", segments, skip_frames={lost})
    with pytest.raises(AssertionError):
        assert_clean(tmp_path / "hole.pcap")


def test_a_capture_may_end_in_half_a_packet_if_the_test_says_so(tmp_path: Path) -> None:
    pcap = tmp_path / "cut.pcap"
    cut = pack_packet(101, Cmd.DATA, bytes(24 + 4096))[:100]
    write_pcap(pcap, [Segment(DATA, True, pack_packet(0, Cmd.INITIAL_DATA)), Segment(DATA, True, cut)])
    with pytest.raises(AssertionError, match="100 of 108 bytes are in no packet"):
        assert_clean(pcap)
    assert len(assert_clean(pcap, whole=False)) == 1


@pytest.mark.parametrize(
    "wrong", [pack_packet(101, 0x99, b"abc"), pack_packet(101, Cmd.STATE, b"ab"), b"GET / HTTP/1.1\r\n\r\n", b"rubbish"]
)
def test_the_helper_sees_what_is_wrong(tmp_path: Path, wrong: bytes) -> None:
    opening = pack_packet(0, Cmd.INITIAL_DATA)
    write_pcap(tmp_path / "bad.pcap", [Segment(DATA, True, opening), Segment(META, True, wrong)])
    assert read(tmp_path / "bad.pcap").complaints
