# SPDX-License-Identifier: GPL-2.0-or-later
"""The table of faults: what can take the secondary away, and what can befall the primary; each with its way back.

A fault gets the run (see `life`) and returns what undoes it. It may be followed by another one before it is undone.
"""

from __future__ import annotations

import errno
import random
import signal
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from tests.e2e.waiting import wait_until
from tests.torture.oracle import Violation

if TYPE_CHECKING:
    from tests.torture.life import Life

Undo = Callable[[], None]


class Fault(NamedTuple):
    name: str
    begin: Callable[[Life], Undo]
    needs_cable: bool = False
    weight: int = 1


# ---- the secondary goes away


def kill(life: Life) -> Undo:
    node = life.secondary
    life.lose_secondary("kill")
    return lambda: life.up(node)


def power(life: Life) -> Undo:
    node = life.secondary
    life.lose_secondary("power")
    return lambda: life.up(node)


def die_at_a_point(life: Life) -> Undo:
    node = life.secondary
    life.lose_secondary("die")
    return lambda: life.up(node)


def stop(life: Life) -> Undo:
    node = life.secondary
    node.signal(signal.SIGSTOP)
    if life.rng.random() < 0.7:
        life.pair.wait_gone(life.primary)

    def go_on() -> None:
        if node.running():
            node.signal(signal.SIGCONT)

    return go_on


def hiccups(life: Life) -> Undo:
    node = life.secondary
    for _ in range(life.rng.randrange(2, 8)):
        node.signal(signal.SIGSTOP)
        time.sleep(life.rng.choice((0.01, 0.1, 0.5)))
        node.signal(signal.SIGCONT)
        time.sleep(life.rng.choice((0.0, 0.05)))
    return lambda: None


def deaf(life: Life) -> Undo:
    """Nothing of the primary reaches it; it can still speak."""
    return _cut(life, (life.primary,))


def mute(life: Life) -> Undo:
    """Nothing it sends arrives; it still hears."""
    return _cut(life, (life.secondary,))


def cut_off(life: Life) -> Undo:
    return _cut(life, life.pair.nodes)


def _cut(life: Life, senders: tuple) -> Undo:  # type: ignore[type-arg]
    life.cut(*senders)
    if life.rng.random() < 0.8:
        life.pair.wait_gone(life.primary)
    else:
        time.sleep(life.rng.choice((0.01, 0.3, 1.0)))
    return lambda: life.heal(*senders)


def narrow(life: Life) -> Undo:
    nodes = life.pair.nodes
    for node in nodes:
        node.narrow(True)
    return lambda: [node.narrow(False) for node in nodes] and None


def disconnect(life: Life) -> Undo:
    node = life.rng.choice(life.pair.nodes)
    node.do("disconnect", "r0")

    def connect() -> None:
        if node.running() and "StandAlone" in node.state():
            node.do("connect", "r0")

    return connect


def down(life: Life) -> Undo:
    node = life.secondary
    node.do("down", "r0")
    return lambda: life.up(node)


def detach(life: Life) -> Undo:
    node = life.secondary
    node.do("detach", "r0")
    return lambda: life.attach(node)


BAD_DISKS: tuple[tuple[str, dict[str, int]], ...] = (
    ("writes fail", {"write": errno.EIO}),
    ("the disk is full", {"write": errno.ENOSPC}),
    ("flushes fail", {"sync": errno.EIO}),
    ("metadata writes fail", {"meta": errno.EIO}),
    ("nothing works", {"write": errno.EIO, "meta": errno.EIO, "sync": errno.EIO, "read": errno.EIO}),
)


def bad_disk(life: Life) -> Undo:
    return disk_fails(life, life.secondary)


def disk_fails(life: Life, node) -> Undo:  # type: ignore[no-untyped-def]
    what, faults = life.rng.choice(BAD_DISKS)
    life.note(f"{node.name}: {what}")
    node.fault(**faults)

    def mend() -> None:
        node.fault()
        life.attach(node)

    return mend


def slow_disk(life: Life) -> Undo:
    node = life.rng.choice(life.pair.nodes)
    node.fault(delay_s=life.rng.choice((0.002, 0.03, 0.2)))
    return lambda: node.fault()


