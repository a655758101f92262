# SPDX-License-Identifier: GPL-2.0-or-later
"""The nbdkit door and the life of the process, with a core that has no peer: libnbd judges."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import nbd
import pytest

from replblock.engine import client, launch
from tests.engine.conftest import wait_for
from tests.engine.nodes import FAKE_PLUGIN, Node, nodes


@pytest.fixture
def alpha(tmp_path: Path, port: Callable[[], int]) -> Iterator[Node]:
    with nodes(tmp_path, port, plugin=FAKE_PLUGIN) as (alpha, _):
        yield alpha


@pytest.fixture
def primary(alpha: Node) -> Node:
    alpha.start()
    alpha.do("attach")
    alpha.do("primary")
    return alpha


def connect(node: Node, export: str = "") -> nbd.NBD:
    handle = nbd.NBD()
    handle.set_strict_mode(0)  # let wrong requests through to the server
    handle.set_export_name(export)
    handle.connect_unix(f"{node.run}/r0.nbd")
    return handle


def test_what_the_door_announces(primary: Node) -> None:
    for export in ("", "0"):
        handle = connect(primary, export)
        assert handle.get_size() == int(primary.status()["devices"][0]["size"]) * 1024
        assert not handle.is_read_only()
        assert handle.can_flush() and handle.can_fua() and handle.can_trim() and handle.can_zero()
        assert handle.can_multi_conn()
        assert (handle.get_block_size(nbd.SIZE_MINIMUM), handle.get_block_size(nbd.SIZE_MAXIMUM)) == (512, 32 << 20)
        handle.shutdown()


def test_every_request_does_to_the_disk_what_it_says(primary: Node) -> None:
    """A model beside the device: random reads, writes, trims and zeroings, also larger than 1 MiB, FUA and flushes."""
    handle = connect(primary)
    size = 8 << 20
    model = bytearray(size)
    handle.zero(size, 0)
    chance = random.Random(1)
    for _ in range(200):
        length = chance.choice([512, 4096, 65536, (1 << 20) - 512, 1 << 20, (1 << 20) + 512, 3 << 20])
        offset = chance.randrange(0, (size - length) // 512 + 1) * 512
        flags = chance.choice([0, nbd.CMD_FLAG_FUA])
        match chance.randrange(5):
            case 0 | 1:
                data = chance.randbytes(length)
                handle.pwrite(data, offset, flags)
                model[offset : offset + length] = data
            case 2:
                assert handle.pread(length, offset) == model[offset : offset + length]
            case 3:
                handle.zero(length, offset, flags | chance.choice([0, nbd.CMD_FLAG_NO_HOLE]))
                model[offset : offset + length] = bytes(length)
            case 4:
                handle.trim(length, offset, flags)
                model[offset : offset + length] = bytes(length)  # this disk punches holes
    handle.flush()
    assert handle.pread(size, 0) == model
    handle.shutdown()
    with open(primary.disk, "rb") as file:
        assert file.read(size) == model


@pytest.mark.parametrize(("offset", "length"), [(1, 512), (0, 511), (513, 1024), (512, 100)])
def test_requests_are_whole_sectors(primary: Node, offset: int, length: int) -> None:
    handle = connect(primary)
    for wrong in (lambda: handle.pwrite(bytes(length), offset), lambda: handle.pread(length, offset)):
        with pytest.raises(nbd.Error) as error:
            wrong()
        assert error.value.errno in ("EINVAL",)
    assert handle.pread(512, 0) == bytes(512)  # the connection goes on


def test_past_the_end_is_refused(primary: Node) -> None:
    handle = connect(primary)
    size = handle.get_size()
    before = primary.disk.read_bytes()[size:]
    for offset in (size, size - 512, size + (1 << 20)):
        with pytest.raises(nbd.Error):
            handle.pwrite(bytes(1024), offset)
    handle.pwrite(b"e" * 512, size - 512)
    assert primary.disk.read_bytes()[size:] == before


def test_many_connections_and_requests_in_flight(primary: Node) -> None:
    """Four connections, 32 requests under way each, every byte checked."""

    def work(number: int) -> None:
        handle = connect(primary)
        base = number << 20
        for round_number in range(4):
            pending = []
            for index in range(64):
                data = bytes([number, round_number, index, 7]) * 1024
                cookie = handle.aio_pwrite(nbd.Buffer.from_bytearray(bytearray(data)), base + index * 4096)
                pending.append(cookie)
                while handle.aio_in_flight() >= 32:
                    handle.poll(-1)
            while handle.aio_in_flight():
                handle.poll(-1)
            assert all(handle.aio_command_completed(cookie) for cookie in pending)
            for index in range(64):
                expected = bytes([number, round_number, index, 7]) * 1024
                assert handle.pread(4096, base + index * 4096) == expected
        handle.shutdown()
        finished.append(number)

    finished: list[int] = []
    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(finished) == [0, 1, 2, 3]


def test_a_secondary_refuses_with_the_reason_in_the_log(alpha: Node) -> None:
    alpha.start()
    alpha.do("attach")
    assert alpha.do("nbd")["data"]["uris"] == []
    with pytest.raises(nbd.Error):
        connect(alpha)
    wait_for(lambda: "NBD client refused: this node is not primary" in alpha.log())
    alpha.do("primary")
    with pytest.raises(nbd.Error):
        connect(alpha, "7")
    assert "there is no volume '7' here" in alpha.log()


def test_demotion_is_refused_while_a_client_is_connected(primary: Node) -> None:
    """Invariant 8: nothing changes; the client goes on."""
    handle = connect(primary)
    for verb in ("secondary", "stop"):
        found = primary.ask(verb)
        assert found["exit_code"] == 11
        assert found["lines"] == [
            "0: State change failed: (-12) Device is held open by someone", "1 NBD client connected",
        ]  # fmt: skip
        handle.pwrite(b"still" + bytes(507), 0)
    assert primary.status()["role"] == "Primary" and primary.status()["devices"][0]["open"]
    connect(primary).shutdown()  # the door is open again
    handle.shutdown()
    primary.do("secondary")
    assert primary.status()["role"] == "Secondary"


def test_connections_leave_nothing_behind(primary: Node) -> None:
    """Held thread states and event descriptors end with their connection."""

    def open_files() -> int:
        return len(os.listdir(f"/proc/{primary.pid}/fd"))

    def use() -> None:
        handle = connect(primary)
        for index in range(40):
            handle.aio_pwrite(nbd.Buffer.from_bytearray(bytearray(4096)), index * 4096)
        while handle.aio_in_flight():
            handle.poll(-1)
        handle.shutdown()

    use()
    wait_for(lambda: not primary.status()["devices"][0]["open"])
    before, memory = open_files(), _resident_kib(primary.pid)
    for _ in range(60):
        use()
    wait_for(lambda: not primary.status()["devices"][0]["open"])
    wait_for(lambda: open_files() <= before)  # the publisher may have one open at this moment
    assert _resident_kib(primary.pid) - memory < 60 * 60  # what the leak of the thread states alone would be


def _resident_kib(pid: int) -> int:
    line = next(line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1])


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_is_an_orderly_stop(primary: Node, number: int) -> None:
    os.kill(primary.pid, number)
    assert primary.exit_code() == 0
    assert "stopped in good order" in primary.log()
    assert not client.is_up(primary.run, "r0")
    assert not list(primary.run.glob("r0.nbd")) and not (primary.run / "proc").exists()


def test_sigterm_is_refused_while_the_device_is_in_use(primary: Node) -> None:
    """nbdkit's own SIGTERM would answer ESHUTDOWN and destroy the mount."""
    handle = connect(primary)
    os.kill(primary.pid, signal.SIGTERM)
    wait_for(lambda: "stop-refused" in primary.log())
    handle.pwrite(b"s" * 512, 0)
    assert handle.pread(512, 0) == b"s" * 512
    handle.shutdown()
    os.kill(primary.pid, signal.SIGTERM)
    assert primary.exit_code() == 0


