# SPDX-License-Identifier: GPL-2.0-or-later
"""Two machines with kernels of their own: the kernel's nbd under the configured name, ext3, a swap, a power cut."""

from __future__ import annotations

import pytest

from tests.kernel.pair import DEVICE, MOUNTED, Pair

STOP = "/run/stop-the-writer"

#: Writes files one after the other and says the name and checksum of each when fsync (of it and of its directory) has
#: returned. What it said is a promise. It ends at
#: the count, or when the file STOP appears.
WRITER = """
import hashlib, os, sys
place, count, most, stop = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
directory = os.open(place, os.O_RDONLY)
for number in range(count):
    if os.path.exists(stop):
        break
    data = os.urandom(1 + int.from_bytes(os.urandom(3), "big") % most)
    with open(f"{place}/file{number}", "wb") as out:
        out.write(data)
        os.fsync(out.fileno())
    os.fsync(directory)
    print(hashlib.sha256(data).hexdigest(), f"{place}/file{number}", sep="  ", flush=True)
"""


def check_files(lines: list[str]) -> str:
    """A shell script that compares the files with what the writer said."""
    return "sha256sum --check --quiet <<'end'\n" + "\n".join(lines) + "\nend\n"


def io_errors(kernel_log: str) -> list[str]:
    return [line for line in kernel_log.splitlines() if "error" in line.lower()]


def test_swap_of_roles(pair: Pair) -> None:
    """Initial sync, ext3 on the device under its configured name, files; the other node mounts it and has them."""
    pair.set_up()
    first, second = pair.dados, pair.backup
    assert first.sh(f"stat -c %F {DEVICE}").strip() == "block special file"
    assert "nbd" in first.sh(f"readlink -f /sys/dev/block/$(stat -c %Hr:%Lr {DEVICE})")
    first.sh(f"mkfs.ext3 -q {DEVICE}")
    first.mount()
    assert first.sh(f"grep {MOUNTED} /proc/mounts").startswith(DEVICE)
    lines = first.begin_python(WRITER, MOUNTED, "20", "200000", STOP).wait().out.splitlines()
    assert len(lines) == 20

    said = first.refused("secondary", "r0", code=11)
    assert "held open" in said and MOUNTED in said
    first.refused("down", "r0", code=11)
    first.sh(f"touch {MOUNTED}/still-writable && sync {MOUNTED}/still-writable")
    assert second.sh(f"dd if={DEVICE} count=1 status=none | wc -c").strip() == "0", "a Secondary can be read"
    assert second.guest.run("mount", "-t", "ext3", DEVICE, "/mnt").code != 0
    second.sh("dmesg --clear")      # of that mount

    first.umount()
    first.do("secondary", "r0")
    second.do("primary", "r0")
    second.sh(f"e2fsck -fn {DEVICE}")
    second.mount()
    second.sh(check_files(lines))
    second.umount()
    second.do("secondary", "r0")
    pair.assert_same_data()
    for machine in pair.machines:
        machine.do("down", "r0")
        assert machine.guest.run("test", "-e", DEVICE).code == 1, "the name outlived down"
        assert not io_errors(machine.kernel_log())


@pytest.mark.machines(disk_mib=256)
def test_power_cut_of_the_primary(pair: Pair) -> None:
    """Every file whose fsync had returned is there after the take-over; who comes back gets only what differs."""
    pair.set_up(first_sync=False)
    first, second = pair.dados, pair.backup
    first.sh(f"mkfs.ext3 -q {DEVICE}")
    first.do("down", "r0")          # mkfs has touched all extents; a crashed Primary gets back those that were active
    first.do("up", "r0")
    pair.settle()
    first.do("primary", "r0")
    first.mount()
    writer = first.begin_python(WRITER, MOUNTED, "100000", "100000", STOP)
    writer.wait_for(lambda lines: len(lines) >= 30, "files are written")
    first.guest.kill()
    lines = writer.lines

    second.wait_state("cs:WFConnection")
    second.do("primary", "r0")
    second.mount()
    assert "recovery complete" in second.kernel_log(), "no journal was replayed: the cut came too late"
    second.sh(check_files(lines))
    second.sh(f"echo alone >{MOUNTED}/alone; sync {MOUNTED}/alone")
    second.umount()
    second.sh(f"e2fsck -fn {DEVICE}")

    pair.come_back(first)
    first.do("up", "r0")
    pair.settle()
    began = next(line for line in second.log().splitlines() if "resync-started: Began resync as SyncSource" in line)
    resynced_kib = int(began.partition("will sync ")[2].split()[0])
    assert 0 < resynced_kib < 128 << 10, began      # of 256 MiB
    pair.assert_same_data()
    second.mount()
    assert second.sh(f"cat {MOUNTED}/alone") == "alone\n"
