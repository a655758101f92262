# SPDX-License-Identifier: GPL-2.0-or-later
"""The operator's connect and disconnect. Who leaves a fenced pair leaves with one side known to be outdated."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from replblock.core.answers import Answer, Reply
from replblock.state.codes import Code
from replblock.state.names import Conn, Disk, Role

if TYPE_CHECKING:
    from replblock.core.admin import Admin
    from replblock.core.resource import Resource


class Connecting:
    """connect, disconnect."""

    def __init__(self, resource: Resource, admin: Admin) -> None:
        self._r = resource
        self._admin = admin

    def connect(self, args: dict[str, Any], reply: Reply) -> None:
        """connect [--discard-my-data] [--tentative]."""
        r, name = self._r, self._r.settings.resource
        if r.state.conn != Conn.STANDALONE:
            reply(self._admin.failure(125, "Device has a net-config (use disconnect first)", name))
            return
        if args.get("discard_my_data") and r.state.role == Role.PRIMARY:
            reply(self._admin.failure(123, "--discard-my-data not allowed when primary.", name))
            return
        r.handshake.discard_my_data = bool(args.get("discard_my_data"))
        r.handshake.dry_run = bool(args.get("tentative"))
        r.change("connect", forced=True, conn=Conn.UNCONNECTED)
        r.change("connect", forced=True, conn=Conn.WF_CONNECTION)
        r.links.seek()
        reply(Answer())

    def disconnect(self, args: dict[str, Any], reply: Reply) -> None:
        """disconnect [--force]: the peer is asked first, and may have to be outdated (or want us to be)."""
        r, admin = self._r, self._admin
        name = r.settings.resource
        if r.state.conn == Conn.STANDALONE:
            answer = admin.failure(162, "Invalid configuration request", name)
            reply(answer._replace(lines=[*answer.lines, "additional info from kernel:", "unknown connection"]))
            return
        if r.state.conn < Conn.CONNECTED or args.get("force"):
            self.go_standalone()
            reply(Answer())
            return
        if admin.pending is not None:
            reply(admin.busy())
            return
        refusal = r.would(conn=Conn.DISCONNECTING)
        outdates: dict[str, Disk] = {}
        if refusal is not None and refusal.code == Code.PRIMARY_NOP:
            outdates = {"pdsk": Disk.OUTDATED}  # the peer outdates itself on the way out
            refusal = r.would(conn=Conn.DISCONNECTING, **outdates)
        if refusal is not None:
            reply(admin.refused(refusal, name))
            return
        self._ask_to_leave(outdates, reply)

    def _ask_to_leave(self, outdates: dict[str, Disk], reply: Reply) -> None:
        r, admin = self._r, self._admin

        def answered(retcode: int | None) -> None:
            if retcode is None or retcode >= Code.SUCCESS:
                # its answer may have been lost: then it goes on, and takes our disk for outdated
                agreed = retcode is not None or "disk" in outdates
                self.go_standalone(**(outdates if agreed else {}))
                reply(Answer())
            elif outdates or r.state.role == Role.PRIMARY:
                reply(admin.peer_refused(retcode))
            elif r.state.disk < Disk.OUTDATED:
                self.go_standalone()  # a disk that nobody could go on with need not be outdated
                reply(Answer())
            else:
                self._ask_to_leave({"disk": Disk.OUTDATED}, reply)  # the peer probably wants to see us outdated

        admin.ask_peer(answered, connection=True, conn=Conn.DISCONNECTING, **outdates)

    def go_standalone(self, **known: Any) -> None:
        """Without asking; `known`: what the nodes agreed on about a disk."""
        r = self._r
        known = {field: disk for field, disk in known.items() if disk < getattr(r.state, field)}  # it never lifts one
        if r.links.link is not None:
            r.links.drop(Conn.DISCONNECTING, "disconnect", "", **known)
            return
        r.links.stop()
        r.change("disconnect", forced=True, conn=Conn.DISCONNECTING, **known)
        r.change("disconnect", forced=True, conn=Conn.STANDALONE)
