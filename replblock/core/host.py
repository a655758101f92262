# SPDX-License-Identifier: GPL-2.0-or-later
"""What the core asks of the world around it: clock, chance, disk, network, timers, handlers.

The engine's loop and the simulator are the two implementations. All calls come from one thread; every
callback and every event is delivered on that same thread, never from inside the call that caused it
(a `done` is always called later; where a call can finish at once it says so by its return value).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from replblock.meta.geometry import Geometry

PENDING = -1
"""Returned by a disk call that will answer later through its `done`."""

Buffer = bytes | bytearray | memoryview
Done = Callable[[int], None]
"""done(errno): 0 for success, an errno value otherwise."""
ReadDone = Callable[[int, Buffer], None]
"""done(errno, data)."""
HandlerDone = Callable[[int], None]
"""done(exit_code)."""


class Disk(Protocol):
    """The local disk: a data area, and metadata on the same or another device.

    Offsets of `write`, `write_fua`, `zero`, `read` are bytes from the start of the data area and never reach
    beyond `data_sectors`; offsets of `meta_*` are bytes on the metadata device. The data area behaves like a disk
    with a volatile cache: a finished write is durable only after a `flush` that was called after it finished.
    """

    data_sectors: int
    """Largest data area this backing device offers, sectors of 512 bytes."""
    device_sectors: int
    """Whole backing device, sectors."""

    def write(self, offset_bytes: int, data: Buffer, done: Done) -> int:
        """Write; returns 0 or an errno when it finished at once, or PENDING: then `done` follows.

        `data` must stay unchanged until it is finished.
        """

    def write_fua(self, offset_bytes: int, data: Buffer, done: Done) -> None:
        """Write and make this one write durable; always answers through `done`."""

    def zero(self, offset_bytes: int, length_bytes: int, may_punch: bool, done: Done) -> int:
        """Make the range read back as zeroes (deallocating it if `may_punch`); returns like `write`."""

    def read(self, offset_bytes: int, length_bytes: int, done: ReadDone) -> Buffer | int:
        """Read; returns the data when it came at once, or PENDING: then `done` follows."""

    def flush(self, done: Done) -> None:
        """fdatasync: all writes finished before this call are durable when `done(0)` comes."""

    def meta_write(self, blocks: Sequence[tuple[int, bytes]], done: Done) -> None:
        """Write (offset_bytes, bytes) pairs in order and make them durable; calls are served first in, first out.

        After one has failed all later ones fail too, and change nothing: what is written later relies on it.
        """

    def meta_read(self, offset_bytes: int, length_bytes: int) -> bytes:
        """Read metadata, synchronously; used only while attaching. Raises OSError."""

    def measure(self) -> Geometry:
        """What the devices offer now, and where metadata would belong; changes nothing. Raises OSError."""

    def adopt(self, geometry: Geometry) -> None:
        """From now on the areas lie there. Calls made before are carried out where they were meant to be."""

    def close(self) -> None:
        """Give the device back; no call is under way."""


class Host(Protocol):
    """Clock, chance, network, timers and handlers of one resource."""

    def now_ms(self) -> int:
        """Monotonic clock, milliseconds."""

    def wall_s(self) -> int:
        """Seconds since 1970, for what is shown to people only."""

    def random64(self) -> int:
        """64 random bits."""

    def random_bytes(self, count: int) -> bytes:
        """`count` random bytes (authentication challenges)."""

    def log(self, level: str, rule: str, text: str) -> None:
        """One line for the operator: level debug|info|notice|warning|error, the rule's name, a sentence."""

    # network: sockets are opaque numbers chosen by the host
    def listen(self, wanted: bool) -> None:
        """Open or close the listener on the resource's own address. Accepted peers come as `on_accepted`."""

    def dial(self) -> int:
        """Begin a TCP connection to the peer; answered by `on_dialed(sock, errno)`."""

    def send(self, sock: int, parts: Sequence[Buffer]) -> None:
        """Queue bytes in order; they leave in one go at the end of the wake-up. Unknown socket: ignored."""

    def push(self, sock: int) -> None:
        """Send what is queued for `sock` now, so that the peer works while this node writes its own disk."""

    def unsent_bytes(self, sock: int) -> int:
        """Bytes queued by `send` that TCP has not taken yet."""

    def close(self, sock: int) -> None:
        """Close a socket at once; no event follows for it."""

    def part(self, data: int, meta: int) -> None:
        """Close a pair, after what is queued: the peer reads the data connection to its end before meta closes."""

    def hold(self, sock: int, held: bool) -> None:
        """Stop (True) or go on (False) reading this socket: back-pressure on the peer."""

    def ping_was_answered(self, sock: int) -> bool:
        """True if the guard already answered the P_PING now being handled (the loop was stuck in a disk call)."""

    def meta_ready(self, sock: int, version: int, leftover: Callable[[], bytes]) -> None:
        """Tells the guard which socket carries pings, the agreed version, and how to see the undecoded bytes."""

    # time
    def timer(self, name: str, delay_ms: int | None) -> None:
        """(Re)arm the named one-shot timer, or disarm it with None. It comes as `on_timer(name)`."""

    # the world
    def run_handler(self, name: str, env: dict[str, str], done: HandlerDone) -> None:
        """Run the configured handler `name`; an unconfigured one answers `done(0)`, a failed start `done(127)`."""

    def state_changed(self, old: Any, new: Any) -> None:
        """The state of the resource changed: doors, /proc file, events follow."""

    def fatal(self, rule: str, text: str) -> None:
        """An invariant does not hold: stop the process at once. A stopped node is a failover, a wrong one is a loss."""
