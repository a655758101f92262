# SPDX-License-Identifier: GPL-2.0-or-later
"""The direct door: clients come, ask and go. libnbd, its tools and qemu-img judge."""

from __future__ import annotations

import errno
import json
import random
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nbd
import pytest

from replblock.core.requests import Op
from tests.engine.clients import MemoryCore, Served
from tests.engine.conftest import Lines, wait_for
from tests.engine.fakes import PlainCore, make_disk
from tests.nbd import speaker as c

MIB = 1 << 20


@pytest.fixture
def serve(start_loop: Callable[..., Any], tmp_path: Path) -> Iterator[Callable[..., Served]]:
    found: list[Served] = []

    def start(core: Any = None) -> Served:
        core = core or MemoryCore()
        found.append(Served(start_loop(core), core, tmp_path / f"r{len(found)}.direct"))
        return found[-1]

    yield start
    for served in found:
        served.end()


@pytest.fixture
def served(serve: Callable[..., Served]) -> Served:
    return serve()


def tool(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout


# ---- coming


def test_what_the_door_announces(served: Served) -> None:
    for export in ("", "0"):
        handle = served.connect(export)
        assert handle.get_size() == 8 * MIB and not handle.is_read_only()
        assert handle.can_flush() and handle.can_fua() and handle.can_trim() and handle.can_zero()
        assert handle.can_multi_conn() and handle.can_cache() and handle.can_df() and not handle.can_fast_zero()
        sizes = [handle.get_block_size(n) for n in (nbd.SIZE_MINIMUM, nbd.SIZE_PREFERRED, nbd.SIZE_MAXIMUM)]
        assert sizes == [512, 4096, 32 * MIB]
        handle.shutdown()
    # --no-content: without file(1) nbdinfo prints whatever lay in its memory
    for how in ((served.uri(),), ("--list", f"nbd+unix://?socket={served.path}")):
        (export,) = json.loads(tool("nbdinfo", "--no-content", "--json", *how))["exports"]
        assert (export["export-name"], export["contexts"]) == ("0", ["base:allocation"])
    (export,) = json.loads(tool("nbdinfo", "--no-content", "--json", served.uri()))["exports"]
    assert export["description"] == "r0 on alpha"


def test_the_canonical_name_is_the_one_in_the_list(served: Served) -> None:
    for export in ("", "0"):
        handle = nbd.NBD()
        handle.set_full_info(True)
        handle.set_export_name(export)
        handle.connect_unix(str(served.path))
        assert handle.get_canonical_export_name() == "0"
        handle.shutdown()


@pytest.mark.parametrize(
    ("export", "shut", "words"),
    [
        ("0", "", "this node is not primary; run: replctl primary, or ask the other node"),
        ("", "", "this node is not primary"),
        ("0", "secondary is under way", "secondary is under way"),
        ("7", "", "there is no volume '7' here, only 0"),
    ],
)
def test_a_refused_client_hears_why(served: Served, log: Lines, export: str, shut: str, words: str) -> None:
    """The client's user reads it, and so does who reads the log; the door opens again for the next one."""
    served.core.doors_open = bool(shut) or export == "7"
    if shut:
        assert served.in_loop(lambda: served.door.shut(shut))
    command = ["qemu-img", "info", served.uri(export)]
    said = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert said.returncode and words in said.stderr
    with pytest.raises(nbd.Error):
        served.connect(export)
    assert words in log.with_rule("door-refused")[0] and len(log.lines) == 1
    served.core.doors_open = True
    served.in_loop(served.door.reopen)
    served.connect().shutdown()


def test_a_refused_client_may_ask_again_on_the_same_connection(served: Served) -> None:
    served.core.doors_open = False
    client = served.raw().greet()
    for number in (c.INFO, c.GO):
        assert client.option(c.go(b"0", number=number))[-1].kind == c.POLICY
    assert client.option(c.option(c.LIST))[-1].kind == c.ACK
    assert served.door.clients == 0
    served.core.doors_open = True
    assert client.option(c.go(b"0"))[-1].kind == c.ACK
    wait_for(lambda: served.door.clients == 1)


def test_the_old_way_in(served: Served) -> None:
    """NBD_OPT_EXPORT_NAME: no refusal but the end; requests may follow in the same piece."""
    client = served.raw()
    client.send(c.hello(1) + c.option(c.EXPORT_NAME, b"0") + c.request(c.READ, 5, 0, 512))
    said = client.receive(len(c.GREETING) + 10 + 124)[len(c.GREETING) :]
    assert int.from_bytes(said[:8], "big") == 8 * MIB and said[10:] == bytes(124)
    assert client.answers(1, {5: 512})[5].body == bytes(512)
    other = served.raw().greet()
    other.send(c.option(c.EXPORT_NAME, b"7"))
    assert other.until_closed() == b""


def test_abort_is_acknowledged_before_the_end(served: Served) -> None:
    client = served.raw().greet()
    client.send(c.option(c.LIST) + c.option(c.ABORT))
    found, rest = c.replies(client.until_closed())
    assert [reply.kind for reply in found] == [c.SERVER, c.ACK, c.ACK] and not rest


# ---- asking


@pytest.mark.parametrize("structured", [True, False])
def test_every_request_does_to_the_disk_what_it_says(served: Served, structured: bool) -> None:
    """A model beside the device: random reads, writes, trims and zeroings, also larger than 1 MiB, FUA and flushes."""
    handle, core = served.connect(structured=structured), served.core
    assert handle.get_structured_replies_negotiated() is structured
    size, chance = 8 * MIB, random.Random(1)
    model = bytearray(size)
    for _ in range(200):
        length = chance.choice([512, 4096, 65536, MIB - 512, MIB, MIB + 512, 3 * MIB])
        offset = chance.randrange(0, (size - length) // 512 + 1) * 512
        fua, no_hole = chance.choice([0, nbd.CMD_FLAG_FUA]), chance.choice([0, nbd.CMD_FLAG_NO_HOLE])
        core.seen.clear()
        match chance.randrange(6):
            case 0 | 1:
                data = chance.randbytes(length)
                handle.pwrite(data, offset, fua)
                model[offset : offset + length] = data
                wanted = (Op.WRITE, bool(fua), False)
            case 2:
                assert handle.pread(length, offset) == model[offset : offset + length]
                wanted = (Op.READ, False, False)
            case 3:
                handle.zero(length, offset, fua | no_hole)
                model[offset : offset + length] = bytes(length)
                wanted = (Op.ZERO, bool(fua), not no_hole)
            case 4:
                handle.trim(length, offset, fua)
                model[offset : offset + length] = bytes(length)
                wanted = (Op.TRIM, bool(fua), True)
            case 5:
                handle.flush()
                assert core.seen == [(Op.FLUSH, 0, 0, False, False)]
                continue
        assert {(op, f, punch) for op, _, _, f, punch in core.seen} == {wanted}
        assert sum(part for _, _, part, _, _ in core.seen) == length
        assert core.content == model
    handle.shutdown()
    wait_for(lambda: served.door.clients == 0)


@pytest.mark.parametrize("structured", [True, False])
def test_the_largest_requests(serve: Callable[..., Served], structured: bool) -> None:
    """32 MiB each way; one sector more is refused, whatever way the client sends it, and the connection goes on."""
    served = serve(MemoryCore(40 * MIB))
    handle = served.connect(structured=structured)
    data = random.Random(2).randbytes(32 * MIB)
    handle.pwrite(data, 512)
    assert served.core.content[512 : 512 + len(data)] == data
    assert handle.pread(len(data), 512) == data
    for wrong in (lambda: handle.pwrite(data + bytes(512), 0), lambda: handle.pread(len(data) + 512, 0)):
        with pytest.raises(nbd.Error) as error:
            wrong()
        assert error.value.errno == "EINVAL"
    assert handle.pread(512, 512) == data[:512]
    handle.zero(40 * MIB, 0)
    assert served.core.content == bytes(40 * MIB)
    handle.shutdown()


def test_copying_there_and_back(served: Served, tmp_path: Path) -> None:
    """nbdcopy: four connections, many requests at once, holes looked for."""
    data = random.Random(3).randbytes(5 * MIB) + bytes(MIB) + b"end " * (MIB // 2)
    (tmp_path / "there").write_bytes(data)
    tool("nbdcopy", "--connections=4", "--request-size=262144", str(tmp_path / "there"), served.uri())
    assert served.core.content == data
    tool("nbdcopy", "--connections=4", served.uri(), str(tmp_path / "back"))
    assert (tmp_path / "back").read_bytes() == data
    tool("qemu-img", "compare", "-f", "raw", "-F", "raw", str(tmp_path / "there"), served.uri())


def test_requests_of_two_clients_in_flight(served: Served) -> None:
    """Answered in another order than asked, each to whom it belongs."""
    core = served.core
    core.holds = lambda request: request.op == Op.WRITE
    handles = [served.connect(structured=number == 0) for number in range(2)]
    pending = []
    for index in range(64):
        for number, handle in enumerate(handles):
            data = bytes([number, index, 7, 9]) * 1024
            at = (number * 64 + index) * 4096
            pending.append((handle, handle.aio_pwrite(nbd.Buffer.from_bytearray(bytearray(data)), at)))
    wait_for(lambda: _turn(handles) or len(core.held) == 128)
    assert handles[0].pread(4096, 0) == handles[1].pread(4096, 64 * 4096) == bytes(4096)
    served.in_loop(lambda: random.Random(4).shuffle(core.held))
    served.release()
    wait_for(lambda: _turn(handles) or not any(handle.aio_in_flight() for handle in handles))
    assert all(handle.aio_command_completed(cookie) for handle, cookie in pending)
    for number, handle in enumerate(handles):
        wanted = b"".join(bytes([number, index, 7, 9]) * 1024 for index in range(64))
        assert handle.pread(64 * 4096, number * 64 * 4096) == wanted
        handle.shutdown()


def _turn(handles: list[nbd.NBD]) -> None:
    for handle in handles:
        handle.poll(1)


WRONG = [
    # kind, offset, length, flags, error
    (c.READ, 1, 512, 0, errno.EINVAL), (c.READ, 0, 511, 0, errno.EINVAL), (c.READ, 0, 0, 0, errno.EINVAL),
    (c.READ, 8 * MIB, 512, 0, errno.EINVAL), (c.READ, (1 << 64) - 512, 1024, 0, errno.EINVAL),
    (c.READ, 0, (1 << 32) - 512, 0, errno.EINVAL),
    (c.WRITE, 8 * MIB - 512, 1024, 0, errno.ENOSPC), (c.WRITE, 100, 512, 0, errno.EINVAL),
    (c.WRITE, 0, 0, 0, errno.EINVAL),
    (c.TRIM, 8 * MIB - 512, 1024, 0, errno.EINVAL), (c.TRIM, 0, 100, 0, errno.EINVAL),
    (c.ZEROES, 0, (1 << 32) - 512, 0, errno.ENOSPC), (c.ZEROES, 7, 512, 0, errno.EINVAL),
    (c.CACHE, 8 * MIB, 512, 0, errno.EINVAL), (c.FLUSH, 0, 512, 0, errno.EINVAL), (c.FLUSH, 512, 0, 0, errno.EINVAL),
    (c.STATUS, 0, 512, 0, errno.EINVAL), (8, 0, 512, 0, errno.EINVAL), (0xFFFF, 0, 0, 0, errno.EINVAL),
    (c.READ, 0, 512, c.REQ_ONE, errno.EINVAL), (c.READ, 0, 512, c.NO_HOLE, errno.EINVAL),
    (c.WRITE, 0, 512, c.DF, errno.EINVAL), (c.TRIM, 0, 512, c.NO_HOLE, errno.EINVAL),
    (c.ZEROES, 0, 512, c.FAST_ZERO, errno.EINVAL), (c.READ, 0, 512, c.PAYLOAD_LEN, errno.EINVAL),
    (c.WRITE, 0, 512, 0x8000, errno.EINVAL), (c.CACHE, 0, 512, 64, errno.EINVAL), (c.FLUSH, 0, 0, 16, errno.EINVAL),
]  # fmt: skip


@pytest.mark.parametrize("structured", [True, False])
def test_wrong_requests_are_answered_and_not_carried_out(served: Served, structured: bool) -> None:
    client = served.entered(structured)
    for kind, offset, length, flags, error in WRONG:
        payload = b"w" * (length if kind == c.WRITE else 0)
        answer = client.ask(c.request(kind, 1, offset, length, payload, flags))
        assert (answer.error, answer.chunk >= 0) == (error, structured and kind in (c.READ, c.STATUS)), (kind, flags)
    assert not served.core.seen
    assert client.ask(c.request(c.READ, 1, 0, 512), read_bytes=512).error == 0


def test_unfragmented_reads_need_structured_replies(served: Served) -> None:
    """NBD_FLAG_SEND_DF is announced beside them only."""
    assert served.entered().ask(c.request(c.READ, 1, 0, 512, flags=c.DF), read_bytes=512).error == errno.EINVAL
    handle = served.connect()
    assert handle.pread_structured(3 * MIB, 0, lambda *chunk: 0, nbd.CMD_FLAG_DF) == bytes(3 * MIB)
    handle.shutdown()


def test_fua_is_allowed_with_every_request(served: Served) -> None:
    """So the specification, because there are clients that set it everywhere."""
    client = served.entered(allocation=True)
    for kind in (c.READ, c.WRITE, c.FLUSH, c.TRIM, c.CACHE, c.ZEROES, c.STATUS):
        length = 0 if kind == c.FLUSH else 512
        payload = bytes(length) if kind == c.WRITE else b""
        assert client.ask(c.request(kind, 1, 0, length, payload, c.FUA)).error == 0


@pytest.mark.parametrize(
    ("problem", "error"),
    [
        (errno.EIO, errno.EIO), (errno.ENOSPC, errno.ENOSPC), (errno.ENOMEM, errno.ENOMEM), (errno.EPERM, errno.EPERM),
        (errno.EDQUOT, errno.ENOSPC), (errno.EFBIG, errno.ENOSPC), (errno.EROFS, errno.EPERM),
        (errno.ESHUTDOWN, errno.ESHUTDOWN), (errno.EBUSY, errno.EIO), (errno.EOPNOTSUPP, errno.EIO),
        (errno.EOVERFLOW, errno.EIO), (errno.ENODEV, errno.EIO), (errno.EREMOTEIO, errno.EIO),
    ],
)  # fmt: skip
def test_errors_of_the_core_in_the_protocols_words(served: Served, problem: int, error: int) -> None:
    """ENOTSUP and EOVERFLOW mean things that were not asked for; those of a full disk are ENOSPC."""
    served.core.fails = lambda request: problem
    for structured in (False, True):
        client = served.entered(structured)
        for size in (512, 2 * MIB):
            answer = client.ask(c.request(c.READ, 1, 0, size), read_bytes=size)
            assert (answer.error, answer.chunk >= 0) == (error, structured)
            assert client.ask(c.write(1, 0, bytes(size))).error == error
            for kind in (c.TRIM, c.ZEROES):
                assert client.ask(c.request(kind, 1, 0, size)).error == error
        assert client.ask(c.request(c.FLUSH, 1)).error == error


def test_one_part_that_fails_is_the_requests_failure(served: Served) -> None:
    """A request of 3 MiB is several of the core's: one answer, an error whichever of them failed."""
    client = served.entered()
    for bad in range(3):
        served.core.fails = lambda request, bad=bad: errno.EIO if request.offset_bytes == bad * MIB else 0
        assert client.ask(c.request(c.READ, 1, 0, 3 * MIB), read_bytes=3 * MIB).error == errno.EIO
        assert client.ask(c.write(1, 0, bytes(3 * MIB))).error == errno.EIO


# ---- what the local disk says


@pytest.fixture
def sparse(serve: Callable[..., Served], tmp_path: Path) -> Iterator[Served]:
    """A disk with 1 MiB of data at 1 MiB, the rest of its 8 MiB a hole."""
    posted: list[Callable[..., None]] = []
    path = tmp_path / "alpha.disk"
    with open(path, "wb") as file:
        file.truncate(8 * MIB)
        file.seek(MIB)
        file.write(b"d" * MIB)
    disk = make_disk(path, lambda call, *args: posted[0](call, *args))
    served = serve(PlainCore(disk, local_reads=True))
    posted.append(served.loop.post)
    served.door.disk = disk
    yield served
    served.end()
    disk.close()


def kinds_of(handle: nbd.NBD, length: int, offset: int, flags: int = 0) -> list[tuple[int, int]]:
    found: list[int] = []
    handle.block_status(length, offset, lambda name, at, entries, error: found.extend(entries) or 0, flags)
    return list(zip(found[::2], found[1::2]))


HOLE = nbd.STATE_HOLE | nbd.STATE_ZERO


def test_holes(sparse: Served, tmp_path: Path) -> None:
    size = sparse.core.size_bytes
    handle = sparse.connect(allocation=True)
    assert kinds_of(handle, size, 0) == [(MIB, HOLE), (MIB, 0), (size - 2 * MIB, HOLE)]
    assert kinds_of(handle, size, 0, nbd.CMD_FLAG_REQ_ONE) == [(MIB, HOLE)]
    assert kinds_of(handle, 4096, MIB - 512) == [(512, HOLE), (3584, 0)]
    assert kinds_of(handle, 4096, 2 * MIB - 512, nbd.CMD_FLAG_REQ_ONE) == [(512, 0)]
    assert kinds_of(handle, 512, size - 512) == [(512, HOLE)]
    handle.pwrite(b"x" * 4096, 6 * MIB)
    assert kinds_of(handle, 3 * MIB, 4 * MIB)[:2] == [(2 * MIB, HOLE), (4096, 0)]
    handle.shutdown()
    told = json.loads(tool("qemu-img", "map", "--output=json", "-f", "raw", sparse.uri()))
    held = json.loads(tool("qemu-img", "map", "--output=json", "-f", "raw", str(tmp_path / "alpha.disk")))
    data = [(one["start"], one["length"]) for one in told if one["data"]]
    assert data and data == [(one["start"], one["length"]) for one in held if one["data"] and one["start"] < size]


def test_where_nobody_knows_all_of_it_is_data(sparse: Served) -> None:
    """Neither may the holes of a disk that is not read from be told, nor those of one that went meanwhile."""
    handle, disk = sparse.connect(allocation=True), sparse.door.disk
    size = sparse.core.size_bytes
    sparse.core.local_reads_ok = False
    assert kinds_of(handle, size, 0) == [(size, 0)]
    sparse.core.local_reads_ok = True
    sparse.door.disk = None
    assert kinds_of(handle, size, 0, nbd.CMD_FLAG_REQ_ONE) == [(size, 0)]
    sparse.door.disk = disk
    assert len(kinds_of(handle, size, 0)) == 3
    handle.shutdown()


@pytest.mark.parametrize("local", [True, False])
def test_cache_is_a_hint(sparse: Served, local: bool) -> None:
    sparse.core.local_reads_ok = local
    handle = sparse.connect()
    handle.cache(sparse.core.size_bytes, 0)
    handle.cache(512, MIB)
    assert handle.pread(512, MIB) == b"d" * 512
    handle.shutdown()
