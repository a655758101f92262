# SPDX-License-Identifier: GPL-2.0-or-later
"""Two guests as a cluster of Debian's corosync and Pacemaker, unpacked (tools/unpack): the file server that
docs/pacemaker.md describes, with that document's own configuration. Names are made to fit: samba is started by its
init script, as there is no systemd in a guest; the plugs are those of tests/kernel/power.py.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence

from tests.e2e.pair import ROOT
from tests.e2e.waiting import wait_until
from tests.kernel import power
from tests.kernel.client import Client
from tests.kernel.guest import Command, Guest
from tests.kernel.lent import LEND, REPLCTL
from tests.kernel.network import CABLES
from tests.kernel.pair import DEVICE, Machine, Pair
from tests.kernel.power import PowerSwitch
from tests.kernel.timeline import timeline

AGENT = "/usr/lib/ocf/resource.d/replblock/replblock"
LIB = "/usr/local/lib/replblock"
SUPERVISE = f"{LIB}/supervise"
SHARE, PLACE, ADDRESS = "files", "/srv", "192.168.0.212"
COROSYNC_LOG, PACEMAKER_LOG = "/var/log/corosync/corosync.log", "/var/log/pacemaker/pacemaker.log"
CIB = "/var/lib/pacemaker/cib/cib.xml"
SERVICE_S = 240.0           # how long a change of the cluster is waited for
HANDLERS = f'handlers {{ fence-peer "{LIB}/replblock-crm-fence"; unfence-peer "{LIB}/replblock-crm-unfence"; }}'
MADE_TO_FIT = {"systemd:smbd": "lsb:smbd", "fstype=ext4": "fstype=ext3", "stonith:fence_ipmilan": "stonith:fence_plug"}

SAMBA = f"""[global]
server role = standalone server
map to guest = bad user
disable netbios = yes
smb ports = 445
load printers = no
printing = bsd
disable spoolss = yes
[{SHARE}]
path = {PLACE}
guest ok = yes
force user = root
read only = no
sync always = yes
"""

COROSYNC = f"""totem {{
    version: 2
    cluster_name: shop
    transport: knet
    crypto_cipher: none
    crypto_hash: none
}}
quorum {{
    provider: corosync_votequorum
    two_node: 1
}}
logging {{
    to_logfile: yes
    logfile: {COROSYNC_LOG}
    to_syslog: no
    timestamp: hires
}}
"""
NODE = """    node {{
        name: {name}
        nodeid: {number}
        ring0_addr: {first}
        ring1_addr: {second}
    }}
"""

FURNISH = f"""
chmod 755 /usr/local/sbin/replctl {power.AGENT_PATH}
replctl install-scripts >/dev/null
command -v modprobe >/dev/null || printf '#!/bin/sh\n' | install -m 755 /dev/stdin /usr/sbin/modprobe
install -d -o hacluster -g haclient -m 770 /var/log/pacemaker
install -d -o hacluster -g haclient -m 750 /run/crm /var/lib/pacemaker /var/lib/pacemaker/{{cib,pengine,cores,blackbox}}
mkdir -p /var/log/{{corosync,crmsh,samba}} /run/samba /run/lock /run/resource-agents {PLACE}
"""

START = f"""
setsid corosync -f </dev/null >/run/corosync.out 2>&1 &
until corosync-cpgtool >/dev/null 2>&1; do sleep .1; done
PCMK_logfile={PACEMAKER_LOG} setsid pacemakerd </dev/null >/run/pacemakerd.out 2>&1 &
"""

#: Says, with the time, each thing that a take-over is made of, the moment it is true. Ends with the last one.
WATCH = """
import sys, time
corosync, pacemaker, address, place = sys.argv[1:5]
def read(path, skip=0):
    try:
        with open(path, errors="replace") as file:
            file.seek(skip)
            return file.read()
    except OSError:
        return ""
