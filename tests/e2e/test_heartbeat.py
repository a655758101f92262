# SPDX-License-Identifier: GPL-2.0-or-later
"""Heartbeat's own ResourceManager moves the service of the model deployment, by our resource script.

It is Debian's script as shipped, unpacked and not installed (tools/unpack). Only what it must not reach here is put
aside: reboot and init are recorders in each machine's own mount namespace, pkill is one, and its pauses are short.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator

import pytest

from tests.e2e.namespaces import call
from tests.e2e.pair import ROOT, Node, Result
from tests.e2e.shop import HOME, MKFS, Shop, checksums, same_data, write_file

DEBIAN = ROOT / ".venv" / "debian"
MANAGER = DEBIAN / "usr" / "share" / "heartbeat" / "ResourceManager"
SCRIPT = ROOT / "replblock" / "cluster" / "resource.d" / "replblock"
GROUP = "replblock::r0"
FILE_SYSTEM = f"Filesystem::/dev/drbd0::{HOME}::ext3"
LAST_RESORT = ("/sbin/reboot", "/sbin/init")

pytestmark = [pytest.mark.root, pytest.mark.netns]


class Manager:
    """Heartbeat's view of one node: its haresources, its log, what it would have done to the machine."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.directory = node.directory / "ha"
        self.log = self.directory / "log"
        self.drastic = self.directory / "drastic"
        tools = self.directory / "bin"
        tools.mkdir(parents=True)
        for name in ("findif", "send_arp"):
            (tools / name).symlink_to(DEBIAN / "usr" / "libexec" / "heartbeat" / name)
        shutil.copytree(DEBIAN / "etc" / "ha.d", self.directory / "ha.d")
        shutil.copy(SCRIPT, self.directory / "ha.d" / "resource.d")
        for name, text in (
            ("recorder", f'echo "$0 $*" >> {self.drastic}'),
            ("pkill", f'echo "$0 $*" >> {self.drastic}'),
            ("modprobe", "exit 0"),
            ("sleep", "exec /bin/sleep 0.05"),
        ):
            (tools / name).write_text(f"#!/bin/sh\n{text}\n")
            (tools / name).chmod(0o755)
        for what, where in (
            (self.directory / "ha.d", "/etc/ha.d"),
            (DEBIAN / "usr" / "lib" / "ocf", "/usr/lib/ocf"),
            *((tools / "recorder", os.path.realpath(path)) for path in LAST_RESORT if os.path.exists(path)),
        ):
            call(*node.enter, "mount", "--bind", str(what), str(where))
        for path in LAST_RESORT:
            if os.path.exists(path):
                assert "echo" in node.run("head", "-c", "100", path).out, f"{path} is still the machine's own"
        node.env |= {
            "HA_DEBUGLOG": str(self.log), "HA_LOGFILE": str(self.log), "HA_RESOURCEDIR": "/etc/ha.d/resource.d",
            "HA_BIN": str(tools), "HA_CURHOST": node.name, "HA_STOPRETRYMAX": "1",
            "REPLCTL": str(node.directory / "drbdadm"), "PEER_WAIT": "1",
        }  # fmt: skip
        self.group(GROUP, FILE_SYSTEM)

    def group(self, *resources: str) -> None:
        (self.directory / "ha.d" / "haresources").write_text(f"dados {' '.join(resources)}\n")

    def do(self, *words: str) -> Result:
        assert MANAGER.exists(), f"no {MANAGER}; run: make setup"
        return self.node.run(str(MANAGER), *words)

    def take(self, key: str = GROUP) -> None:
        taken = self.do("takegroup", key)
        assert taken.code == 0 and self.owns(key), self.said()

    def give(self, key: str = GROUP) -> None:
        given = self.do("givegroup", key)
        assert given.code == 0, self.said()

    def owns(self, resource: str = GROUP) -> bool:
        """By the words that the script prints, as Heartbeat decides it."""
        code = self.do("status", resource).code
        assert code in (0, 3), code
        return code == 0

    def said(self) -> str:
        return self.log.read_text() if self.log.exists() else "nothing was logged"

    def script(self, *words: str) -> Result:
        return self.node.run("/etc/ha.d/resource.d/replblock", *words)


class HeartbeatShop:
    def __init__(self, shop: Shop) -> None:
        self.shop = shop
        self.dados, self.backup = Manager(shop.a), Manager(shop.b)
        self.both = (self.dados, self.backup)


