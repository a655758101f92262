# SPDX-License-Identifier: GPL-2.0-or-later
"""The model deployment in two guests: its drbd.conf, ha.cf, haresources and resource script as they stand, under
Heartbeat 3.0.6 from Debian's package (unpacked, tools/unpack). Names of the machine are made to fit from outside:
/dev/sda1 and /sbin/mount are links; authkeys gets the lower case that Heartbeat insists on.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.e2e.pair import ROOT
from tests.e2e.shop import CASE_CONF, CASE_SCRIPT, FSTAB, HOME, MKFS
from tests.e2e.waiting import wait_until
from tests.kernel.guest import COMMAND_S, Command, Guest, Result
from tests.kernel.pair import DEVICE, DISK, Machine, Pair
from tests.kernel.test_replication import STOP, WRITER, check_files
from tests.kernel.timeline import WATCH, Row, rows, timeline

DEBIAN = ROOT / ".venv" / "debian"
CASE = Path(__file__).parent / "case"
CHECKOUT = "/run/checkout"      # the checkout again, where no mount on /home can hide it
ADDRESS = "192.168.0.212"
OUR_SCRIPT = ROOT / "replblock" / "cluster" / "resource.d" / "replblock"
OUR_LINE = f"dados replblock::r0 Filesystem::{DEVICE}::{HOME}::ext3 IPaddr::{ADDRESS}/24/eth1 samba"
SHARE = "loja"
TILL = Path(__file__).with_name("till.py")
LOG = "/var/log/ha-log"
INIT_S = 400.0                  # degr-wfc-timeout and initdead of the case are 120 s each
TAKE_OVER_S = 60.0             # how long a take-over is waited for; the case's dead time is 30 s

PROGRAM = f"""#!/bin/sh
PYTHONPATH={CHECKOUT} exec {CHECKOUT}/.venv/bin/python -m replblock.cli.main "$@"
"""

#: Debian's own does not wait for the end of those that serve clients: then /home cannot be unmounted, now and again.
SAMBA = """#!/bin/sh
/etc/init.d/smbd "$1" || exit
[ "$1" != stop ] || timeout 30 sh -c 'while pidof smbd; do sleep 0.1; done' >/dev/null
"""

FURNISH = f"""
mkdir -p {CHECKOUT}
mount --bind {ROOT} {CHECKOUT}
cp -a {DEBIAN}/etc/. /etc/
cp -rsn {CHECKOUT}/.venv/debian/usr/. /usr/
ldconfig
getent group haclient >/dev/null || groupadd -r haclient
getent passwd hacluster >/dev/null || useradd -r -g haclient -d /var/lib/heartbeat -s /usr/sbin/nologin hacluster
mkdir -p /run/lock/subsys /run/resource-agents /run/heartbeat/ccm /run/heartbeat/dopd /run/heartbeat/crm \\
    /run/heartbeat/rsctmp /var/lib/heartbeat/cores/root /var/lib/heartbeat/cores/hacluster /var/lib/heartbeat/pengine \\
    /var/lib/heartbeat/crm /var/log \\
    /run/samba /var/log/samba /var/lib/samba/private /var/cache/samba
chown hacluster:haclient /run/heartbeat/ccm /run/heartbeat/crm /var/lib/heartbeat/cores/hacluster
ln -sfn {DISK} /dev/sda1
for name in mount umount; do [ -e /sbin/$name ] || ln -s /bin/$name /sbin/$name; done
chmod 755 /etc/init.d/samba /etc/ha.d/resource.d/drbd /etc/ha.d/resource.d/replblock
printf 'exit 0\\n' | install -m 755 /dev/stdin /sbin/modprobe-of-none
rm -f /sbin/modprobe; mv /sbin/modprobe-of-none /sbin/modprobe
chmod 600 /etc/ha.d/authkeys
mkdir -p {HOME}
"""
OURS = """
install -m 755 /sbin/drbdadm.new /sbin/drbdadm
ln -sf /sbin/drbdadm /sbin/drbdsetup-of-ours
"""

DEFAULTS = """DRBDADM=/sbin/drbdadm
DRBDSETUP=/sbin/drbdsetup-of-ours
PROC_DRBD=/run/replblock/proc
MODPROBE=true
RMMOD=true
"""

SUPERVISE = f"{CHECKOUT}/replblock/cluster/lib/supervise"
BOOT = "/etc/init.d/drbd start && /etc/init.d/heartbeat start </dev/null"
BOOT_OURS = BOOT.replace("&&", f"&& (REPLCTL=/sbin/drbdadm setsid {SUPERVISE} r0 </dev/null >/var/log/supervise 2>&1 &)"
                               " &&")  # fmt: skip

TYPE_YES = "/run/type-yes"
CONSOLE = """
import os, pty, select, signal, subprocess, sys
ended, tell = os.pipe()
if os.fork():
    os.close(tell)
    sys.exit(os.read(ended, 1)[0])