lengths = {path: len(read(path).encode()) for path in (corosync, pacemaker)}
def new(path): return read(path, lengths[path])
left = {
    "declared dead": lambda: "Members left" in new(corosync),
    "promote": lambda: "Requesting local execution of promote operation" in new(pacemaker),
    "promoted": lambda: "Result of promote operation" in new(pacemaker),
    "primary": lambda: "ro:Primary/" in read("/run/replblock/proc"),
    "mounted": lambda: f" {place} ext3 " in read("/proc/mounts"),
    "address": lambda: address in read("/proc/net/fib_trie"),
    "samba": lambda: ":01BD 00000000:0000 0A" in read("/proc/net/tcp"),
}
print(time.time(), "watching", flush=True)
while "samba" in left:
    for name in [name for name, true in left.items() if true()]:
        del left[name]
        print(time.time(), name, flush=True)
    time.sleep(0.05)
"""


def document(properties: str) -> str:
    """The example for crm in docs/pacemaker.md, which is what the tests run, with further properties of the cluster."""
    text = (ROOT / "docs" / "pacemaker.md").read_text()
    (example,) = re.findall(r"With crm:\n\n```\n(.*?)```", text, re.DOTALL)
    for theirs, ours in MADE_TO_FIT.items():
        assert theirs in example, theirs
        example = example.replace(theirs, ours)
    assert PLACE in example and ADDRESS in example
    return example.replace("\nproperty ", f"\nproperty {properties} ")


class Member(Machine):
    """A node of the cluster. All but its disk is made anew at each boot, as its memory is its root."""

    def furnish(self, files: Mapping[str, str]) -> None:
        ours = {"/usr/local/sbin/replctl": REPLCTL, power.AGENT_PATH: power.AGENT, "/etc/samba/smb.conf": SAMBA}
        self.sh(LEND)
        for path, text in {**files, **ours}.items():
            self.sh(f"mkdir -p {path.rpartition('/')[0]}")
            self.write_file(path, text)
        self.sh(FURNISH)

    def start_cluster(self) -> None:
        self.sh(START)

    def owns(self) -> bool:
        """All of the service is here."""
        return self.guest.run("sh", "-c", f"grep -q {ADDRESS} /proc/net/fib_trie && grep -q ' {PLACE} ext3 ' "
                              "/proc/mounts && grep -q ':01BD 00000000:0000 0A' /proc/net/tcp").code == 0  # fmt: skip

    def has_nothing(self) -> bool:
        return self.guest.run("sh", "-c", f"! grep -q {ADDRESS} /proc/net/fib_trie && ! grep -q ' {PLACE} ' "
                              "/proc/mounts && ! grep -q ':01BD ' /proc/net/tcp").code == 0  # fmt: skip

    def wait_owner(self, patience_s: float = SERVICE_S) -> None:
        wait_until(self.owns, lambda: f"{self.name} has the service\n{self.status()}", patience_s)

    def status(self) -> str:
        return self.guest.run("crm_mon", "-1rfA").out

    def crm(self, *words: str) -> str:
        return self.sh(f"crm -w {' '.join(words)}", SERVICE_S)

    def idle(self) -> None:
        """Until the cluster has nothing left to do."""
        self.sh(f"crm_resource --wait --timeout {SERVICE_S:.0f}", SERVICE_S + 30)

    def constraints(self) -> list[str]:
        """On which nodes the fencing handler allows the promoted role."""
        ours = "//rsc_location[starts-with(@id, 'drbd-fence-by-handler')]"
        found = self.guest.run("cibadmin", "--query", "--xpath", ours)
        return re.findall(r'operation="ne" value="(\w+)"', found.out)

    def configuration(self) -> str:
        return self.sh("cibadmin --query")

    def watch(self) -> Command:
        """Begin to note a take-over; `events` reads it."""
        watch = self.begin_python(WATCH, COROSYNC_LOG, PACEMAKER_LOG, ADDRESS, PLACE)
        watch.wait_for(lambda lines: bool(lines), "the watch has begun")
        return watch


class Cluster(Pair):
    """dados and backup, and a service that one of them has."""

    dados: Member
    backup: Member
    client: Client

    def __init__(self, guests: Sequence[Guest], properties: str = "") -> None:
        """`properties`: more of those that are given to the cluster as a whole."""
        super().__init__([Member(guest) for guest in guests])
        self.members = (self.dados, self.backup)
        self.properties = f"stonith-action=off {properties}"
        self.switch = PowerSwitch(guests[0].network, guests)

    def close(self) -> None:
        if hasattr(self, "client"):
            self.client.close()
        self.switch.close()

    def corosync(self) -> str:
        nodes = "".join(
            NODE.format(name=one.name, number=one.guest.number, first=one.guest.address,
                        second=f"{CABLES['eth1']}.{one.guest.number}") for one in self.machines
        )  # fmt: skip
        return COROSYNC + f"nodelist {{\n{nodes}}}\n"

    def furnish(self, member: Member) -> None:
        member.furnish({"/etc/drbd.conf": self.config, "/etc/corosync/corosync.conf": self.corosync()})

    def first_day(self, fencing: str, resync_rate: str) -> None:
        """Everything in its place, metadata, equal disks, ext3, all down: so a cluster finds it at its first start. A
        client tries to get in from now on.
        """
        self.configure({"ping-timeout": 30}, {"fencing": fencing, "resync-rate": resync_rate}, HANDLERS)
        for member in self.members:
            self.furnish(member)
        for machine in self.machines:
            machine.do("create-md", "r0")
            machine.do("up", "r0")
        for machine in self.machines:
            machine.wait_state("cs:Connected")
        self.dados.do("new-current-uuid", "--clear-bitmap", "r0")
        self.settle()
        self.dados.do("primary", "r0")
        self.dados.sh(f"mkfs.ext3 -q -E nodiscard {DEVICE}")
        self.dados.do("secondary", "r0")
        self.settle()
        for machine in self.machines:
            machine.do("down", "r0")
        guest = self.dados.guest
        self.client = Client(guest.network, guest.directory.parent / "client", ADDRESS, SHARE)

    def open(self) -> float:
        """Start the cluster, load the configuration as an operator does; when it was loaded."""
        for member in self.members:
            member.start_cluster()
        self.both_online()
        self.dados.write_file("/root/cluster.crm", document(self.properties))
        loaded_at = time.time()
        self.dados.crm("configure", "load", "update", "/root/cluster.crm")
        self.dados.idle()
        return loaded_at

    def both_online(self) -> None:
        """Until each node takes both for members of the cluster."""
        for member in self.members:
            wait_until(lambda member=member: "Online: [ backup dados ]" in member.status()      # type: ignore[misc]
                       and "partition with quorum" in member.status(), member.status, SERVICE_S)  # fmt: skip

    def owner(self) -> Member:
        owners = [member for member in self.members if member.guest.is_on and member.owns()]
        assert len(owners) == 1, "\n".join(member.status() for member in self.members if member.guest.is_on)
        return owners[0]

    def partner(self, member: Member) -> Member:
        return self.backup if member is self.dados else self.dados

    def switch_on(self, member: Member, configuration: str = "") -> None:
        """After a power cut. The other node has the cluster's configuration, or it had one on its own disk."""
        member.guest.start()
        member.guest.wait_ready()
        self.furnish(member)
        if configuration:
            member.write_file(CIB, configuration)
            member.sh(f"chown hacluster:haclient {CIB}; chmod 600 {CIB}")
        member.start_cluster()

    def sections(self) -> list[tuple[str, str]]:
        found = super().sections()
        for member in self.members:
            if member.guest.is_on:
                found.append((f"{member.name}: crm_mon", member.status()))
                for log in (COROSYNC_LOG, PACEMAKER_LOG):
                    said = member.guest.run("sh", "-c", f"grep -v 'info:\\|debug' {log} | tail -n 60").out
                    found.append((f"{member.name}: {log}", said[-8000:]))
        return found


def events(watch: Command, fault_at: float) -> dict[str, float]:
    """Seconds after the fault, by event; `ours` is what the agent takes for the promotion, fencing handler included."""
    found = timeline(watch, fault_at, SERVICE_S)
    if {"promote", "promoted"} <= found.keys():
        found["ours"] = found["promoted"] - found["promote"]
    return found
