# SPDX-License-Identifier: GPL-2.0-or-later
"""From a peer that was greeted to Connected: settings, sizes, UUIDs, states.

Order and contents: DRBD 8.4 wire format, sequence after authentication.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from replblock.core.greeting import Greeting
from replblock.core.link import Link
from replblock.meta.superblock import Flag
from replblock.state.names import Conn, Disk, Role
from replblock.wire import agreement, flags
from replblock.wire.commands import Cmd
from replblock.wire.handshake import Limits, Protocol, Sizes, SyncParam, Uuids
from replblock.wire.limits import max_bio_bytes

if TYPE_CHECKING:
    from replblock.core.resource import Resource


class Handshake:
    """One handshake at a time; `begin` when a pair of connections is there."""

    def __init__(self, resource: Resource) -> None:
        self._r = resource
        self.greeting = Greeting(resource, self._exchange)
        self.peer_conn_flags = 0
        self.running = False
        """From the first packet until the peer's P_STATE decided."""
        self.peer_sizes: Sizes | None = None
        self.peer_uuids: Uuids | None = None
        self.dry_run = False
        self.discard_my_data = False
        self._state_held = b""
        self._over: list[Callable[[], None]] = []
        self.exchanges = 0
        """How often a peer got so far as to exchange states with us."""

    def begin(self, link: Link) -> None:
        """Greet; everything else follows when the peer is known."""
        self.running = True
        self.peer_sizes = self.peer_uuids = None
        self._state_held = b""
        for decoder in (link.data_in, link.meta_in):
            decoder.only_volume(self._r.settings.volume)  # first: more may come in one read with the authentication
        self.greeting.begin(link)

    def on_timer(self) -> None:
        """The peer went silent in mid-handshake."""
        link = self._r.links.link
        if self.running and link is not None:
            half = link.data_in.partial
            text = "the peer fell silent during the handshake" + (f" ({half})" if half else "")
            self._r.links.drop(Conn.NETWORK_FAILURE, "handshake-timeout", text)

    def _refuse(self, rule: str, text: str) -> None:
        self._r.links.drop(Conn.DISCONNECTING, rule, text, "error")

    # --- settings, sizes, UUIDs, state ---

    def own_protocol(self) -> Protocol:
        """P_PROTOCOL as this node sends it."""
        s = self._r.settings
        conn_flags = flags.CF_DISCARD_MY_DATA if self.discard_my_data else 0
        conn_flags |= flags.CF_DRY_RUN if self.dry_run else 0
        after = agreement.AFTER_SB
        return Protocol(
            "ABC".index(s.protocol) + 1,
            after[s.after_sb_0pri], after[s.after_sb_1pri], after[s.after_sb_2pri],
            conn_flags, int(s.allow_two_primaries), s.data_integrity_alg,
        )  # fmt: skip

    def own_sync_param(self) -> SyncParam:
        """P_SYNC_PARAM as this node sends it."""
        s = self._r.settings
        return SyncParam(
            s.resync_rate_kib, s.verify_alg, s.csums_alg, s.c_plan_ahead, s.c_delay_target, s.c_fill_target_sectors,
            s.c_max_rate_kib,
        )  # fmt: skip

    def _exchange(self) -> None:
        """Everything we have to say, without waiting for the peer.

        But a diskless Primary keeps its state to itself until it knows that the peer's data is what its users saw:
        the peer moves on to a new generation when it reads of a Primary without a disk, and if that one refuses it,
        the disk with the newer data would look like the older one.
        """
        r = self._r
        link = r.links.link
        assert link is not None
        version = link.version
        r.primary.connected(link)
        r.secondary.connected(link)
        r.links.send_connection(Cmd.PROTOCOL, self.own_protocol().pack(version))
        command = Cmd.SYNC_PARAM89 if version >= 89 else Cmd.SYNC_PARAM
        r.links.send(command, self.own_sync_param().pack(version))
        self.send_sizes()
        self.send_uuids()
        if r.state.disk < Disk.NEGOTIATING and r.state.role == Role.PRIMARY and r.exposed_uuid:
            self._state_held = r.state_word()
        else:
            r.send_state()
        self.exchanges += 1
        r.change("handshake", forced=True, conn=Conn.WF_REPORT_PARAMS)
        r.links.start_pinging()

    def show_state(self) -> None:
        """P_STATE, as it was when everything else was said, if it was kept back."""
        held, self._state_held = self._state_held, b""
        if held:
            self._r.links.send(Cmd.STATE, held)

    def send_sizes(self, dds_flags: int = 0, ask: bool = False) -> None:
        """P_SIZES."""
        r = self._r
        link = r.links.link
        if link is None:
            return
        limits = Limits(discard_enabled=1) if link.features & flags.FEATURE_WSAME else None
        # a disk that only comes, or already goes, is none: a peer that holds its state back waits for ours else
        own = r.resizing.offered_sectors if r.state.disk >= Disk.NEGOTIATING else 0
        current = 0 if ask else r.size_sectors
        sizes = Sizes(own, r.settings.size_sectors, current, max_bio_bytes(link.version), 0, dds_flags, limits)
        r.links.send(Cmd.SIZES, sizes.pack())

    def send_uuids(self, extra_flags: int = 0) -> None:
        """P_UUIDS; a diskless node has none."""
        r = self._r
        meta = r.meta
        if meta is None or r.state.disk < Disk.NEGOTIATING:
            return
        word = extra_flags
        if self.discard_my_data:
            word |= flags.UUID_DISCARD_MY_DATA
        if meta.flags & Flag.CRASHED_PRIMARY:
            word |= flags.UUID_CRASHED_PRIMARY
        if r.disk_after_negotiation == Disk.INCONSISTENT:
            word |= flags.UUID_INCONSISTENT
        link = r.links.link
        if link is not None and link.features & flags.FEATURE_ORDERED:
            word |= flags.UUID_WENT_ON_ALONE if meta.flags & Flag.WENT_ON_ALONE else 0
            word |= flags.UUID_LOST_WRITES if meta.flags & Flag.LOST_WRITES else 0
            word |= flags.UUID_OUTDATED if r.disk_after_negotiation == Disk.OUTDATED else 0
        r.last_sent_bits = meta.bitmap.count
        r.links.send(Cmd.UUIDS, Uuids(*meta.uuids, meta.bitmap.count, word).pack())

    def on_protocol(self, body: memoryview) -> None:
        """P_PROTOCOL: the settings both nodes must share."""
        r = self._r
        theirs = Protocol.unpack(body)
        found = agreement.disagreements(self.own_protocol(), theirs)
        if found:
            self._refuse(
                "settings-differ",
                "the nodes are configured differently: "
                + "; ".join(f"{d.option}: here {d.mine_text}, peer {d.peers_text}" for d in found)
                + f"; make them equal and run: replctl adjust {r.settings.resource}",
            )
            return
        self.peer_conn_flags = theirs.conn_flags
        r.peer_integrity_alg = theirs.integrity_alg

    def on_sync_param(self, body: memoryview) -> None:
        """P_SYNC_PARAM: algorithms must be equal; the rates of the peer are its own business between our nodes."""
        r = self._r
        theirs = SyncParam.unpack(body)
        mine = self.own_sync_param()
        if not self.running:
            return
        for option, a, b in (
            ("verify-alg", mine.verify_alg, theirs.verify_alg),
            ("csums-alg", mine.csums_alg, theirs.csums_alg),
        ):
            if a != b:
                self._refuse(
                    "settings-differ",
                    f"the nodes are configured differently: {option}: here {a or 'none'}, peer {b or 'none'}; "
                    f"make them equal and run: replctl adjust {r.settings.resource}",
                )
                return

    def on_sizes(self, body: memoryview) -> None:
        """P_SIZES: agree on the size of the device (DRBD 8.4, size rule)."""
        r = self._r
        theirs = Sizes.unpack(body)
        first = self.peer_sizes is None
        self.peer_sizes = theirs
        if not theirs.d_size_sectors:
            self.show_state()  # no disk, no data to compare; it may be waiting for our state, too
        if r.resizing.takes(theirs):
            r.resizing.on_sizes(theirs)
            return
        own = r.resizing.offered_sectors
        limits = [n for n in (own, theirs.d_size_sectors, r.settings.size_sectors, theirs.u_size_sectors) if n]
        if own or theirs.d_size_sectors:
            size = min(limits)
            if not own:
                size = theirs.c_size_sectors or theirs.u_size_sectors or theirs.d_size_sectors
            elif not theirs.d_size_sectors and r.meta is not None:
                size = min(size, r.meta.la_size_sectors or size)
        else:
            size = 0
        if not size:
            return
        if r.meta is not None and r.size_sectors and size < r.size_sectors:
            if r.state.disk >= Disk.OUTDATED and size == theirs.u_size_sectors < theirs.d_size_sectors:
                self._refuse(
                    "peer-shrinks",
                    f"the peer was told to shrink the device from {r.size_sectors // 2} to {size // 2} KiB, and "
                    "replblock does not; give it its size back there (option size), then run: "
                    f"replctl connect {r.settings.resource}",
                )
                return
            if r.state.disk >= Disk.OUTDATED:
                self._refuse(
                    "peer-too-small",
                    f"The peer's disk size is too small! here {r.size_sectors} sectors, "
                    f"there {theirs.d_size_sectors or size}; "
                    f"give the peer a disk of at least {r.size_sectors // 2} KiB for data (plus metadata)",
                )
                return
        elif size < r.size_sectors and r.state.role == Role.PRIMARY:
            self._refuse(
                "peer-too-small",
                f"The peer's device size is too small! ({size} < {r.size_sectors} sectors); demote me first: "
                f"replctl secondary {r.settings.resource}",
            )
            return
        # a disk that comes or goes was announced as none: the peer does not go by what it offers
        if size != r.size_sectors and (r.meta is None or r.state.disk >= Disk.NEGOTIATING):
            r.resizing.set_size(size)
        if not first and not self.running and theirs.c_size_sectors != r.size_sectors:
            self.send_sizes(theirs.dds_flags)

    def on_uuids(self, body: memoryview) -> None:
        """P_UUIDS."""
        self.peer_uuids = Uuids.unpack(body)
        self._r.remembered.uuids(self.peer_uuids)
        r = self._r
        if not self.running:
            self.expose_peers_data()
            r.sync.on_peer_uuids_changed()

    def crash_is_history(self) -> None:
        """The peer forgets it in the same moment, and does not send P_UUIDS to say so: a later attach goes by these."""
        if self.peer_uuids is not None:
            word = self.peer_uuids.flags & ~(flags.UUID_CRASHED_PRIMARY | flags.UUID_LOST_WRITES)
            self.peer_uuids = self.peer_uuids._replace(flags=word)

    def expose_peers_data(self) -> None:
        """Without a disk, the data our users see is the peer's, once it is good: they are shown nothing older."""
        r = self._r
        in_use = r.state.conn >= Conn.CONNECTED and r.state.pdsk == Disk.UP_TO_DATE and not r.primary.refused_there
        if self.peer_uuids is not None and r.state.disk < Disk.NEGOTIATING and in_use:
            r.exposed_uuid = self.peer_uuids.current

    @property
    def exchanging(self) -> bool:
        """The peer goes by the role and the disk it was told: until it is over neither may change."""
        return self.running and self._r.state.conn == Conn.WF_REPORT_PARAMS

    @property
    def undecided(self) -> bool:
        """The same, or the peer is asked what an attached disk lacks."""
        return self.exchanging or self._r.state.disk == Disk.NEGOTIATING

    def when_over(self, callback: Callable[[], None]) -> None:
        """Call back at the end of the wake-up in which the handshake ends; its own timer bounds that."""
        self._over.append(callback)

    def end_wakeup(self) -> None:
        """Whoever waited goes on."""
        if self._over and not self.running and not self.undecided:
            waiting, self._over = self._over, []
            for callback in waiting:
                callback()

    def finished(self) -> None:
        """The sync handshake decided."""
        self.running = False
        self._state_held = b""
        self.discard_my_data = False
        self._r.host.timer("handshake", None)
        self.expose_peers_data()
