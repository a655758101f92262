# SPDX-License-Identifier: GPL-2.0-or-later
"""Who speaks NBD makes no difference to a client: the direct door answers word for word as nbdkit itself does.

nbdkit serves its memory plugin under the block sizes that the engine has. Where the two differ the table says so.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.engine.clients import MemoryCore, Raw, Served
from tests.engine.conftest import wait_for
from tests.nbd import speaker as c

END = 40 << 20
ALLOCATION = b"base:allocation"
SIZES = ("blocksize-minimum=512", "blocksize-preferred=4096", "blocksize-maximum=32M", "blocksize-error-policy=error")


@pytest.fixture(scope="module")
def nbdkit(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    path = tmp_path_factory.mktemp("nbdkit") / "memory"
    command = ["nbdkit", "-f", "-U", str(path), "--filter=blocksize-policy", "memory", str(END), *SIZES]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:
        wait_for(path.exists)
        yield path
    finally:
        process.terminate()
        process.wait()


@pytest.fixture
def ask_both(nbdkit: Path, start_loop: Callable[..., Any], tmp_path: Path) -> Iterator[Callable[..., tuple[Any, Any]]]:
    """ask_both(what, words…) → what ours answers and what nbdkit does; None where the connection ends."""
    core = MemoryCore(END)
    served = Served(start_loop(core), core, tmp_path / "r0.direct")

    def ask(what: Callable[..., Any], *words: bytes) -> tuple[Any, Any]:
        found: list[Any] = []
        for path in (served.path, nbdkit):
            client = Raw(path)
            try:
                found.append(what(client, *words))
            except (AssertionError, ConnectionError):
                found.append(None)
            client.close()
        return found[0], found[1]

    yield ask
    served.end()


def options(client: Raw, *words: bytes) -> list[list[tuple[int, int, bytes]]]:
    """The replies to each option; texts and what each server names its own are left out."""
    client.greet()
    said = [client.option(one) for one in words]
    return [[(r.option, r.kind, r.body if r.kind == c.CONTEXT else b"") for r in replies] for replies in said]


STRUCTURED = c.option(c.STRUCTURED)
LIST = c.option(c.LIST)
OPTIONS: dict[str, tuple[bytes, ...]] = {
    "list": (LIST,),
    "list-with-data": (c.option(c.LIST, b"x"), LIST),
    "abort": (c.option(c.ABORT),),
    "abort-with-data": (c.option(c.ABORT, b"x"),),
    "unknown": (c.option(77, b"x"), LIST),
    "unknown-long": (c.option(77, bytes(16000)), LIST),
    "go": (c.go(b"", 3),),
    "info-go": (c.go(b"", 3, number=c.INFO), c.go(b"", 3)),
    "go-short": (c.option(c.GO, b"\0"), LIST),
    "go-extra": (c.option(c.GO, c.counted(b"") + b"\0\0\0"), LIST),
    "go-name-outside": (c.option(c.GO, b"\0\0\0\5" + b"\0\0"), LIST),
    "go-name-too-long": (c.option(c.GO, c.counted(b"x" * 4097) + b"\0\0"), LIST),
    "structured": (STRUCTURED, LIST),
    "structured-with-data": (c.option(c.STRUCTURED, b"x"), STRUCTURED),
    "set-before-structured": (c.contexts(c.SET_CONTEXTS, b"", ALLOCATION), LIST),
    "set": (STRUCTURED, c.contexts(c.SET_CONTEXTS, b"", ALLOCATION)),
    "set-none": (STRUCTURED, c.contexts(c.SET_CONTEXTS, b"")),
    "set-all": (STRUCTURED, c.contexts(c.SET_CONTEXTS, b"", b"base:")),
    "set-others": (STRUCTURED, c.contexts(c.SET_CONTEXTS, b"", b"qemu:x", ALLOCATION)),
    "set-malformed": (STRUCTURED, c.option(c.SET_CONTEXTS, b"\0"), LIST),
    "contexts": (STRUCTURED, c.contexts(c.LIST_CONTEXTS, b"")),
    "contexts-all": (STRUCTURED, c.contexts(c.LIST_CONTEXTS, b"", b"base:")),
    "contexts-other": (STRUCTURED, c.contexts(c.LIST_CONTEXTS, b"", b"x:y")),
    "magic": (b"IHAVEOPS" + bytes(8),),
}  # fmt: skip


@pytest.mark.parametrize("name", OPTIONS)
def test_options(ask_both: Callable[..., Any], name: str) -> None:
    ours, theirs = ask_both(options, *OPTIONS[name])
    assert ours == theirs


def test_unknown_client_flags(ask_both: Callable[..., Any]) -> None:
    def greeting(client: Raw) -> list[Any]:
        client.greet(0x80)
        return client.option(LIST)

    assert ask_both(greeting) == (None, None)


def request(client: Raw, entering: bytes, words: bytes) -> c.Answer:
    client.greet().send(entering)
    acknowledged = 0
    while acknowledged < (3 if STRUCTURED in entering else 1):
        head = client.receive(20)
        (reply,), _ = c.replies(head + client.receive(int.from_bytes(head[16:], "big")))
        acknowledged += reply.kind == c.ACK
    return client.ask(words, read_bytes=512 * (words[6:8] == b"\0\0"))


REQUESTS = {
    "read": c.request(c.READ, 1, 0, 512), "read-0": c.request(c.READ, 1, 0, 0),
    "read-unaligned": c.request(c.READ, 1, 1, 512), "read-end": c.request(c.READ, 1, END, 512),
    "read-huge": c.request(c.READ, 1, 0, (32 << 20) + 512), "read-df": c.request(c.READ, 1, 0, 512, flags=c.DF),
    "read-fua": c.request(c.READ, 1, 0, 512, flags=c.FUA), "read-one": c.request(c.READ, 1, 0, 512, flags=c.REQ_ONE),
    "read-flag": c.request(c.READ, 1, 0, 512, flags=64), "write": c.write(1, 512, b"w" * 512),
    "write-fua": c.write(1, 512, b"w" * 512, c.FUA), "write-end": c.write(1, END - 512, bytes(1024)),
    "write-unaligned": c.write(1, 1, bytes(512)), "write-df": c.write(1, 0, bytes(512), c.DF),
    "write-too-long": c.write(1, 0, bytes((32 << 20) + 512)),
    "trim": c.request(c.TRIM, 1, 0, 4096), "trim-0": c.request(c.TRIM, 1, 0, 0),
    "trim-end": c.request(c.TRIM, 1, END, 512),
    "trim-no-hole": c.request(c.TRIM, 1, 0, 512, flags=c.NO_HOLE), "zero": c.request(c.ZEROES, 1, 0, END),
    "zero-no-hole": c.request(c.ZEROES, 1, 0, 512, flags=c.NO_HOLE), "zero-end": c.request(c.ZEROES, 1, END, 512),
    "zero-unaligned": c.request(c.ZEROES, 1, 0, 100), "zero-flag": c.request(c.ZEROES, 1, 0, 512, flags=64),
    "flush": c.request(c.FLUSH, 1), "flush-fua": c.request(c.FLUSH, 1, flags=c.FUA),
    "flush-offset": c.request(c.FLUSH, 1, 512), "flush-length": c.request(c.FLUSH, 1, 0, 512),
    "cache": c.request(c.CACHE, 1, 0, 512), "cache-0": c.request(c.CACHE, 1, 0, 0),
    "cache-end": c.request(c.CACHE, 1, END, 512), "cache-flag": c.request(c.CACHE, 1, 0, 512, flags=c.REQ_ONE),
    "status-0": c.request(c.STATUS, 1, 0, 0), "status-end": c.request(c.STATUS, 1, END, 512),
    "status-flag": c.request(c.STATUS, 1, 0, 512, flags=c.DF), "unknown": c.request(9, 1, 0, 512),
    "disc": c.request(c.DISC, 1, 5, 5), "magic": bytes(28), "extended": bytes.fromhex("21e41c71") + bytes(28),
}  # fmt: skip
ENTERING = {
    "plain": c.go(b""),
    "structured": STRUCTURED + c.contexts(c.SET_CONTEXTS, b"", ALLOCATION) + c.go(b""),
}


@pytest.mark.parametrize("entering", ENTERING)
@pytest.mark.parametrize("name", REQUESTS)
def test_requests(ask_both: Callable[..., Any], name: str, entering: str) -> None:
    ours, theirs = ask_both(request, ENTERING[entering], REQUESTS[name])
    assert (ours is None) == (theirs is None)
    if ours is not None:
        assert ours._replace(body=b"") == theirs._replace(body=b"")
        assert ours.error or ours.body == theirs.body


KNOWN: dict[str, tuple[bytes, int, int]] = {
    # what                      the words                                              ours    nbdkit's: both may be
    "a write of nothing":       (c.write(1, 0, b""),                                     22,     28),
    "a zeroing of nothing":     (c.request(c.ZEROES, 1, 0, 0),                           22,     28),
    "fast zeroes, not offered": (c.request(c.ZEROES, 1, 0, 512, flags=c.FAST_ZERO),      22,      0),
}  # fmt: skip


@pytest.mark.parametrize("what", KNOWN)
def test_known_differences(ask_both: Callable[..., Any], what: str) -> None:
    words, mine, its = KNOWN[what]
    ours, theirs = ask_both(request, ENTERING["plain"], words)
    assert (ours.error, theirs.error) == (mine, its)
