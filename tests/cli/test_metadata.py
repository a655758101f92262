# SPDX-License-Identifier: GPL-2.0-or-later
"""create-md and its family on files. Judge: drbdmeta of drbd-utils reads what we wrote and writes what we read."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.conftest import HERE, MIB, Node, two_resources

SUPERBLOCK_FLAGS_BYTE = 56 + 3


def drbdmeta(node: Node, *words: str, disk: str = "disk.img", index: str = "internal") -> str:
    """Its answer; it works on a file only with --force, and keeps a note of the size we do not want on the machine."""
    command = ["drbdmeta", "--force", "0", "v08", str(node.directory / disk), index, *words]
    made = subprocess.run(command, capture_output=True, text=True, timeout=20)
    assert made.returncode == 0, made
    return made.stdout


def without_head(dump: str) -> str:
    """A dump begins with the moment and the command."""
    return "\n".join(line for line in dump.splitlines() if not re.match(r"# (\d{4}-|\S+> )", line))


def test_drbdmeta_reads_what_create_md_made(node: Node) -> None:
    made = node.run("create-md", "r0")
    assert made.code == 0, made
    assert made.out.endswith("New drbd meta data block successfully created.\n")
    for verb in ("get-gi", "show-gi", "dstate"):
        assert node.run(verb, "r0").out == drbdmeta(node, verb), verb
    assert without_head(node.run("dump-md", "r0").out) == without_head(drbdmeta(node, "dump-md"))
    assert node.run("dstate", "r0").out == "Inconsistent\n"


def test_we_read_what_drbdmeta_made(node: Node) -> None:
    drbdmeta(node, "create-md")
    drbdmeta(node, "set-gi", "F00000000000000A:B000000000000000:C000000000000000:D000000000000000:1:1:0:0:0:0:0")
    assert node.run("get-gi", "r0").out == drbdmeta(node, "get-gi")
    assert node.run("dstate", "r0").out == "Consistent\n"
    assert node.run("outdate", "r0").code == 0
    assert drbdmeta(node, "dstate") == "Outdated\n"
    assert node.run("invalidate", "r0").code == 0
    assert drbdmeta(node, "get-gi").endswith(":0:0:0:0:1:0:0\n")
    refused = node.run("outdate", "r0")
    assert (refused.code, refused.errors) == (5, ["Device is inconsistent."])


def test_all_places_for_metadata(tmp_path: Path) -> None:
    node = Node(tmp_path)
    node.config.write_text(two_resources(HERE, tmp_path))
    for name, size_mib in (("a", 40), ("b", 48), ("c", 56), ("m", 260), ("f", 4)):
        with (tmp_path / f"{name}.img").open("wb") as file:
            file.truncate(size_mib * MIB)
    assert node.run("create-md", "all").code == 0
    lines = node.run("get-gi", "all").out
    assert lines == (
        drbdmeta(node, "get-gi", disk="a.img")
        + drbdmeta(node, "get-gi", disk="m.img", index="1")
        + drbdmeta(node, "get-gi", disk="f.img", index="flex-external")
    )
    assert node.run("get-gi", "r1/1").out == lines.splitlines(keepends=True)[1]


def test_without_metadata_the_next_command_is_create_md(node: Node) -> None:
    for verb in ("get-gi", "show-gi", "dump-md", "apply-al", "dstate", "outdate", "invalidate"):
        made = node.run(verb, "r0")
        assert made.code == 1, made
        assert made.errors[0].startswith("No valid meta data found"), made
        assert made.errors[-1] == "write metadata: replctl create-md r0"
    assert node.run("wipe-md", "--force", "r0").out == "There appears to be no drbd meta data to wipe out?\n"


def test_existing_metadata_is_replaced_only_when_confirmed(node: Node) -> None:
    assert node.run("create-md", "r0").code == 0
    drbdmeta(node, "set-gi", "F00000000000000A::::1:1")
    before = (node.directory / "disk.img").read_bytes()
    for stdin in (None, "no\n", ""):
        made = node.run("create-md", "r0", stdin=stdin)
        assert made.code == 1
        assert made.errors[-1] == "to replace it run: replctl create-md --force r0"
        assert (node.directory / "disk.img").read_bytes() == before
    assert node.run("create-md", "r0", stdin="yes\n").code == 0
    assert node.run("get-gi", "r0").out.startswith("0000000000000004:")
    for force in (["create-md", "--force", "r0"], ["--", "--force", "create-md", "r0"]):
        drbdmeta(node, "set-gi", "F00000000000000A::::1:1")
        assert node.run(*force).code == 0
        assert drbdmeta(node, "get-gi").startswith("0000000000000004:")


def on_a_terminal(node: Node, keys: bytes, *words: str, after: str = "") -> tuple[int, str]:
    """Exit code and what stood on the screen when `keys` were typed (once `after` was to be read)."""
    main, side = pty.openpty()
    command = [sys.executable, "-m", "replblock.cli.main", "-c", str(node.config), *words]

    def sit_down() -> None:
        os.login_tty(side)
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # a shell's background job was told to ignore it

    process = subprocess.Popen(command, stdin=side, stdout=side, stderr=side, env=node.environment, preexec_fn=sit_down)
    os.close(side)
    screen = b""
    while select.select([main], [], [], 20)[0]:
        try:
            screen += os.read(main, 4096)
        except OSError:  # the last holder of the other side is gone
            break
        if keys and after.encode() in screen:
            os.write(main, keys)
            keys = b""
    os.close(main)
    return process.wait(timeout=20), screen.decode()


@pytest.mark.parametrize("verb", ["create-md", "wipe-md"])
def test_on_a_terminal_it_asks(node: Node, verb: str) -> None:
    assert node.run("create-md", "r0").code == 0
    drbdmeta(node, "set-gi", "F00000000000000A::::1:1")
    before = (node.directory / "disk.img").read_bytes()
    code, screen = on_a_terminal(node, b"no\n", verb, "r0", after="confirm")
    assert code == 1 and "[need to type 'yes' to confirm]" in screen
    assert (node.directory / "disk.img").read_bytes() == before
    code, screen = on_a_terminal(node, b"yes\n", verb, "r0", after="confirm")
    assert code == 0, screen
    assert (node.directory / "disk.img").read_bytes() != before


def test_a_file_system_in_the_way_needs_force(node: Node) -> None:
    disk = node.directory / "disk.img"
    subprocess.run(["mkfs.ext3", "-q", "-F", str(disk)], check=True)
    before = disk.read_bytes()
    made = node.run("create-md", "r0", stdin="yes\n")
    assert made.code == 40, made
    assert "ext3" in made.errors[0] and str(disk) in made.errors[0]
    assert any("resize2fs" in line for line in made.errors)
    assert made.errors[-1] == "that is: replctl create-md --force r0"
    assert disk.read_bytes() == before
    assert node.run("create-md", "--force", "r0").code == 0


def test_unclean_metadata_needs_apply_al(node: Node) -> None:
    """drbdmeta agrees that it is unclean, and afterwards that it is clean."""
    assert node.run("create-md", "r0").code == 0
    disk = node.directory / "disk.img"
    with disk.open("r+b") as file:
        file.seek(64 * MIB - 4096 + SUPERBLOCK_FLAGS_BYTE)
        file.write(b"\0")  # AL_CLEAN gone
    refused = node.run("dump-md", "r0")
    assert refused.code == 1 and refused.errors[-1] == "run: replctl apply-al r0"
    assert "need apply-al" in drbdmeta(node, "show-gi")
    assert node.run("apply-al", "r0").code == 0
    assert "meta-data: clean" in drbdmeta(node, "show-gi")
    assert node.run("dump-md", "r0").code == 0


def test_metadata_of_a_disk_that_grew(node: Node) -> None:
    """Found by the size it had, which somebody has to know; drbdmeta finds it afterwards."""
    assert node.run("create-md", "r0").code == 0
    before = node.run("get-gi", "r0").out
    assert (node.run("check-resize", "r0").code, node.run("check-resize", "r0").out) == (0, "")
    disk = node.directory / "disk.img"
    os.truncate(disk, 96 * MIB)
    lost = node.run("check-resize", "r0")
    assert lost.code == 1 and lost.errors[0].endswith("and nobody remembers its former size")
    assert lost.errors[-1].endswith("replctl check-resize --was SIZE r0")
    wrong = node.run("check-resize", "--was=63M", "r0")
    assert wrong.code == 1 and "its former size of 64512 KiB" in wrong.errors[0]
    moved = node.run("check-resize", "--was=64M", "r0")
    assert (moved.code, moved.out) == (0, "Internal drbd meta data successfully moved.\n")
    assert node.run("get-gi", "r0").out == before == drbdmeta(node, "get-gi")
    assert (node.run("check-resize", "r0").code, node.run("check-resize", "r0").out) == (0, "")


def test_disks_that_cannot_be_used(node: Node) -> None:
    """Each refusal is one line that names the file, then a command."""
    disk = node.directory / "disk.img"
    with disk.open("r+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        made = node.run("create-md", "r0")
        assert (made.code, made.errors) == (
            20, [f"open({disk}) failed: another process has locked it", f"see who: fuser -v {disk}"])  # fmt: skip
    os.truncate(disk, 512 * 1024)
    made = node.run("create-md", "r0")
    assert made.code != 0 and "too small" in made.errors[0], made
    disk.unlink()
    made = node.run("create-md", "r0")
    assert made.code == 20
    assert made.errors[0] == f"open({disk}) failed: No such file or directory"
    assert f"truncate -s 1G {disk}" in made.errors[1]
    disk.mkdir()
    made = node.run("create-md", "r0")
    assert made.code == 20 and made.errors[0] == f"{disk}: 'disk' must be a block device or a file"


@pytest.mark.root
def test_a_block_device_in_use_is_refused(node: Node, tmp_path: Path) -> None:
    """The stock tools claim a loop device (mount does), and a read-only one cannot be written."""
    disk = node.directory / "disk.img"
    subprocess.run(["mkfs.ext3", "-q", "-F", str(disk)], check=True)
    made = subprocess.run(["losetup", "--show", "-f", str(disk)], capture_output=True, text=True)
    if made.returncode:
        pytest.skip(f"the kernel has no loop devices: {made.stderr}")
    loop = made.stdout.strip()
    node.config.write_text(node.config.read_text().replace(f"disk {disk};", f"disk {loop};"))
    try:
        # in a mount namespace of its own: one that another test makes meanwhile would inherit the mount, and keep it
        script = f"mount {loop} /mnt && echo mounted && read line && umount /mnt"
        holder = subprocess.Popen(
            ["unshare", "--mount", "sh", "-c", script],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        )  # fmt: skip
        assert holder.stdout is not None
        if holder.stdout.readline() == "mounted\n":
            refused = node.run("create-md", "--force", "r0")
            holder.communicate("go on\n")
            assert holder.returncode == 0
            assert refused.code == 20
            assert refused.errors[0] == f"open({loop}) failed: Device or resource busy"
            assert "mounted or claimed" in refused.errors[1]
        assert node.run("create-md", "--force", "r0").code == 0
        assert drbdmeta(node, "get-gi", disk=loop).startswith("0000000000000004:")
    finally:
        subprocess.run(["losetup", "-d", loop], check=True)