# A terminal outlives what ran on it: where it ends, or who opened it, a daemon that has only just begun is hung up on.
leader, terminal = pty.fork()
if leader == 0:
    os.write(tell, bytes([subprocess.call(sys.argv[2:]) & 255]))
    signal.pause()
typed = False
while True:
    if select.select([terminal], [], [], 0.1)[0]:
        said = os.read(terminal, 4096).replace(bytes([13]), bytes([10]))
        try:
            os.write(1, said)
        except OSError:
            pass            # nobody looks any more
    if not typed and os.path.exists(sys.argv[1]):
        typed = True
        os.write(terminal, b"yes" + bytes([10]))
"""


class Node(Machine):
    """A machine of the supermarket. Everything but its disk is made anew at each boot, as its memory is its root."""

    def __init__(self, guest: Guest) -> None:
        super().__init__(guest)
        self.config = CASE_CONF.read_text()
        self.heartbeat = (CASE / "ha.cf").read_text()
        self.resources = (CASE / "haresources").read_text()
        self.script = "drbd"        # which of them makes this node Primary
        self.kernel_drbd = False    # the guest's own DRBD and drbd-utils' drbdadm instead of replblock

    @property
    def env(self) -> dict[str, str]:
        return {"PYTHONPATH": CHECKOUT}

    def furnish(self) -> None:
        for path, text in self.files().items():
            self.sh(f"mkdir -p {Path(path).parent}")
            self.write_file(path, text)
        self.sh(FURNISH if self.kernel_drbd else FURNISH + OURS)

    @property
    def proc_text(self) -> str:
        return self.sh("cat /proc/drbd") if self.kernel_drbd else super().proc_text

    def try_(self, *words: str, timeout_s: float = COMMAND_S) -> Result:
        return self.guest.run("/sbin/drbdadm", *words, timeout_s=timeout_s) if self.kernel_drbd else \
            super().try_(*words, timeout_s=timeout_s)

    def files(self) -> Mapping[str, str]:
        return {
            "/etc/drbd.conf": self.config,
            "/etc/fstab": FSTAB,
            "/etc/default/drbd": "" if self.kernel_drbd else DEFAULTS,
            "/sbin/drbdadm.new": PROGRAM,
            "/etc/ha.d/ha.cf": self.heartbeat,
            "/etc/ha.d/haresources": self.resources,
            "/etc/ha.d/authkeys": (CASE / "authkeys").read_text().replace("Auth", "auth"),
            "/etc/ha.d/resource.d/drbd": CASE_SCRIPT.read_text(),
            "/etc/ha.d/resource.d/replblock": OUR_SCRIPT.read_text(),
            "/etc/default/replblock": "REPLCTL=/sbin/drbdadm\n",
            "/etc/init.d/samba": SAMBA,
            "/etc/samba/smb.conf": (CASE / "smb.conf").read_text(),
        }  # fmt: skip

    def power_on(self) -> None:
        """After a power cut, until init would begin."""
        self.guest.start()
        self.guest.wait_ready()
        self.furnish()

    def boot(self) -> None:
        """What init does: the engine by DRBD's script, which waits for the peer, its supervisor, then Heartbeat."""
        done = self.begin_boot().wait(INIT_S)
        assert done.code == 0, done

    def begin_boot(self) -> Command:
        return self.guest.begin("sh", "-c", BOOT if self.kernel_drbd else BOOT_OURS, timeout_s=INIT_S)

    def begin_boot_at_console(self) -> Command:
        """With a terminal, at which somebody types `yes` when the file TYPE_YES is there."""
        return self.begin_python(CONSOLE, TYPE_YES, "sh", "-c", BOOT_OURS)

    def owns(self) -> bool:
        """All of the service is here: address, file system, samba."""
        return self.guest.run("sh", "-c", f"ip -4 address show dev eth1 | grep -q {ADDRESS}/ && grep -q ' {HOME} ext3 '"
                              " /proc/mounts && ss -Hltn sport = :445 | grep -q .").code == 0  # fmt: skip

    def has_nothing(self) -> bool:
        return self.guest.run("sh", "-c", f"! ip -4 address show dev eth1 | grep -q {ADDRESS}/ && ! grep -q ' {HOME} '"
                              " /proc/mounts && ! ss -Hltn sport = :445 | grep -q .").code == 0  # fmt: skip

    def wait_owner(self, patience_s: float = TAKE_OVER_S) -> None:
        wait_until(self.owns, lambda: f"{self.name} has the service; {self.said()[-4000:]}", patience_s)

    def holds(self) -> str:
        """What Heartbeat says of its resources: local, foreign, all, none, transition; "" where it does not run."""
        done = self.guest.run("cl_status", "rscstatus")
        return done.out.strip() if done.code == 0 else ""

    def stop_heartbeat(self) -> None:
        self.sh("/etc/init.d/heartbeat stop </dev/null", TAKE_OVER_S)

    def lost(self, promised: list[str]) -> int:
        """How many of the files are not there, or not as they were promised."""
        promised = list(dict.fromkeys(promised))
        said = self.guest.run("sh", "-c", check_files(promised).replace("--quiet", "")).out.splitlines()
        assert len(said) == len(promised), said[-3:]
        return sum(not line.endswith(": OK") for line in said)

    def said(self) -> str:
        return self.guest.run("cat", LOG).out

    def watch(self) -> Command:
        """Begin to note a take-over; `timeline` reads it."""
        return self.begin_python(WATCH, LOG, ADDRESS, HOME, self.script)

    def write(self, files: int = 100_000, place: str = HOME, most_bytes: int = 100_000) -> Command:
        return self.begin_python(WRITER, place, str(files), str(most_bytes), STOP)


