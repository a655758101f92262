# SPDX-License-Identifier: GPL-2.0-or-later
"""The model deployment in two guests: its drbd.conf, ha.cf, haresources and resource script as they stand, under
Heartbeat 3.0.6 from Debian's package (unpacked, tools/unpack). Names of the machine are made to fit from outside:
/dev/sda1 and /sbin/mount are links; authkeys gets the lower case that Heartbeat insists on.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from tests.e2e.pair import ROOT
from tests.e2e.shop import CASE_CONF, CASE_SCRIPT, FSTAB, HOME, MKFS
from tests.e2e.waiting import wait_until
from tests.kernel.guest import Command
from tests.kernel.pair import DEVICE, DISK, Machine, Pair
from tests.kernel.test_replication import STOP, WRITER

DEBIAN = ROOT / ".venv" / "debian"
CASE = Path(__file__).parent / "case"
CHECKOUT = "/run/checkout"      # the checkout again, where no mount on /home can hide it
ADDRESS = "192.168.0.212"
LOG = "/var/log/ha-log"
INIT_S = 240.0                  # initdead of the case is 120 s
TAKE_OVER_S = 120.0             # how long a take-over is waited for; the case's dead time is 30 s

PROGRAM = f"""#!/bin/sh
PYTHONPATH={CHECKOUT} exec {CHECKOUT}/.venv/bin/python -m replblock.cli.main "$@"
"""

#: Stands in where no samba is unpacked: only that it is started last and stopped first is seen then.
STAND_IN = """#!/bin/sh
case $1 in
start) touch /run/samba-runs ;;
stop) rm -f /run/samba-runs ;;
status) if [ -e /run/samba-runs ]; then echo running; else echo stopped; exit 3; fi ;;
esac
"""

FURNISH = f"""
mkdir -p {CHECKOUT}
mount --bind {ROOT} {CHECKOUT}
tar -C {DEBIAN} -c etc usr lib | tar -C / -x --keep-directory-symlink
ldconfig
getent group haclient >/dev/null || groupadd -r haclient
getent passwd hacluster >/dev/null || useradd -r -g haclient -d /var/lib/heartbeat -s /usr/sbin/nologin hacluster
mkdir -p /run/lock/subsys /run/resource-agents /run/heartbeat/ccm /run/heartbeat/dopd /run/heartbeat/crm \\
    /run/heartbeat/rsctmp /var/lib/heartbeat/cores/root /var/lib/heartbeat/cores/hacluster /var/lib/heartbeat/pengine \\
    /var/lib/heartbeat/crm /var/log
chown hacluster:haclient /run/heartbeat/ccm /run/heartbeat/crm /var/lib/heartbeat/cores/hacluster
ln -sfn {DISK} /dev/sda1
for name in mount umount; do [ -e /sbin/$name ] || ln -s /bin/$name /sbin/$name; done
chmod 755 /sbin/drbdadm.new /etc/ha.d/resource.d/drbd /etc/init.d/samba
rm -f /sbin/drbdadm; mv /sbin/drbdadm.new /sbin/drbdadm
ln -sf /sbin/drbdadm /sbin/drbdsetup-of-ours
printf 'exit 0\\n' | install -m 755 /dev/stdin /sbin/modprobe-of-none
rm -f /sbin/modprobe; mv /sbin/modprobe-of-none /sbin/modprobe
chmod 600 /etc/ha.d/authkeys
mkdir -p {HOME}
"""

#: Says, with the time, each thing that a take-over is made of, the moment it is true. Ends with the last one.
WATCH = """
import os, subprocess, sys, time
log, address, home = sys.argv[1:4]
def read(path):
    try:
        with open(path, errors="replace") as file:
            return file.read()
    except OSError:
        return ""
skip = len(read(log))
def dead(): return "is dead" in read(log)[skip:]
def asked(): return "Running /etc/ha.d/resource.d/drbd  start" in read(log)[skip:]
def primary(): return "ro:Primary/" in read("/run/replblock/proc")
def mounted(): return f" {home} ext3 " in read("/proc/mounts")
def address_up(): return address in subprocess.run(["ip", "-4", "address", "show", "dev", "eth1"],
                                                   capture_output=True, text=True).stdout
def service(): return os.path.exists("/run/samba-runs")
left = {"declared dead": dead, "address": address_up, "drbd start": asked, "primary": primary, "mounted": mounted,
        "service": service}
while "service" in left:
    for name in [name for name, true in left.items() if true()]:
        del left[name]
        print(time.time(), name, flush=True)
    time.sleep(0.02)