def invalidate(life: Life) -> Undo:
    node = life.secondary
    if life.rng.random() < 0.5:
        node.do("invalidate", "r0")
    else:
        life.primary.do("invalidate-remote", "r0")
    return lambda: None


def nothing(life: Life) -> Undo:
    return lambda: None


AWAY: tuple[Fault, ...] = (
    Fault("kill", kill),
    Fault("power", power, weight=4),
    Fault("die_at_a_point", die_at_a_point, weight=2),
    Fault("stop", stop),
    Fault("hiccups", hiccups),
    Fault("deaf", deaf, needs_cable=True),
    Fault("mute", mute, needs_cable=True),
    Fault("cut_off", cut_off, needs_cable=True),
    Fault("narrow", narrow, needs_cable=True),
    Fault("disconnect", disconnect),
    Fault("down", down),
    Fault("detach", detach),
    Fault("bad_disk", bad_disk),
    Fault("slow_disk", slow_disk),
    Fault("invalidate", invalidate),
)


# ---- scenarios: each begins with a pair in sync, and ends when both may be in sync again


def secondary_away(life: Life) -> None:
    """It goes away in one of many ways, perhaps the primary dies and returns meanwhile, perhaps the return is hurt."""
    rng = life.rng
    possible = [f for f in AWAY if life.pair.wired or not f.needs_cable]
    fault = rng.choices(possible, [f.weight for f in possible])[0]
    life.note(f"secondary {life.secondary.name}: {fault.name}")
    with life.perhaps_at_rest(fault.name in ("kill", "power")):
        undo = fault.begin(life)
    life.some()
    if rng.random() < 0.4:
        life.note("meanwhile the primary dies and returns")
        life.primary_returns(rng.choice(("kill", "power", "die")))
        life.some()
    life.note(f"undo {fault.name}")
    undo()
    hurt = rng.choice(("", "", "kill", "power", "primary", "cut" if life.pair.wired else ""))
    if hurt:
        life.note(f"its return is hurt: {hurt}")
        time.sleep(rng.choice((0.0, 0.05, 0.3, 1.0)))
        if hurt in ("kill", "power"):
            again = (kill if hurt == "kill" else power)(life)
            life.some()
            again()
        elif hurt == "primary":
            life.primary_returns(rng.choice(("kill", "power", "die")))
        else:
            cut_off(life)()


def take_over(life: Life) -> None:
    """The primary is lost; the secondary becomes primary, the lost node comes back as secondary."""
    rng = life.rng
    how = rng.choice(("kill", "power", "power", "die"))
    if rng.random() < 0.2:
        life.rest()
    elif life.pair.wired and rng.random() < 0.3:
        life.note("first the cable is cut")
        life.cut(*life.pair.nodes)
        time.sleep(rng.choice((0.0, 0.1, 0.5, 3.0)))
    elif rng.random() < 0.2:
        life.note("first it hangs")
        life.primary.signal(signal.SIGSTOP)
        time.sleep(rng.choice((0.1, 2.0, 5.0)))
        how = rng.choice(("kill", "power"))
    life.note(f"primary {life.primary.name} is lost: {how}")
    life.lose_primary(how)
    if not life.survivor_takes_over():
        return
    old = life.secondary
    if rng.random() < 0.3:
        life.note("the new primary dies at once and returns")
        life.primary_returns(rng.choice(("kill", "power")))
    life.some()
    life.up(old)
    if rng.random() < 0.4:
        life.note("the old one's return is hurt")
        time.sleep(rng.choice((0.0, 0.05, 0.3)))
        again = rng.choice((kill, power))(life)
        life.some()
        again()


def primary_returns(life: Life) -> None:
    how = life.rng.choice(("kill", "power", "power", "die"))
    if life.rng.random() < 0.2:
        life.rest()
    life.note(f"primary {life.primary.name} dies and returns: {how}")
    life.primary_returns(how)


def both_lost(life: Life) -> None:
    """Both machines lose power, or both engines are killed, nearly at the same time."""
    rng = life.rng
    how = rng.choice(("kill", "power", "power"))
    if rng.random() < 0.2:
        life.rest()
    life.note(f"both are lost: {how}")
    first = rng.choice(life.pair.nodes)
    delay_s = rng.choice((0.0, 0.0, 0.05, 2.0))
    life.both_lost(how, first, delay_s)