class Shop(Pair):
    """dados and backup, with a service between them."""

    dados: Node
    backup: Node

    def furnish(self) -> None:
        for machine in (self.dados, self.backup):
            machine.furnish()

    def change_heartbeat(self, **words: str) -> None:
        """Other values in ha.cf, from the next start of Heartbeat on."""
        for node in (self.dados, self.backup):
            for name, value in words.items():
                node.heartbeat, count = re.subn(rf"(?m)^{name}( *).*$", rf"{name}\g<1>{value}", node.heartbeat)
                assert count == 1, name
            node.write_file("/etc/ha.d/ha.cf", node.heartbeat)

    def change_resources(self, line: str, script: str) -> None:
        """Another line in haresources; `script` is what makes a node Primary there."""
        for node in (self.dados, self.backup):
            node.resources, node.script = line + "\n", script
            node.write_file("/etc/ha.d/haresources", node.resources)

    def first_day(self) -> None:
        """Metadata, first sync, ext3; then everything down: as the machines are before Heartbeat's first start."""
        for machine in (self.dados, self.backup):
            machine.do(*(["create-md", "--force"] if machine.kernel_drbd else ["create-md"]), "r0")
            machine.do("up", "all")
        for machine in self.machines:
            machine.wait_state("cs:Connected")
        self.dados.do("--", "--clear-bitmap", "new-current-uuid", "r0")
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
        found = super().sections()
        for node in (self.dados, self.backup):
            with suppress(OSError, AssertionError):
                if node.guest.is_on:
                    found.append((f"{node.name}: Heartbeat's log", node.said()[-6000:]))
        return found

    def switch_on(self, node: Node) -> None:
        """After a power cut."""
        node.power_on()
        node.boot()

    @contextmanager
    def till(self) -> Iterator[Till]:
        """A client on the shop's network, as long as the block lasts."""
        till = Till(self)
        try:
            yield till
        finally:
            till.close()

    def note(self, fault: str, watch: Command, fault_at: float, till: Till | None = None,
             patience_s: float = TAKE_OVER_S) -> Row:  # fmt: skip
        """A take-over into the table, when the client was served again."""
        seconds = timeline(watch, fault_at, patience_s)
        if till is not None:
            seconds["client"] = till.served_after(fault_at + seconds["samba"], patience_s) - fault_at
        rows.append(row := Row(fault, seconds))
        return row

    def one_owner(self, patience_s: float = INIT_S) -> Node:
        """Until one node has the service, the other nothing of it, and Heartbeat on both has nothing more to do."""
        nodes = (self.dados, self.backup)

        def found() -> Node | None:
            holds = tuple(node.holds() for node in nodes)
            if holds not in (("local", "local"), ("all", "none"), ("none", "all")):
                return None
            owners = [node for node in nodes if node.owns()]
            return owners[0] if len(owners) == 1 and self.other(owners[0]).has_nothing() else None

        def said() -> str:
            return "one node has the service: " + "\n".join(f"{node.name}: {node.holds()}" for node in nodes)

        owner = wait_until(found, said, patience_s)
        assert isinstance(owner, Node)
        return owner

    def close(self, promised: list[str]) -> int:
        """Heartbeat ends on both, in good order. Then what each case must leave behind: a clean file system, and twice
        the same data. How many of the promised files are not there, or not as they were."""
        self.settle()
        nodes = [self.dados, self.backup]
        if all(node.guest.run("cl_status", "hbstatus").code == 0 for node in nodes):
            self.one_owner()        # a Heartbeat whose partner leaves while it is joining may never end
        nodes.sort(key=lambda node: node.owns())
        for node in nodes:
            node.stop_heartbeat()
            wait_until(node.has_nothing, f"{node.name} has given everything away")
        last = nodes[-1]
        last.do("primary", "all")
        last.sh(f"e2fsck -fn {DEVICE}")
        last.sh(f"mount {HOME}")
        lost = last.lost(promised)
        last.sh(f"umount {HOME}")
        last.do("secondary", "all")
        self.assert_same_data()
        return lost