@pytest.fixture
def ha(shop: Shop) -> Iterator[HeartbeatShop]:
    """Connected, in sync, ext3 on it, both Secondary, nothing taken."""
    made = HeartbeatShop(shop)
    for node in shop.nodes:
        node.do("up", "all")
    for node in shop.nodes:
        node.do("wait-connect", "--wfc-timeout=30", "r0")
    shop.a.do("new-current-uuid", "--clear-bitmap", "r0")
    shop.a.do("primary", "r0")
    assert shop.a.run(*MKFS, "/dev/drbd0").code == 0
    shop.a.do("secondary", "r0")
    shop.settle()
    yield made
    for manager in made.both:
        manager.node.run("umount", "-l", HOME)


@pytest.mark.slow
def test_a_group_is_taken_given_and_taken_on_the_other_side(ha: HeartbeatShop) -> None:
    dados, backup = ha.both
    assert dados.do("verifyallidle").code == 0, "what is not taken looks taken"
    dados.take()
    assert dados.owns() and dados.owns(FILE_SYSTEM) and not backup.owns()
    wanted = {"a": write_file(dados.node, "a", 200_000)}
    dados.take()
    assert checksums(dados.node, ["a"]) == wanted, "taking twice is taking once"
    assert dados.script("r0", "start").code == 0
    dados.give()
    dados.give()
    assert not dados.owns() and not dados.owns(FILE_SYSTEM)
    assert dados.node.state().startswith("Secondary Connected")
    backup.take()
    assert backup.owns()
    assert checksums(backup.node, ["a"]) == wanted
    backup.give()
    same_data(ha.shop)
    assert not any(manager.drastic.exists() for manager in ha.both)


def test_a_group_is_not_taken_while_the_peer_has_it(ha: HeartbeatShop) -> None:
    """Refused six times, as by drbddisk; then Heartbeat gives up what it had, and the peer never noticed."""
    dados, backup = ha.both
    dados.take()
    first = write_file(dados.node, "first", 50_000)
    backup.do("takegroup", GROUP)       # its exit code says nothing
    assert "Giving up resources due to failure of replblock::r0" in backup.said()
    assert backup.said().count("State change failed: (-1) Multiple primaries") == 6, backup.said()
    assert not backup.owns()
    assert dados.owns() and checksums(dados.node, ["first"]) == {"first": first}
    assert not any(manager.drastic.exists() for manager in ha.both)
    dados.give()