"""


class Node(Machine):
    """A machine of the supermarket. Everything but its disk is made anew at each boot, as its memory is its root."""

    @property
    def env(self) -> dict[str, str]:
        return {"PYTHONPATH": CHECKOUT}

    def furnish(self) -> None:
        for path, text in self.files().items():
            self.sh(f"mkdir -p {Path(path).parent}")
            self.write_file(path, text)
        self.sh(FURNISH)

    def files(self) -> Mapping[str, str]:
        return {
            "/etc/drbd.conf": CASE_CONF.read_text(),
            "/etc/fstab": FSTAB,
            "/etc/default/drbd": "DRBDADM=/sbin/drbdadm\nDRBDSETUP=/sbin/drbdsetup-of-ours\n"
                                 "PROC_DRBD=/run/replblock/proc\nMODPROBE=true\nRMMOD=true\n",
            "/sbin/drbdadm.new": PROGRAM,
            "/etc/ha.d/ha.cf": (CASE / "ha.cf").read_text(),
            "/etc/ha.d/haresources": (CASE / "haresources").read_text(),
            "/etc/ha.d/authkeys": (CASE / "authkeys").read_text().replace("Auth", "auth"),
            "/etc/ha.d/resource.d/drbd": CASE_SCRIPT.read_text(),
            "/etc/init.d/samba": STAND_IN,
        }  # fmt: skip

    def boot(self) -> None:
        """What init does: the engine by DRBD's script, which waits for the peer, its supervisor, then Heartbeat."""
        done = self.begin_boot().wait(INIT_S)
        assert done.code == 0, done

    def begin_boot(self) -> Command:
        supervise = f"{CHECKOUT}/replblock/cluster/lib/supervise"
        return self.guest.begin(
            "sh", "-c", f"/etc/init.d/drbd start </dev/null && (REPLCTL=/sbin/drbdadm setsid {supervise} r0 "
            "</dev/null >/var/log/supervise 2>&1 &) && /etc/init.d/heartbeat start </dev/null", timeout_s=INIT_S,
        )  # fmt: skip

    def owns(self) -> bool:
        """All of the service is here: address, file system, what stands last in haresources."""
        return self.guest.run("sh", "-c", f"ip -4 address show dev eth1 | grep -q {ADDRESS}/ && grep -q ' {HOME} ext3 '"
                              " /proc/mounts && test -e /run/samba-runs").code == 0  # fmt: skip

    def has_nothing(self) -> bool:
        return self.guest.run("sh", "-c", f"! ip -4 address show dev eth1 | grep -q {ADDRESS}/ && ! grep -q ' {HOME} '"
                              " /proc/mounts && ! test -e /run/samba-runs").code == 0  # fmt: skip

    def wait_owner(self, patience_s: float = TAKE_OVER_S) -> None:
        wait_until(self.owns, lambda: f"{self.name} has the service; {self.said()[-4000:]}", patience_s)

    def said(self) -> str:
        return self.guest.run("cat", LOG).out

    def watch(self) -> Command:
        """Begin to note a take-over; `timeline` reads it."""
        return self.begin_python(WATCH, LOG, ADDRESS, HOME)

    def write(self) -> Command:
        return self.begin_python(WRITER, HOME, "100000", "100000", STOP)


class Shop(Pair):
    """dados and backup, with a service between them."""

    dados: Node
    backup: Node

    def furnish(self) -> None:
        for machine in (self.dados, self.backup):
            machine.furnish()

    def first_day(self) -> None:
        """Metadata, first sync, ext3; then everything down: as the machines are before Heartbeat's first start."""
        for machine in self.machines:
            machine.do("create-md", "r0")
            machine.do("up", "all")
        for machine in self.machines:
            machine.wait_state("cs:Connected")
        self.dados.do("new-current-uuid", "--clear-bitmap", "r0")
        self.settle()
        self.dados.do("primary", "all")
        self.dados.sh(" ".join([*MKFS, DEVICE]))
        self.dados.do("secondary", "all")
        self.settle()
        for machine in self.machines:
            machine.do("down", "all")

    def open(self) -> None:
        """Both are switched on; dados is to have the service."""
        boots = [machine.begin_boot() for machine in (self.dados, self.backup)]
        for boot in boots:
            done = boot.wait(INIT_S)
            assert done.code == 0, done
        self.dados.wait_owner(INIT_S)

    def sections(self) -> list[tuple[str, str]]:
        return [*super().sections(),
                *((f"{node.name}: Heartbeat's log", node.said()[-6000:])
                  for node in (self.dados, self.backup) if node.guest.is_on)]  # fmt: skip

    def switch_on(self, node: Node) -> None:
        """After a power cut."""
        node.guest.start()
        node.guest.wait_ready()
        node.furnish()
        node.boot()


def timeline(watch: Command, fault_at: float, patience_s: float = TAKE_OVER_S) -> dict[str, float]:
    """Seconds after the fault, by event."""
    watch.wait_for(lambda lines: any(line.endswith(" service") for line in lines), "a take-over", patience_s)
    found = {}
    for line in watch.lines:
        at, _, name = line.partition(" ")
        found[name] = float(at) - fault_at
    return found