def test_proc_is_there_while_up_and_gone_after(alpha: Node) -> None:
    alpha.start()
    proc = alpha.run / "proc"
    wait_for(proc.exists)
    assert " 0: cs:" in proc.read_text()
    alpha.do("attach")
    alpha.do("primary")
    wait_for(lambda: "ro:Primary/" in proc.read_text())
    alpha.do("stop")
    assert alpha.exit_code() == 0 and not proc.exists()


def test_a_second_engine_for_the_same_resource_is_refused(alpha: Node) -> None:
    alpha.start()
    with pytest.raises(launch.LaunchError, match="is up already"):
        launch.start("r0", alpha.config, alpha.host, alpha.run)
    (alpha.run / "r0.ctl").rename(alpha.run / "hidden")  # so that only the lock is in the way
    with pytest.raises(launch.LaunchError, match="is up already in"):
        launch.start("r0", alpha.config, alpha.host, alpha.run)


def test_it_can_be_started_again_after_a_kill(alpha: Node) -> None:
    alpha.start()
    alpha.do("attach")
    alpha.kill()
    with pytest.raises(client.NotUp, match="left over from a process that died"):
        alpha.ask("ping")
    alpha.start()
    alpha.do("attach")


@pytest.mark.parametrize(("change", "expected"), [
    (("resource r0", "resource rx"), "there is no resource 'r0'; known: rx"),
    (("on alpha", "on gamma"), "has no host section for 'alpha'"),
    (("protocol C", "protocol D"), "drbd.conf:3"),
])  # fmt: skip
def test_an_early_death_is_reported_with_its_reason(alpha: Node, change: tuple[str, str], expected: str) -> None:
    alpha.config.write_text(alpha.config.read_text().replace(*change))
    with pytest.raises(launch.LaunchError) as error:
        alpha.start()
    assert expected in str(error.value), alpha.log()
    assert len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize(("spoil", "code", "words"), [
    (lambda path: path.unlink(), 104, "there is no such file"),
    (lambda path: path.write_bytes(bytes(32 << 20)), 119, "replctl create-md r0"),
    (lambda path: path.write_bytes(bytes(1024)), 112, "too small"),
])  # fmt: skip
def test_a_disk_that_cannot_be_attached_is_said_in_drbds_words(
    alpha: Node, spoil: Callable[[Path], None], code: int, words: str
) -> None:
    alpha.start()
    spoil(alpha.disk)
    found = alpha.ask("attach")
    assert found["exit_code"] == 10
    assert found["lines"][0].startswith(f"0: Failure: ({code}) ") and words in found["lines"][1]
    assert alpha.do("ping")["data"]["resource"] == "r0"