def flushed_then_dark(life: Life) -> None:
    """The application flushes and rests, then a machine loses power: exactly what was flushed is asked for."""
    for _ in range(life.rng.randrange(1, 4)):
        life.some()
        life.rest(flush=True)
        life.note("the secondary loses power")
        life.lose_secondary("power")
        node = life.secondary
        life.begin()
        life.some()
        life.up(node)
        node.wait_state("Established UpToDate/UpToDate")


def swap(life: Life) -> None:
    life.note("swap of roles")
    life.end()
    life.pair.settle()
    life.primary = life.pair.swap(life.primary)
    life.begin()


def primary_stops(life: Life) -> None:
    """It hangs long enough to lose its peer, then goes on; nobody took over."""
    node = life.primary
    life.note(f"primary {node.name} hangs")
    node.signal(signal.SIGSTOP)
    try:
        if life.rng.random() < 0.6:
            life.pair.wait_gone(life.secondary)
        else:
            time.sleep(0.3)
    finally:
        node.signal(signal.SIGCONT)


def primary_diskless(life: Life) -> None:
    """Its disk fails or is detached; it goes on through the peer."""
    node = life.primary
    if life.rng.random() < 0.4:
        life.note(f"primary {node.name}: detach")
        node.do("detach", "r0")
        undo: Undo = lambda: life.attach(node)  # noqa: E731
    else:
        undo = disk_fails(life, node)
    life.some()
    if "Diskless" in node.state() and life.rng.random() < 0.3:
        life.note("and then it dies")
        life.lose_primary("kill")
        node.fault()
        if life.survivor_takes_over(other_is_diskless=True):
            life.up(node)
        return
    undo()


DAMAGE: tuple[tuple[str, Callable[[bytearray, random.Random], None]], ...] = (
    ("zeroed", lambda block, rng: block.__setitem__(slice(None), bytes(len(block)))),
    ("random", lambda block, rng: block.__setitem__(slice(None), rng.randbytes(len(block)))),
    ("magic", lambda block, rng: block.__setitem__(60, block[60] ^ 0xFF)),
)


def damaged_metadata(life: Life) -> None:
    """The secondary's superblock is damaged while it is down: `up` must refuse in one clear line and change nothing."""
    node, rng = life.secondary, life.rng
    what, damage = rng.choice(DAMAGE)
    life.note(f"{node.name}: superblock {what} while down")
    if rng.random() < 0.5:
        node.kill_9()
    else:
        node.do("down", "r0")
    life.some()
    at = node.disk.stat().st_size - 4096
    with node.disk.open("r+b") as file:
        file.seek(at)
        good = file.read(4096)
        bad = bytearray(good)
        damage(bad, rng)
        file.seek(at)
        file.write(bad)
    before = node.disk.read_bytes()
    said = node.try_("up", "r0")
    if said.code == 0 or "Failure: (1" not in said.first or "Traceback" in said.err:
        raise Violation(f"up with a superblock that is {what}: exit {said.code}: {said.err}")
    if node.disk.read_bytes() != before:
        raise Violation("a refused up changed the disk")
    with node.disk.open("r+b") as file:
        file.seek(at)
        file.write(good)
    life.up(node)


def bad_return(life: Life) -> None:
    """Both nodes hang, hiccup or crawl at once."""
    for node in life.pair.nodes:
        node.signal(signal.SIGSTOP)
    time.sleep(life.rng.choice((0.2, 2.0)))
    for node in life.pair.nodes:
        node.signal(signal.SIGCONT)
    wait_until(lambda: life.primary.alive(), "the primary goes on")


SCENARIOS: tuple[tuple[int, Callable[[Life], None]], ...] = (
    # weight, what
    (14, secondary_away),
    (5, take_over),
    (4, flushed_then_dark),
    (3, primary_returns),
    (3, both_lost),
    (1, swap),
    (1, primary_stops),
    (3, primary_diskless),
    (1, damaged_metadata),
    (1, bad_return),
)
