# SPDX-License-Identifier: GPL-2.0-or-later
"""One encrypted TCP connection: a thread that carries bytes between it and a socket pair whose other end the loop has.

So nothing else knows of TLS: the loop reads and sends as always, and the guard can look at what waits unread.
"""

from __future__ import annotations

import select
import socket
import ssl
import threading
import time
from collections.abc import Callable

from replblock.engine.tls import Tls, TlsProblem

HANDSHAKE_S = 5.0
"""How long a peer may take to prove who it is."""
FAREWELL_S = 5.0
"""How long what the loop sent before it closed may take to leave."""
PIECE_BYTES = 256 << 10

NO_TLS = ("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "UNEXPECTED_MESSAGE")
"""What OpenSSL says to bytes that are none of TLS."""

Report = Callable[["socket.socket | None", str], None]
"""The loop's end, or why there is none; called in the tunnel's thread, once."""


class Tunnel(threading.Thread):
    """Owns the TCP socket from now on."""

    def __init__(
        self, tcp: socket.socket, tls: Tls, server: bool, report: Report, complain: Callable[[str], None]
    ) -> None:
        super().__init__(name="replblock-tls", daemon=True)
        self._tcp = tcp
        self._tls = tls
        self._server = server
        self._report = report
        self._complain = complain
        self._inner: socket.socket
        self._out: ssl.SSLSocket
        self._to_net = b""
        self._to_loop = b""
        self._writes_wait = False
        """For room in TCP."""
        self._loop_ended = self._net_ended = self._heard = False

    def run(self) -> None:
        """Handshake, report, relay."""
        try:
            self._out = self._open()
            ours, self._inner = socket.socketpair()
        except (TlsProblem, OSError, ValueError) as error:  # ValueError: a certificate with a name that is none
            self._tcp.close()
            self._report(None, explain(error))
            return
        ours.setblocking(False)
        self._inner.setblocking(False)
        self._report(ours, "")
        try:
            self._relay()
        except ssl.SSLError as error:
            if not self._heard:  # of a certificate that it does not like the peer says so only now
                self._complain(explain(error))
        except OSError:
            pass  # whichever side broke: the loop sees its end close
        finally:
            self._inner.close()
            self._out.close()

    def _open(self) -> ssl.SSLSocket:
        context = self._tls.context(self._server)
        self._tcp.settimeout(HANDSHAKE_S)
        out = context.wrap_socket(self._tcp, server_side=self._server, do_handshake_on_connect=False)
        self._tcp = out
        out.do_handshake()
        self._tls.expect_peer(out.getpeercert())
        out.setblocking(False)
        return out

    def _relay(self) -> None:
        end_s = 0.0
        while not (self._net_ended and not self._to_loop):
            left_ms = None
            if self._loop_ended:
                end_s = end_s or time.monotonic() + FAREWELL_S
                left_ms = int((end_s - time.monotonic()) * 1000)
                if left_ms <= 0:
                    return
            self._wait(left_ms)
            self._from_loop()
            self._into_net()
            self._from_net()
            self._into_loop()

    def _wait(self, most_ms: int | None) -> None:
        """Until one of them has something, or takes something, that is waited for."""
        poll = select.poll()
        inner = select.POLLOUT if self._to_loop else 0
        inner |= select.POLLIN if not (self._to_net or self._loop_ended) else 0
        out = select.POLLOUT if self._writes_wait else 0
        out |= select.POLLIN if not (self._to_loop or self._net_ended) else 0
        for sock, mask in ((self._inner, inner), (self._out, out)):
            if mask:  # else an end that is closed would never let it sleep
                poll.register(sock, mask)
        poll.poll(most_ms)

    def _from_loop(self) -> None:
        if self._to_net or self._loop_ended:
            return
        try:
            self._to_net = self._inner.recv(PIECE_BYTES)
        except BlockingIOError:
            return
        if not self._to_net:
            self._loop_ended = True
            socket.socket.shutdown(self._out, socket.SHUT_WR)  # the peer's decoder knows where a packet ends

    def _into_net(self) -> None:
        self._writes_wait = False
        while self._to_net:
            try:
                sent = self._out.send(self._to_net)
            except ssl.SSLWantWriteError:
                self._writes_wait = True
                return
            except ssl.SSLWantReadError:
                return
            self._to_net = self._to_net[sent:]

    def _from_net(self) -> None:
        pieces = []
        size = len(self._to_loop)
        while not self._net_ended and size < PIECE_BYTES:
            try:
                piece = self._out.recv(PIECE_BYTES)
            except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
                break
            if not piece:
                self._net_ended = True
                break
            pieces.append(piece)
            size += len(piece)
        if pieces:
            self._heard = True
            self._to_loop += b"".join(pieces)

    def _into_loop(self) -> None:
        while self._to_loop:
            try:
                sent = self._inner.send(self._to_loop)
            except BlockingIOError:
                return
            self._to_loop = self._to_loop[sent:]


def explain(error: Exception) -> str:
    """Why there is no encrypted connection, and what to look at."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the peer's certificate is not accepted: {error.verify_message}"
    if isinstance(error, ssl.SSLError) and error.reason in NO_TLS:
        return "the peer does not speak TLS: `tls` must be the same on both nodes"
    if isinstance(error, ssl.SSLError):
        reason = (error.reason or str(error)).lower().replace("_", " ")
        return f"no TLS with the peer: {reason}; its log may say more"
    if isinstance(error, TimeoutError):
        return "the peer is silent where TLS has to begin: `tls` must be the same on both nodes"
    if isinstance(error, ConnectionError):
        return "the peer ended the connection where TLS has to begin; its log may say why"
    return str(error)
