# SPDX-License-Identifier: GPL-2.0-or-later
"""The back end without kernel nbd, with a real nbdkit, nbdfuse, loop device and ext3."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from replblock import device
from replblock.device import fuse, loop
from replblock.device.types import Attached, AttachSpec, Host, Reservation
from tests.device.servers import SIZE_BYTES, Server, serving

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(not os.path.exists("/dev/fuse"), reason="the kernel has no FUSE"),
    pytest.mark.skipif(not os.path.exists("/dev/loop-control"), reason="the kernel has no loop devices"),
]


def run(*command: object) -> str:
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr or done.stdout
    return done.stdout


class Bench(NamedTuple):
    server: Server
    spec: AttachSpec
    mount: Path

    def attach(self) -> Attached:
        return device.attach(self.spec)

    def format_and_mount(self, attached: Attached) -> None:
        run("mkfs.ext3", "-q", attached.name)
        run("mount", attached.name, self.mount)


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    """A server and a reserved name; whatever the test leaves attached or mounted is taken down."""
    (tmp_path / "mnt").mkdir()
    name = str(tmp_path / "dev" / "drbd0")
    with serving(tmp_path) as server:
        reservation = device.reserve_name(name, "fuse")
        spec = AttachSpec(str(server.socket), "0", name, str(tmp_path / "run"), "fuse", reservation)
        try:
            yield Bench(server, spec, tmp_path / "mnt")
        finally:
            subprocess.run(["umount", tmp_path / "mnt"], capture_output=True, check=False)
            file = loop.backing_file(reservation.device_index, Host())
            if file.startswith(str(tmp_path)):
                subprocess.run(["losetup", "-d", reservation.kernel_device], check=False)
            for path in (tmp_path / "run").glob("nbdfuse-*"):
                if os.path.ismount(path):
                    subprocess.run(["fusermount3", "-u", "-z", path], check=False)
            device.release_name(reservation)
            assert not os.path.lexists(name)


def test_the_name_is_a_block_device_in_both_roles(bench: Bench) -> None:
    """From `up` to `down`, the same number before, while and after it is attached; never a symlink."""
    before = os.lstat(bench.spec.name)
    assert stat.S_ISBLK(before.st_mode) and stat.S_IMODE(before.st_mode) == 0o660
    attached = bench.attach()
    assert run("blockdev", "--getsize64", bench.spec.name).strip() == str(SIZE_BYTES) == str(attached.size_bytes)
    assert os.lstat(bench.spec.name).st_rdev == before.st_rdev == os.stat(attached.kernel_device).st_rdev
    device.detach(attached)
    assert os.lstat(bench.spec.name).st_rdev == before.st_rdev


def test_a_file_system_survives_detach_and_attach(bench: Bench) -> None:
    attached = bench.attach()
    bench.format_and_mount(attached)
    (bench.mount / "hello").write_text("ola\n")
    assert any(line.split()[0] == bench.spec.name for line in Path("/proc/mounts").read_text().splitlines())
    run("umount", bench.mount)
    device.detach(attached)
    run("e2fsck", "-fn", bench.server.image)       # the bytes are in the image, not in a cache on the way
    again = bench.attach()
    run("mount", again.name, bench.mount)
    assert (bench.mount / "hello").read_text() == "ola\n"
    run("umount", bench.mount)
    device.detach(again)


def test_a_sync_reaches_the_server_as_a_flush(bench: Bench) -> None:
    """Invariant 2 begins here: an fsync on the device or on a file is an NBD flush before it returns."""
    attached = bench.attach()
    descriptor = os.open(attached.name, os.O_RDWR)
    try:
        os.pwrite(descriptor, b"x" * 8192, 0)
        flushes = bench.server.requests("Flush")
        os.fsync(descriptor)
        assert bench.server.requests("Flush") > flushes
        with open(bench.server.image, "rb") as image:
            assert image.read(8192) == b"x" * 8192
    finally:
        os.close(descriptor)
    bench.format_and_mount(attached)
    with open(bench.mount / "file", "w") as file:
        file.write("data")
        file.flush()
        flushes = bench.server.requests("Flush")
        os.fsync(file.fileno())
        assert bench.server.requests("Flush") > flushes
    run("umount", bench.mount)
    device.detach(attached)


def test_detach_writes_back_what_is_cached(bench: Bench) -> None:
    """A write without fsync is in the image when detach returns."""
    attached = bench.attach()
    descriptor = os.open(attached.name, os.O_RDWR)
    os.pwrite(descriptor, b"y" * 4096, 1 << 20)
    os.close(descriptor)
    device.detach(attached)
    with open(bench.server.image, "rb") as image:
        image.seek(1 << 20)
        assert image.read(4096) == b"y" * 4096


def test_a_mounted_device_is_not_detached(bench: Bench) -> None:
    attached = bench.attach()
    bench.format_and_mount(attached)
    assert device.in_use(attached) == [f"mounted at {bench.mount}"]
    with pytest.raises(device.DeviceInUseError, match=f"held open: mounted at {bench.mount}; unmount") as refused:
        device.detach(attached)
    assert refused.value.reasons == [f"mounted at {bench.mount}"]
    (bench.mount / "still").write_text("here")     # a refused command changes nothing
    run("umount", bench.mount)
    assert device.in_use(attached) == []
    device.detach(attached)


def test_an_open_device_is_not_detached(bench: Bench) -> None:
    """A plain opener is named with its process."""
    attached = bench.attach()
    with open(attached.name, "rb") as opened, subprocess.Popen(["sleep", "60"], stdin=opened) as sleeper:
        try:
            assert device.in_use(attached) == [f"opened by pid {sleeper.pid} (sleep)"]
            assert device.in_use(attached, ignore_pids=[sleeper.pid]) == []
            with pytest.raises(device.DeviceInUseError, match=rf"opened by pid {sleeper.pid} \(sleep\)"):
                device.detach(attached)
        finally:
            sleeper.kill()
    device.detach(attached)


def test_a_device_on_top_holds_it(bench: Bench) -> None:
    attached = bench.attach()
    upper = run("losetup", "--show", "-f", attached.kernel_device).strip()
    try:
        assert device.in_use(attached) == [f"held by {os.path.basename(upper)}"]
    finally:
        run("losetup", "-d", upper)
    device.detach(attached)


def test_an_exclusive_holder_keeps_mounts_away(bench: Bench) -> None:
    attached = bench.attach()
    run("mkfs.ext3", "-q", attached.name)
    with device.held_exclusively(attached):
        with pytest.raises(AssertionError, match=r"already mounted|busy"):
            run("mount", attached.name, bench.mount)
        with pytest.raises(device.DeviceInUseError):
            device.detach(attached)
    device.detach(attached)


def test_another_process_can_detach(bench: Bench) -> None:
    """What `to_json` wrote is all that a restarted engine or replctl needs."""
    attached = bench.attach()
    assert Attached.from_json(attached.to_json()) == attached
    run(sys.executable, "-c",
        "import sys; from replblock import device; device.detach(device.Attached.from_json(sys.argv[1]))",
        attached.to_json())
    assert loop.backing_file(attached.reservation.device_index, Host()) == ""
    os.waitpid(attached.helper_pid, 0)          # ours to reap: it has ended
    assert not fuse.is_helper(attached, Host())
    device.detach(attached)                     # once more is fine


def test_force_takes_it_away_from_an_opener(bench: Bench) -> None:
    attached = bench.attach()
    with open(attached.name, "rb", buffering=0) as opened, subprocess.Popen(["sleep", "60"], stdin=opened) as sleeper:
        try:
            opened.close()
            device.detach(attached, force=True)
            assert not fuse.is_helper(attached, Host())
        finally:
            sleeper.kill()
    assert loop.backing_file(attached.reservation.device_index, Host()) == ""


def test_after_the_server_died_force_cleans_up(bench: Bench) -> None:
    attached = bench.attach()
    bench.server.kill()
    device.detach(attached, force=True)
    assert not fuse.is_helper(attached, Host()) and not os.path.exists(attached.mount_path)
    with pytest.raises(device.DeviceError, match="does not survive a restart"):
        device.reattach(attached)


def test_a_failed_attach_leaves_nothing(bench: Bench) -> None:
    bench.server.kill()
    with pytest.raises(device.DeviceError, match=r"export '0'.*is the resource up\?"):
        bench.attach()
    assert list(Path(bench.spec.run_directory).glob("*")) == [] if Path(bench.spec.run_directory).exists() else True


def test_nbdfuse_that_cannot_start_is_explained(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    real = fuse._program
    monkeypatch.setattr(fuse, "_program", lambda name: "/bin/false" if name == "nbdfuse" else real(name))
    with pytest.raises(device.DeviceError, match="nbdfuse did not start"):
        bench.attach()
    assert loop.backing_file(bench.spec.reservation.device_index, Host()) == ""     # type: ignore[union-attr]


def test_a_stolen_loop_device_is_replaced(bench: Bench, tmp_path: Path) -> None:
    """The name moves to another kernel device when somebody took the reserved one."""
    reserved = bench.spec.reservation
    assert reserved is not None
    (tmp_path / "foreign").write_bytes(bytes(1 << 20))
    run("losetup", reserved.kernel_device, tmp_path / "foreign")
    try:
        attached = bench.attach()
        assert attached.kernel_device != reserved.kernel_device
        assert os.stat(attached.name).st_rdev == os.stat(attached.kernel_device).st_rdev
        device.detach(attached)
        device.release_name(attached.reservation)
        assert loop.backing_file(reserved.device_index, Host()) == str(tmp_path / "foreign")
    finally:
        run("losetup", "-d", reserved.kernel_device)


def test_without_a_reservation_the_name_lives_as_long_as_the_device(bench: Bench, tmp_path: Path) -> None:
    spec = bench.spec._replace(reservation=None, name=str(tmp_path / "other"))
    attached = device.attach(spec)
    try:
        assert os.path.lexists(spec.name) and attached.owns_reservation
    finally:
        device.detach(attached)
    assert not os.path.lexists(spec.name)


def test_mode_none_is_the_uri(bench: Bench) -> None:
    spec = bench.spec._replace(reservation=device.reserve_name("/dev/drbd0", "none"), mode="none")
    attached = device.attach(spec)
    assert attached.name == f"nbd+unix:///0?socket={bench.server.socket}"
    assert run("nbdinfo", "--size", attached.name).strip() == str(SIZE_BYTES)
    assert device.in_use(attached) == []
    device.detach(device.reattach(attached))
    assert Reservation.from_json(attached.reservation.to_json()) == attached.reservation