class Till:
    """Keeps a file on the share per attempt; `promised` is what must be there ever after."""

    def __init__(self, shop: Shop) -> None:
        self._place = shop.dados.guest.directory / "till"
        self._place.mkdir()
        self._said = self._place / "said"
        libraries = DEBIAN / "usr" / "lib" / "x86_64-linux-gnu"
        with self._said.open("wb") as said:
            self._process = subprocess.Popen(
                [*shop.dados.guest.network.enter, "/usr/bin/python3", "-I", str(TILL), ADDRESS, SHARE,
                 str(DEBIAN / "usr" / "bin" / "smbclient"), str(self._place)],
                stdin=subprocess.DEVNULL, stdout=said, stderr=subprocess.STDOUT,
                env={**os.environ, "LD_LIBRARY_PATH": f"{libraries}:{libraries}/samba"},
            )  # fmt: skip

    @property
    def attempts(self) -> list[list[str]]:
        return [line.split() for line in self._said.read_text().split("\n")[:-1]]

    @property
    def promised(self) -> list[str]:
        return [f"{checksum}  {HOME}/{name}" for _, result, checksum, name in self.attempts if result == "ok"]

    def served_after(self, at: float, patience_s: float = TAKE_OVER_S) -> float:
        """When the first attempt after that time succeeded."""

        def served() -> list[float]:
            ended = [(float(attempt[0]), attempt[1] == "ok") for attempt in self.attempts]
            return [end for end, ok in ended if ok and end > at]

        return wait_until(served, lambda: f"the client is served: {self.attempts[-3:]}", patience_s)[0]

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
