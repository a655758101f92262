# SPDX-License-Identifier: GPL-2.0-or-later
"""The model deployment: its drbd.conf and its Heartbeat script as they stand, on two machines dados and backup.

/dev/sda1 is a loop device in each machine's /dev, so not even `disk` is changed; ext3 on /dev/drbd0, /home from fstab.
"""

from __future__ import annotations

import subprocess
import threading

import pytest

from tests.e2e.shop import HOME, MKFS, Shop, checksums, crash, same_data, write_file
from tests.e2e.waiting import wait_until

pytestmark = [pytest.mark.root, pytest.mark.netns]


@pytest.mark.slow
def test_the_whole_story(shop: Shop) -> None:
    dados, backup = shop.a, shop.b
    threads = [threading.Thread(target=node.do, args=("up", "all")) for node in shop.nodes]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for node in shop.nodes:
        node.wait_state("Established Inconsistent/Inconsistent")
    assert dados.device["replblock-disk"] == "/dev/sda1"

    # first sync and file system; 8.3's own words for the forced promotion
    dados.do("--", "--overwrite-data-of-peer", "primary", "all")
    made = dados.run(*MKFS, "/dev/drbd0")
    assert made.code == 0, made
    dados.do("wait-sync", "--wfc-timeout=60", "r0")
    assert dados.do("role", "r0") == "Primary/Secondary\n"
    dados.do("secondary", "all")

    # Heartbeat starts the service on dados, uses it, moves it to backup and back
    assert "Starting all DRBD devices: Done." in shop.script(dados, "start")
    assert "/dev/drbd0 /home ext3" in dados.run("cat", "/proc/mounts").out
    wanted = {f"tills/{number}": write_file(dados, f"tills/{number}", 20_000 + 977 * number) for number in range(20)}
    held = dados.refused("secondary", "all", code=11)
    assert "Device is held open by someone" in held
    shop.script(dados, "stop")
    assert dados.do("role", "r0") == "Secondary/Secondary\n"
    shop.script(backup, "start")
    assert checksums(backup, list(wanted)) == wanted
    wanted["office/a"] = write_file(backup, "office/a", 300_000)
    shop.script(backup, "stop")
    shop.script(dados, "start")

    # dados dies in mid-write
    noise = subprocess.Popen(
        [*dados.enter, "sh", "-c", f"while :; do for i in 1 2 3 4 5 6 7 8 9; do dd if=/dev/urandom of={HOME}/noise$i"
         " bs=64k count=4 conv=notrunc,fsync; done; done"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        before = dados.device["replblock-counters"]["ns"]
        wait_until(lambda: dados.device["replblock-counters"]["ns"] > before + 3000, "writing on dados")
        wanted["last"] = write_file(dados, "last", 123_456)
        crash(dados)
    finally:
        noise.kill()
        noise.wait()
    backup.wait_state("Connecting")

    # backup takes over
    backup.do("primary", "all")
    checked = backup.run("e2fsck", "-p", "/dev/drbd0")
    assert checked.code in (0, 1), checked
    checked = backup.run("e2fsck", "-f", "-n", "/dev/drbd0")
    assert checked.code == 0, checked
    shop.script(backup, "start")
    assert checksums(backup, list(wanted)) == wanted
    wanted["after"] = write_file(backup, "after", 54_321)

    # dados comes back as it is: up, resync of what differs, nothing else
    dados.do("up", "all")
    dados.do("wait-connect", "--wfc-timeout=30", "r0")
    dados.do("wait-sync", "--wfc-timeout=60", "r0")
    for node in shop.nodes:
        node.wait_state("Established UpToDate/UpToDate")
    log = dados.log()
    assert "activity-log-replayed" in log
    received = dados.device["replblock-counters"]["nr"]
    size = dados.device["size"]
    assert 0 < received < size * 2 // 3, f"{received} KiB received of a device of {size} KiB"
    assert backup.do("role", "r0") == "Primary/Secondary\n"
    assert checksums(backup, list(wanted)) == wanted
    shop.script(backup, "stop")
    same_data(shop)
    shop.script(dados, "start")
    assert checksums(dados, list(wanted)) == wanted
    shop.script(dados, "stop")
    for node in shop.nodes:
        node.do("down", "all")
        assert node.run("test", "-e", "/dev/drbd0").code == 1, "the device's name outlived down"


@pytest.mark.slow
def test_a_pulled_cable(shop: Shop) -> None:
    """The file system goes on alone, and only what was written meanwhile is sent when the cable is back."""
    dados, backup = shop.a, shop.b
    for node in shop.nodes:
        node.do("up", "all")
    for node in shop.nodes:
        node.do("wait-connect", "--wfc-timeout=30", "r0")
    dados.do("primary", "--force", "r0")
    dados.do("wait-sync", "--wfc-timeout=60", "r0")
    assert dados.run(*MKFS, "/dev/drbd0").code == 0
    assert dados.run("mount", HOME).code == 0
    first = write_file(dados, "before", 100_000)
    for space in shop.spaces[:1]:
        space.link(False)
    dados.wait_state("Primary Connecting")
    backup.wait_state("Secondary Connecting")
    alone = write_file(dados, "alone", 200_000)
    before = backup.device["replblock-counters"]["nr"]
    shop.spaces[0].link(True)
    dados.wait_state("Established UpToDate/UpToDate")
    backup.wait_state("Established UpToDate/UpToDate")
    received = backup.device["replblock-counters"]["nr"] - before
    assert 200 <= received < 8 * 1024
    assert dados.run("umount", HOME).code == 0
    same_data(shop)
    shop.swap(dados)
    assert backup.run("mount", HOME).code == 0
    assert checksums(backup, ["before", "alone"]) == {"before": first, "alone": alone}
    assert backup.run("umount", HOME).code == 0