def test_a_stop_fails_honestly_while_somebody_holds_the_device(ha: HeartbeatShop) -> None:
    """Heartbeat must learn that the resource is still here: it then reboots the node, which is right."""
    dados, _ = ha.both
    dados.group(GROUP)
    dados.take()
    with subprocess.Popen([*dados.node.enter, "sh", "-c", "exec 3</dev/drbd0; echo open; read line"], text=True,
                          stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:  # fmt: skip
        assert holder.stdout is not None and holder.stdout.readline() == "open\n"
        stopped = dados.script("r0", "stop")
        assert stopped.code == 1
        assert stopped.err.count("Device is held open by someone") == 3
        assert dados.owns()
        assert dados.do("givegroup", GROUP).code != 0
        assert "Killing heartbeat ungracefully" in dados.said()
        assert "pkill -9 heartbeat" in dados.drastic.read_text()
        holder.communicate("\n")
    assert dados.script("r0", "stop").code == 0
    assert dados.script("r0", "stop").code == 0
    assert not dados.owns()


def test_a_node_that_is_brought_up_to_date_is_not_mistaken_for_the_owner(ha: HeartbeatShop) -> None:
    """A resync is something that runs; the words for it must not reach Heartbeat."""
    dados, backup = ha.both
    dados.take()
    for manager in ha.both:
        text = manager.node.config.read_text()
        manager.node.config.write_text(text.replace("rate 100M", "rate 100K"))
        manager.node.do("adjust", "all")
    backup.node.do("invalidate", "r0")
    backup.node.wait_state("SyncTarget")
    assert not backup.owns()
    assert backup.script("r0", "status").out == "stopped (Secondary)\n"
    assert dados.owns()
    assert dados.script("r0", "status").out == "running (Primary)\n"


def test_a_node_with_a_broken_configuration(ha: HeartbeatShop) -> None:
    """A running engine can still be told to stop; a stopped one is stopped, and is not started."""
    dados, backup = ha.both
    dados.group(GROUP)
    dados.take()
    for manager in ha.both:
        with manager.node.config.open("a") as file:
            file.write("resource r1 { nonsense; }\n")
    assert dados.owns() and not backup.owns()
    dados.give()
    assert not dados.owns()
    backup.node.signal(15)
    backup.node.wait_state("down")
    assert backup.script("r0", "status").out == "stopped (down)\n"
    assert backup.script("r0", "stop").code == 0
    started = backup.script("r0", "start")
    assert started.code == 1 and "nonsense" in started.err
    assert not backup.owns()


def test_a_node_that_was_down_is_started(ha: HeartbeatShop) -> None:
    """It meets its peer before it becomes Primary, so a stale disk is brought up to date and not served."""
    dados, backup = ha.both
    backup.node.do("down", "r0")
    dados.take()
    wanted = {"late": write_file(dados.node, "late", 300_000)}
    dados.give()
    assert dados.node.state() == "Secondary Connecting Off UpToDate/DUnknown"
    backup.take()
    assert checksums(backup.node, ["late"]) == wanted
    backup.give()
    same_data(ha.shop)


# ---- what others have written: the model deployment's line as it stands, and drbd-utils' script

ADDRESS = "IPaddr::192.168.0.212/24/eth1"
SAMBA = """#!/bin/sh
case $1 in
start) [ -f /home/share ] && touch {flag} ;;
stop) rm -f {flag} ;;
status) [ -e {flag} ] && echo "smbd is running" || echo "smbd is stopped" ;;
esac
"""


@pytest.mark.slow
def test_the_model_deployments_line(ha: HeartbeatShop) -> None:
    """`dados IPaddr::192.168.0.212/24/eth1 drbd samba`: address, its author's script, service; there and back."""
    for manager in ha.both:
        resources = manager.directory / "ha.d" / "resource.d"
        shutil.copy(ha.shop.scripts[manager.node.name], resources / "drbd")
        (resources / "samba").write_text(SAMBA.format(flag=manager.directory / "samba"))
        for name in ("drbd", "samba"):
            (resources / name).chmod(0o755)
        call(*manager.node.enter, "ip", "link", "add", "eth1", "type", "veth", "peer", "name", "wall1")
        call(*manager.node.enter, "ip", "link", "set", "wall1", "up")
        call(*manager.node.enter, "ip", "link", "set", "eth1", "up")
        call(*manager.node.enter, "mkdir", "-p", "/run/resource-agents")
        manager.group(ADDRESS, "drbd", "samba")
    dados, backup = ha.both
    ha.shop.a.do("primary", "r0")
    assert ha.shop.a.run("mount", HOME).code == 0
    wanted = {"share": write_file(ha.shop.a, "share", 100_000)}
    assert ha.shop.a.run("umount", HOME).code == 0
    ha.shop.a.do("secondary", "r0")

    def serves(manager: Manager) -> bool:
        addresses = manager.node.run("ip", "-4", "address", "show", "eth1").out
        return "192.168.0.212/24" in addresses and (manager.directory / "samba").exists()

    for one, other in ((dados, backup), (backup, dados)):
        one.take(ADDRESS)
        assert serves(one) and not serves(other), one.said()
        assert one.node.state() == "Primary Connected Established UpToDate/UpToDate"
        assert checksums(one.node, ["share"]) == wanted
        one.give(ADDRESS)
        assert not serves(one) and one.node.state().startswith("Secondary"), one.said()
    assert not any(manager.drastic.exists() for manager in ha.both)
    same_data(ha.shop)


def test_drbd_utils_own_script(ha: HeartbeatShop) -> None:
    """`drbddisk::r0` needs nothing of ours but the path of drbdadm in /etc/default/drbd."""
    key = "drbddisk::r0"
    for manager in ha.both:
        default = manager.directory / "default"
        default.mkdir()
        (default / "drbd").write_text(f"DRBDADM={manager.node.directory}/drbdadm\n")
        call(*manager.node.enter, "mount", "--bind", str(default), "/etc/default")
        shutil.copy("/etc/ha.d/resource.d/drbddisk", manager.directory / "ha.d" / "resource.d")
        manager.group(key, FILE_SYSTEM)
    dados, backup = ha.both
    dados.take(key)
    wanted = {"a": write_file(dados.node, "a", 50_000)}
    assert not backup.owns(key)
    dados.give(key)
    backup.take(key)
    assert checksums(backup.node, ["a"]) == wanted
    backup.give(key)
    same_data(ha.shop)
