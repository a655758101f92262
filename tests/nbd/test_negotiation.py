# SPDX-License-Identifier: GPL-2.0-or-later
"""The handshake: what nbd/doc/proto.md demands of a server, option by option; bytes judge, packed by its numbers."""

from __future__ import annotations

import struct
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replblock.nbd.names import ProtocolError, Rep, Transmission
from replblock.nbd.negotiation import MAX_OPTION_BYTES, MAX_OPTIONS, Export, Negotiation, Refusal
from tests.nbd import speaker as c
from tests.nbd.speaker import Reply, contexts, counted, go, hello, option, replies

SIZE = 3 << 30
HAS_FLAGS, FLUSH, FUA, DF = 1, 4, 8, 128
FLAGS = Transmission(HAS_FLAGS | FLUSH | FUA)
EXPORT_INFO = struct.pack(">HQH", 0, SIZE, FLAGS)
BLOCK_SIZE_INFO = struct.pack(">HIII", 3, 512, 4096, 32 << 20)
ALLOCATION = b"base:allocation"
PATIENT_TEXT = "this node is not primary"


def look_up(name: str) -> Export:
    if name == "shut":
        raise Refusal(Rep.ERR_SHUTDOWN, "é" * 5000)
    if name == "secondary":
        raise Refusal(Rep.ERR_POLICY, PATIENT_TEXT)
    if name not in ("", "0", "dünn"):
        raise Refusal(Rep.ERR_UNKNOWN, f"there is no {name}")
    return Export("0", SIZE, FLAGS, (512, 4096, 32 << 20), "r0 on alpha")


def fresh() -> Negotiation:
    return Negotiation(("0", "dünn"), look_up)


def said(negotiation: Negotiation) -> bytes:
    out, negotiation.out = b"".join(negotiation.out), []
    return out


def greeted(flags: int = 3) -> Negotiation:
    negotiation = fresh()
    assert said(negotiation) == c.GREETING
    negotiation.receive(hello(flags))
    assert not negotiation.out and not negotiation.chosen
    return negotiation


def asked(negotiation: Negotiation, data: bytes) -> list[Reply]:
    """Replies to this, and nothing behind them."""
    negotiation.receive(data)
    found, rest = replies(said(negotiation))
    assert not rest
    return found


def kinds(found: list[Reply]) -> list[int]:
    return [reply.kind for reply in found]


# ---- the greeting


@pytest.mark.parametrize("flags", [0, 1, 2, 3])
def test_clients_with_known_flags_are_welcome(flags: int) -> None:
    """Those that do not say they know the fixed handshake too: the specification leaves it to the server."""
    assert kinds(asked(greeted(flags), option(c.LIST))) == [c.SERVER, c.SERVER, c.ACK]


@pytest.mark.parametrize("flags", [4, 5, 8, 0x80, 0x10000, 0x80000003])
def test_unknown_client_flags_end_it(flags: int) -> None:
    with pytest.raises(ProtocolError, match="unknown flags"):
        fresh().receive(hello(flags))


@pytest.mark.parametrize("number", [c.EXPORT_NAME, c.LIST, c.GO, 99])
def test_wrong_magic_ends_it(number: int) -> None:
    with pytest.raises(ProtocolError, match="where an option begins"):
        greeted().receive(option(number, magic=b"IHAVEOPS"))


# ---- NBD_OPT_EXPORT_NAME


@pytest.mark.parametrize("flags", [1, 3])
@pytest.mark.parametrize("name", [b"", b"0", "dünn".encode()])
def test_export_name(flags: int, name: bytes) -> None:
    """Without NO_ZEROES 124 bytes of nothing follow; there is no reply header."""
    negotiation = greeted(flags)
    negotiation.receive(option(c.EXPORT_NAME, name) + b"and more")
    assert said(negotiation) == struct.pack(">QH", SIZE, FLAGS) + (b"" if flags & 2 else bytes(124))
    assert negotiation.chosen and negotiation.leftover == b"and more" and not negotiation.allocation


@pytest.mark.parametrize("name", [b"other", b"secondary", b"shut", b"\xff", b"\0", b"x" * 4097])
def test_an_export_name_that_cannot_be_had_ends_it(name: bytes) -> None:
    negotiation = greeted()
    with pytest.raises(ProtocolError):
        negotiation.receive(option(c.EXPORT_NAME, name))
    assert not negotiation.out and not negotiation.chosen


def test_structured_replies_show_in_the_flags_of_export_name() -> None:
    negotiation = greeted()
    asked(negotiation, option(c.STRUCTURED))
    negotiation.receive(option(c.EXPORT_NAME, b"0"))
    assert said(negotiation) == struct.pack(">QH", SIZE, FLAGS | DF)
    assert negotiation.structured


