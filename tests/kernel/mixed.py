# SPDX-License-Identifier: GPL-2.0-or-later
"""A pair of which one machine runs the kernel's DRBD 8.4 with its own drbdadm, the other replblock."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from tests.e2e.waiting import wait_until
from tests.kernel.boot import NoGuest
from tests.kernel.guest import COMMAND_S, Guest, Result
from tests.kernel.pair import DEVICE, DISK, MOUNTED, OURS_ONLY, Machine, Pair, two_guests

GENERATIONS = re.compile(r"([0-9A-F]{16}):([0-9A-F]{16}):([0-9A-F]{16}):([0-9A-F]{16})")

#: If not told, the kernel looks as long as an answer to a ping may take whether a new connection stands.
KERNEL_NET: dict[str, object] = {"socket-check-timeout": 3}


class KernelMachine(Machine):
    """A guest whose kernel is the node: drbdadm of Debian's drbd-utils, /proc/drbd."""

    def furnish(self) -> None:
        """Raises NoGuest where the guest's kernel has no DRBD."""
        if self.guest.run("sh", "-c", "test -e /proc/drbd || modprobe drbd").code:
            raise NoGuest("the guests' kernel has no DRBD")
        self.sh("mkdir -p /var/lib/drbd /run/lock")      # a package's maintainer script makes them

    def configure(self, text: str) -> None:
        """As ours, without what only replblock understands; after a power cut the module is loaded anew."""
        self.furnish()
        super().configure("global { usage-count no; }\n" + text.replace(OURS_ONLY, ""))

    def try_(self, *words: str, timeout_s: float = COMMAND_S) -> Result:
        """drbdadm; any exit code."""
        if words[0] == "create-md":
            words = ("create-md", "--force", *words[1:])
        return self.guest.run("/sbin/drbdadm", *words, timeout_s=timeout_s)

    @property
    def proc_text(self) -> str:
        return self.sh("cat /proc/drbd")

    def log(self) -> str:
        return self.kernel_log()


class MixedPair(Pair):
    """`ours` runs replblock, `kernel` DRBD; which of the two is dados, the first Primary, is the test's choice."""

    def __init__(self, guests: Sequence[Guest], ours: str) -> None:
        machines = [(Machine if guest.name == ours else KernelMachine)(guest) for guest in guests]
        super().__init__(machines)
        self.ours = next(m for m in machines if not isinstance(m, KernelMachine))
        self.kernel = next(m for m in machines if isinstance(m, KernelMachine))

    def begin(self, net: Mapping[str, object] | None = None, disk: Mapping[str, object] | None = None, *,
              first_sync: bool = False) -> None:  # fmt: skip
        """Blank disks, this configuration, in sync, dados Primary."""
        self.blank()
        self.configure(net, disk)
        self.set_up(first_sync)

    def configure(self, net: Mapping[str, object] | None = None, disk: Mapping[str, object] | None = None,
                  more: str = "") -> None:  # fmt: skip
        super().configure({**KERNEL_NET, **(net or {})}, disk, more)

    def blank(self) -> None:
        """Nothing is up, nothing on the disks, no cable pulled."""
        for machine in self.machines:
            machine.guest.heal()
            if self.config:
                machine.sh(f"! grep -q ' {MOUNTED} ' /proc/mounts || umount {MOUNTED}")
                machine.do("down", "r0")
            machine.sh(f"dd if=/dev/zero of={DISK} bs=1M status=none 2>/dev/null || true; sync; dmesg --clear;"
                       " rm -f /run/replblock/r0.log")  # fmt: skip

    def begin_again(self) -> None:
        """Whatever a failed test left: both guests are switched off and on."""
        for machine in self.machines:
            machine.guest.kill()
            machine.guest.heal()
            machine.guest.start()
        for machine in self.machines:
            machine.guest.wait_ready()
        self.config = ""

    def change(self, net: Mapping[str, object] | None = None, disk: Mapping[str, object] | None = None) -> None:
        """Another configuration, connected anew under it."""
        self.configure(net, disk)
        for machine in self.machines:
            machine.do("adjust", "r0")

    def generations(self) -> tuple[list[int], list[int]]:
        """Ours and the kernel's, as both tools show them; bit 0 says who was Primary."""
        return _generations(self.ours), _generations(self.kernel)

    def assert_agree(self) -> None:
        """Identical data areas, identical generations, and each sees of itself what the other sees of it."""
        # under A what was written last may still be on its way; what a node says of itself comes behind it
        wait_until(self.same_view, lambda: "".join(machine.proc for machine in self.machines))
        if view(self.dados.proc)["protocol"] == "A":
            wait_until(lambda: not self.differing_mib(), lambda: f"the disks differ in the MiB {self.differing_mib()}")
        self.assert_same_data()
        mine, theirs = ([g & ~1 for g in node] for node in self.generations())
        assert mine == theirs, ([f"{g:X}" for g in mine], [f"{g:X}" for g in theirs])

    def same_view(self) -> bool:
        """Each sees of itself what the other one sees of it."""
        one, other = (view(machine.proc) for machine in self.machines)
        mirrored = {name: "/".join(reversed(other[name].split("/"))) for name in ("ro", "ds")}
        return {name: one[name] for name in mirrored} == mirrored and one["protocol"] == other["protocol"]

    def swap(self, now: Machine) -> None:
        """`now` is Primary instead of the other one."""
        self.other(now).do("secondary", "r0")
        now.do("primary", "r0")


def view(line: str) -> dict[str, str]:
    """The fields of a resource's line in the form of /proc/drbd."""
    words = line.split()[1:]
    return {**dict(word.split(":", 1) for word in words[:3]), "protocol": words[3], "flags": words[4]}


#: Writes random blocks of 4 KiB at random places, all of them durable when it ends.
SCRIBBLER = """
import os, random, sys
place, seed, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
dice = random.Random(seed)
device = os.open(place, os.O_RDWR)
blocks = int(sys.argv[4]) << 8 or os.lseek(device, 0, os.SEEK_END) // 4096
for _ in range(count):
    os.pwrite(device, dice.randbytes(4096), dice.randrange(blocks) * 4096)
os.fsync(device)
"""


def scribble(machine: Machine, seed: object, count: int = 100, span_mib: int = 0) -> None:
    """In the first `span_mib` of the device, or all over."""
    machine.sh(f"python3 -c {shlex.quote(SCRIBBLER)} {DEVICE} {shlex.quote(str(seed))} {count} {span_mib}")


def resynced_kib(machine: Machine, since: str = "") -> list[int]:
    """What each resync in which this machine was source or target had to send."""
    log = machine.log().partition(since)[2] if since else machine.log()
    return [int(kib) for kib in re.findall(r"Began resync as Sync\w+ \(will sync (\d+) KB", log)]


def _generations(machine: Machine) -> list[int]:
    found = GENERATIONS.search(machine.do("get-gi", "r0"))
    assert found is not None
    return [int(group, 16) for group in found.groups()]


@contextmanager
def mixed_pair(
    ours: str, remember: Callable[[Pair], None] = lambda pair: None, memory_mib: int = 256, disk_mib: int = 32
) -> Iterator[MixedPair]:
    """Two guests, nothing configured. Raises NoGuest, NetworkError."""
    with two_guests(memory_mib, disk_mib) as guests:
        pair = MixedPair(guests, ours)
        pair.kernel.furnish()
        remember(pair)
        yield pair