def test_adjust_takes_over_what_changed_only(alpha: Node) -> None:
    alpha.start()
    assert alpha.do("adjust", dry_run=True)["data"] == {"changed": False, "what": []}
    alpha.config.write_text(alpha.config.read_text().replace("protocol C;", "protocol C; ping-int 3;"))
    assert alpha.do("adjust", dry_run=True)["data"] == {"changed": True, "what": ["options"]}
    alpha.do("adjust")
    assert alpha.do("adjust", dry_run=True)["data"]["changed"] is False
    alpha.config.write_text("nonsense {")
    assert alpha.ask("adjust")["exit_code"] == 10


def test_fio_verifies_what_it_wrote(primary: Node, tmp_path: Path) -> None:
    command = [
        "fio", "--name=verify", "--ioengine=nbd", f"--uri={primary.uri}", "--rw=randwrite", "--bsrange=4k-128k",
        "--blockalign=4k", "--iodepth=16", "--size=16m", "--verify=crc32c", "--do_verify=1", "--verify_fatal=1",
    ]  # fmt: skip
    found = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert found.returncode == 0, found.stdout + found.stderr


@pytest.mark.parametrize("where", ["loop", "side"])
def test_a_bug_ends_the_process_at_once_and_says_where(tmp_path: Path, port: Callable[[], int], where: str) -> None:
    """A stopped node is a failover; one that goes on without its loop is a loss."""
    with nodes(tmp_path, port, plugin=Path(__file__).with_name("crash_plugin.py")) as (alpha, _):
        alpha.start()
        with pytest.raises(ConnectionError):
            alpha.ask("crash", where=where)
        assert alpha.exit_code() == 1
        assert "engine-crashed: stopping at once, a bug" in alpha.log() and "ZeroDivisionError" in alpha.log()