# ---- NBD_OPT_GO and NBD_OPT_INFO


@pytest.mark.parametrize("number", [c.GO, c.INFO])
def test_go_and_info_say_the_same(number: int) -> None:
    found = asked(greeted(), go(b"0", 0, 1, 2, 3, 77, number=number))
    assert set(found[:-1]) == {
        Reply(number, c.REP_INFO, body)
        for body in (EXPORT_INFO, BLOCK_SIZE_INFO, b"\0\1" + b"0", b"\0\2" + b"r0 on alpha")
    }
    assert found[-1] == Reply(number, c.ACK, b"")


def test_only_go_chooses() -> None:
    negotiation = greeted()
    asked(negotiation, go(b"0", number=c.INFO))
    assert not negotiation.chosen and not negotiation.closed
    asked(negotiation, go(b"0"))
    assert negotiation.chosen and not negotiation.structured and not negotiation.allocation


def test_what_was_not_asked_for() -> None:
    """NBD_INFO_EXPORT must come, the block sizes may; the names only if asked for."""
    found = asked(greeted(), go())
    assert [reply.body for reply in found] == [EXPORT_INFO, BLOCK_SIZE_INFO, b""]


def test_go_after_export_zeroes_are_never_sent() -> None:
    negotiation = greeted(flags=1)
    assert kinds(asked(negotiation, go(b"0") + b"\x25")) == [c.REP_INFO, c.REP_INFO, c.ACK]
    assert negotiation.leftover == b"\x25"


@pytest.mark.parametrize("number", [c.GO, c.INFO])
@pytest.mark.parametrize(
    ("name", "error"), [(b"other", c.UNKNOWN), (b"secondary", c.POLICY), (b"shut", c.SHUTDOWN), (b"0\0", c.INVALID)]
)
def test_a_refusal_tells_why_and_the_client_may_ask_again(number: int, name: bytes, error: int) -> None:
    negotiation = greeted()
    (refusal,) = asked(negotiation, go(name, 3, number=number))
    assert (refusal.option, refusal.kind) == (number, error)
    text = refusal.body.decode()
    assert text and len(refusal.body) <= 4096 and "\0" not in text
    assert name != b"secondary" or text == PATIENT_TEXT
    assert kinds(asked(negotiation, go(b"")))[-1] == c.ACK and negotiation.chosen


@pytest.mark.parametrize("number", [c.GO, c.INFO])
@pytest.mark.parametrize(
    "body",
    [
        b"", b"\0", b"\0\0\0", counted(b""), counted(b"0"), counted(b"0") + b"\0", counted(b"0") + b"\0\1",
        counted(b"0") + b"\0\1\0", counted(b"0") + b"\0\1\0\3\0", counted(b"0") + b"\0\0\0", b"\0\0\0\2" + b"0",
        b"\xff\xff\xff\xff" + b"0\0\0", counted(b"x" * 4097) + b"\0\0", counted(b"\xc3") + b"\0\0",
        counted(b"0") + b"\xff\xff",
    ],
)  # fmt: skip
def test_malformed_go_is_answered_and_does_not_choose(number: int, body: bytes) -> None:
    negotiation = greeted()
    assert kinds(asked(negotiation, option(number, body))) == [c.INVALID]
    assert not negotiation.chosen
    assert kinds(asked(negotiation, option(c.LIST)))[-1] == c.ACK


# ---- NBD_OPT_LIST, NBD_OPT_ABORT, what is not known


def test_list() -> None:
    negotiation = greeted()
    found = asked(negotiation, option(c.LIST))
    assert found == [
        Reply(c.LIST, c.SERVER, counted(b"0")), Reply(c.LIST, c.SERVER, counted("dünn".encode())),
        Reply(c.LIST, c.ACK, b""),
    ]  # fmt: skip
    assert kinds(asked(negotiation, option(c.LIST, b"0"))) == [c.INVALID]


@pytest.mark.parametrize("body", [b"", b"bye"])
def test_abort_is_acknowledged_and_ends_it(body: bytes) -> None:
    """The specification: data with it is to be ignored."""
    negotiation = greeted()
    assert asked(negotiation, option(c.ABORT, body) + option(c.LIST)) == [Reply(c.ABORT, c.ACK, b"")]
    assert negotiation.closed and not negotiation.chosen


@pytest.mark.parametrize("number", [0, c.PEEK, c.STARTTLS, c.EXTENDED, 12, 1 << 31, (1 << 32) - 1])
@pytest.mark.parametrize("body", [b"", b"\0" * 500])
def test_unknown_options_are_unsupported_and_passed_over(number: int, body: bytes) -> None:
    negotiation = greeted()
    (refusal,) = asked(negotiation, option(number, body))
    assert (refusal.option, refusal.kind) == (number, c.UNSUP)
    assert kinds(asked(negotiation, option(c.LIST)))[-1] == c.ACK


@pytest.mark.parametrize("number", [c.EXPORT_NAME, c.GO, c.LIST, c.SET_CONTEXTS, 99])
def test_too_long_an_option_ends_it_before_it_is_there(number: int) -> None:
    with pytest.raises(ProtocolError, match=f"of {MAX_OPTION_BYTES + 1} bytes"):
        greeted().receive(option(number, b"", length=MAX_OPTION_BYTES + 1))
    greeted().receive(option(number, b"", length=MAX_OPTION_BYTES))


def test_options_without_end_end_it() -> None:
    negotiation = greeted()
    for _ in range(MAX_OPTIONS):
        asked(negotiation, option(c.LIST))
    with pytest.raises(ProtocolError, match="without a choice"):
        negotiation.receive(option(c.LIST))


# ---- structured replies and contexts


def test_structured_replies_are_agreed_once() -> None:
    negotiation = greeted()
    assert kinds(asked(negotiation, option(c.STRUCTURED, b"\0"))) == [c.INVALID]
    assert not negotiation.structured
    assert kinds(asked(negotiation, option(c.STRUCTURED))) == [c.ACK]
    assert negotiation.structured
    assert kinds(asked(negotiation, option(c.STRUCTURED))) == [c.INVALID]
    info, *_ = asked(negotiation, go(b"0"))
    assert info.body == struct.pack(">HQH", 0, SIZE, FLAGS | DF)


@pytest.mark.parametrize("number", [c.SET_CONTEXTS, c.LIST_CONTEXTS])
def test_contexts_need_structured_replies(number: int) -> None:
    negotiation = greeted()
    assert kinds(asked(negotiation, contexts(number, b"0", ALLOCATION))) == [c.INVALID]
    asked(negotiation, option(c.STRUCTURED))
    asked(negotiation, go(b"0"))
    assert negotiation.chosen and not negotiation.allocation


LISTED = Reply(c.LIST_CONTEXTS, c.CONTEXT, bytes(4) + ALLOCATION)


@pytest.mark.parametrize(
    ("queries", "found"),
    [
        ((), True), ((b"base:",), True), ((ALLOCATION,), True), ((ALLOCATION, b"base:"), True), ((b"base:al",), False),
        ((b"qemu:dirty-bitmap:x",), False), ((b"qemu:", b"base:"), True), ((b"",), False), ((b"base:other",), False),
    ],
)  # fmt: skip
def test_listing_contexts(queries: tuple[bytes, ...], found: bool) -> None:
    negotiation = greeted()
    asked(negotiation, option(c.STRUCTURED))
    wanted = [LISTED] * found + [Reply(c.LIST_CONTEXTS, c.ACK, b"")]
    assert asked(negotiation, contexts(c.LIST_CONTEXTS, b"0", *queries)) == wanted
    asked(negotiation, go(b"0"))
    assert not negotiation.allocation


@pytest.mark.parametrize(
    ("queries", "found"),
    [
        ((), False), ((b"base:",), False), ((ALLOCATION,), True), ((b"x-y:z", ALLOCATION), True),
        ((ALLOCATION, ALLOCATION), True), ((b"base:alloc",), False), ((b"base:allocation:",), False),
    ],
)  # fmt: skip
@pytest.mark.parametrize("enter", [go(b"0"), option(c.EXPORT_NAME, b"0")])
def test_setting_contexts(queries: tuple[bytes, ...], found: bool, enter: bytes) -> None:
    """One chosen with NBD_OPT_EXPORT_NAME has them as well as one chosen with NBD_OPT_GO."""
    negotiation = greeted()
    asked(negotiation, option(c.STRUCTURED))
    *named, last = asked(negotiation, contexts(c.SET_CONTEXTS, b"0", *queries))
    assert last == Reply(c.SET_CONTEXTS, c.ACK, b"")
    assert [reply.body[4:] for reply in named] == [ALLOCATION] * found
    assert all(reply.body[:4] == b"\0\0\0\1" for reply in named)
    negotiation.receive(enter)
    assert negotiation.chosen and negotiation.allocation is found


@pytest.mark.parametrize(
    "replacing",
    [
        contexts(c.SET_CONTEXTS, b"", ALLOCATION), contexts(c.SET_CONTEXTS, b"0"), contexts(c.SET_CONTEXTS, b"other"),
        contexts(c.SET_CONTEXTS, b"0", b"base:"), option(c.SET_CONTEXTS, b"\0"),
        option(c.SET_CONTEXTS, counted(b"0") + struct.pack(">I", 2) + counted(ALLOCATION)),
        option(c.SET_CONTEXTS, counted(b"0") + struct.pack(">I", 1) + counted(b"x" * 4097)),
    ],
)  # fmt: skip
def test_setting_replaces_what_was_set_even_when_it_fails(replacing: bytes) -> None:
    """Also: contexts set for another name of the same export are not those of the name that is chosen."""
    negotiation = greeted()
    asked(negotiation, option(c.STRUCTURED) + contexts(c.SET_CONTEXTS, b"0", ALLOCATION))
    asked(negotiation, replacing)
    asked(negotiation, contexts(c.LIST_CONTEXTS, b"0"))
    asked(negotiation, go(b"0"))
    assert negotiation.chosen and not negotiation.allocation


@pytest.mark.parametrize("number", [c.SET_CONTEXTS, c.LIST_CONTEXTS])
@pytest.mark.parametrize(
    ("body", "error"),
    [
        (b"", c.INVALID), (counted(b"0"), c.INVALID), (counted(b"0") + b"\0\0\0", c.INVALID),
        (counted(b"0") + b"\0\0\0\1", c.INVALID), (counted(b"0") + b"\xff\xff\xff\xff", c.INVALID),
        (counted(b"0") + b"\0\0\0\0" + b"\0", c.INVALID), (b"\0\0\0\3" + b"0", c.INVALID),
        (counted(b"0") + b"\0\0\0\1" + b"\0\0\0\5" + b"base", c.INVALID),
        (counted(b"0") + b"\0\0\0\1" + counted(b"\xff:"), c.INVALID),
        (counted(b"other") + b"\0\0\0\0", c.UNKNOWN), (counted(b"secondary") + b"\0\0\0\0", c.POLICY),
    ],
)  # fmt: skip
def test_malformed_contexts(number: int, body: bytes, error: int) -> None:
    negotiation = greeted()
    asked(negotiation, option(c.STRUCTURED))
    assert kinds(asked(negotiation, option(number, body))) == [error]
    assert kinds(asked(negotiation, contexts(number, b"0", ALLOCATION))) == [c.CONTEXT, c.ACK]


# ---- pieces and bounds

NAMES = st.sampled_from([b"", b"0", b"other", b"secondary", b"\xff", "dünn".encode()])
OPTIONS = st.one_of(
    st.builds(lambda name, wanted, n: go(name, *wanted, number=n), NAMES, st.lists(st.integers(0, 5), max_size=4),
              st.sampled_from([c.GO, c.INFO])),
    st.builds(lambda n, name, queries: contexts(n, name, *queries), st.sampled_from([c.SET_CONTEXTS, c.LIST_CONTEXTS]),
              NAMES, st.lists(st.sampled_from([ALLOCATION, b"base:", b"qemu:"]), max_size=3)),
    st.builds(option, st.integers(0, 12), st.binary(max_size=20)),
    st.sampled_from([option(c.STRUCTURED), option(c.LIST), option(c.ABORT), option(c.EXPORT_NAME, b"0")]),
    st.binary(max_size=30),
)  # fmt: skip


def outcome(parts: list[bytes]) -> tuple[bytes, str, bool, bool, bool, bool, bytes]:
    negotiation, error, after = fresh(), "", b""
    try:
        for part in parts:
            if negotiation.chosen or negotiation.closed:
                after += part
            else:
                negotiation.receive(part)
    except ProtocolError as problem:
        error = str(problem)
    return (said(negotiation), error, negotiation.closed, negotiation.structured, negotiation.allocation,
            bool(negotiation.chosen), negotiation.leftover + after if negotiation.chosen else b"")  # fmt: skip


@given(st.lists(OPTIONS, max_size=8), st.lists(st.integers(0, 1 << 12), max_size=8))
def test_any_split_says_the_same(options: list[bytes], cuts: list[int]) -> None:
    data = hello() + b"".join(options)
    ends = sorted({cut % (len(data) + 1) for cut in cuts})
    whole = outcome([data])
    assert outcome([data[a:b] for a, b in zip([0, *ends], [*ends, len(data)])]) == whole
    assert outcome([data[i : i + 1] for i in range(len(data))]) == whole


def test_what_is_held_and_said_is_bounded() -> None:
    """The most a client can make of it: options as long as they may be, each answered with as long a text."""
    tracemalloc.start()
    try:
        negotiation = greeted()
        name = b"x" * 4096
        for _ in range(MAX_OPTIONS - 1):
            negotiation.receive(go(name))
        negotiation.receive(option(c.LIST, bytes(MAX_OPTION_BYTES))[:-1])
        held_bytes = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert held_bytes < MAX_OPTION_BYTES + MAX_OPTIONS * (4096 + 300)
    assert all(len(body) <= 4096 for _, _, body in replies(said(negotiation))[0])
