# SPDX-License-Identifier: GPL-2.0-or-later
"""The server's half of the fixed newstyle handshake: options in, replies out, until an export is chosen.

Source: nbd/doc/proto.md, "Fixed newstyle negotiation" and "Option haggling".
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from typing import NamedTuple

from replblock.nbd.names import (
    BASE_ALLOCATION,
    BASE_ALLOCATION_ID,
    INIT_MAGIC,
    MAX_STRING_BYTES,
    OPTION_MAGIC,
    OPTION_REPLY_MAGIC,
    Info,
    Opt,
    ProtocolError,
    Rep,
    ServerFlag,
    Transmission,
)

MAX_OPTION_BYTES = 64 << 10
"""Of one option: a name, and a dozen contexts; the specification lets a server hang up on more."""
MAX_OPTIONS = 128
"""Of one handshake: libnbd's nbdinfo, which asks for everything, needs about ten."""

_OPTION = struct.Struct(">8sII")
_REPLY = struct.Struct(">QIII")
_EXPORT_INFO = struct.Struct(">HQH")
_BLOCK_SIZE_INFO = struct.Struct(">HIII")
_LEGACY_EXPORT = struct.Struct(">QH")
_LEGACY_ZEROES = bytes(124)
_U16, _U32 = struct.Struct(">H"), struct.Struct(">I")
_CLIENT_FLAGS = int(ServerFlag.FIXED_NEWSTYLE | ServerFlag.NO_ZEROES)
"""A plain number: the complement of an IntFlag has only bits that have names."""


class Export(NamedTuple):
    """What a client may open."""

    name: str
    size_bytes: int
    flags: Transmission
    block_sizes: tuple[int, int, int]       # smallest, preferred, largest
    description: str = ""


class Refusal(Exception):
    """An option is answered with this error; the negotiation goes on."""

    def __init__(self, reply: Rep, text: str) -> None:
        super().__init__(text)
        self.reply = reply
        self.text = text


LookUp = Callable[[str], Export]
"""look_up(name) → the export as it is now. Raises Refusal (ERR_UNKNOWN, ERR_POLICY)."""


class Negotiation:
    """`receive` until `chosen` or `closed`; what is to be sent gathers in `out`.

    `chosen` is the export of NBD_OPT_GO or NBD_OPT_EXPORT_NAME: the client is in the transmission phase, and
    `leftover` holds what it has sent of that already.
    """

    def __init__(self, names: Sequence[str], look_up: LookUp) -> None:
        self._names = tuple(names)
        self._look_up = look_up
        self._held = b""
        self._no_zeroes = False
        self._greeted = False
        self._options = 0
        self._context_of: str | None = None
        """The export for which base:allocation was asked for."""
        self.structured = False
        self.allocation = False
        """Set with `chosen`: NBD_CMD_BLOCK_STATUS may be sent."""
        self.chosen: Export | None = None
        self.closed = False
        self.leftover = b""
        flags = ServerFlag.FIXED_NEWSTYLE | ServerFlag.NO_ZEROES
        self.out: list[bytes] = [INIT_MAGIC + OPTION_MAGIC + _U16.pack(flags)]

    def receive(self, data: bytes) -> None:
        """Feed bytes as they came. Raises ProtocolError; nothing may be fed after that, nor once it is over."""
        self._held += data
        while not (self.chosen or self.closed) and self._step():
            pass
        if self.chosen:
            self.leftover, self._held = self._held, b""

    def _step(self) -> bool:
        """Take one thing from what is held; False if it is not all there yet."""
        held = self._held
        if not self._greeted:
            if len(held) < _U32.size:
                return False
            (flags,) = _U32.unpack_from(held)
            if flags & ~_CLIENT_FLAGS:
                raise ProtocolError(f"a client with the unknown flags {flags:#x}")
            self._no_zeroes = bool(flags & ServerFlag.NO_ZEROES)
            self._greeted = True
            self._held = held[_U32.size :]
            return True
        if len(held) < _OPTION.size:
            return False
        magic, option, length = _OPTION.unpack_from(held)
        if magic != OPTION_MAGIC:
            raise ProtocolError(f"{magic!r} where an option begins")
        if length > MAX_OPTION_BYTES:
            raise ProtocolError(f"option {option} of {length} bytes")
        end = _OPTION.size + length
        if len(held) < end:
            return False
        self._options += 1
        if self._options > MAX_OPTIONS:
            raise ProtocolError(f"more than {MAX_OPTIONS} options without a choice")
        self._held = held[end:]
        self._option(option, held[_OPTION.size : end])
        return True

    def _option(self, option: int, body: bytes) -> None:
        if option == Opt.EXPORT_NAME:
            self._legacy(body)
            return
        answer = ANSWERS.get(option)
        try:
            if answer is None:
                raise Refusal(Rep.ERR_UNSUP, f"option {option} is not known here")
            answer(self, option, body)
        except Refusal as refusal:
            self._reply(option, refusal.reply, _shortened(refusal.text))

    def _reply(self, option: int, reply: Rep, body: bytes = b"") -> None:
        self.out.append(_REPLY.pack(OPTION_REPLY_MAGIC, option, reply, len(body)) + body)

    # ---- options

    def _legacy(self, body: bytes) -> None:
        """NBD_OPT_EXPORT_NAME knows no refusal but the end of the connection."""
        try:
            name = _name(body)
            export = self._look_up(name)
        except Refusal as refusal:
            raise ProtocolError(refusal.text) from None
        zeroes = b"" if self._no_zeroes else _LEGACY_ZEROES
        self.out.append(_LEGACY_EXPORT.pack(export.size_bytes, self._flags(export)) + zeroes)
        self._choose(export, name)

    def _abort(self, option: int, body: bytes) -> None:
        self._reply(option, Rep.ACK)
        self.closed = True

    def _list(self, option: int, body: bytes) -> None:
        if body:
            raise Refusal(Rep.ERR_INVALID, "NBD_OPT_LIST has no data")
        for name in self._names:
            self._reply(option, Rep.SERVER, _U32.pack(len(name.encode())) + name.encode())
        self._reply(option, Rep.ACK)

    def _info(self, option: int, body: bytes) -> None:
        """NBD_OPT_INFO and NBD_OPT_GO."""
        name, at = _counted_name(body, 0)
        if len(body) < at + _U16.size:
            raise Refusal(Rep.ERR_INVALID, "the list of informations is missing")
        (count,) = _U16.unpack_from(body, at)
        if len(body) != at + _U16.size * (1 + count):
            raise Refusal(Rep.ERR_INVALID, f"{count} informations do not fill this option")
        wanted = struct.unpack_from(f">{count}H", body, at + _U16.size)
        export = self._look_up(name)
        self._reply(option, Rep.INFO, _EXPORT_INFO.pack(Info.EXPORT, export.size_bytes, self._flags(export)))
        self._reply(option, Rep.INFO, _BLOCK_SIZE_INFO.pack(Info.BLOCK_SIZE, *export.block_sizes))
        if Info.NAME in wanted:
            self._reply(option, Rep.INFO, _U16.pack(Info.NAME) + export.name.encode())
        if Info.DESCRIPTION in wanted and export.description:
            self._reply(option, Rep.INFO, _U16.pack(Info.DESCRIPTION) + export.description.encode())
        self._reply(option, Rep.ACK)
        if option == Opt.GO:
            self._choose(export, name)

    def _structured(self, option: int, body: bytes) -> None:
        if body:
            raise Refusal(Rep.ERR_INVALID, "NBD_OPT_STRUCTURED_REPLY has no data")
        if self.structured:
            raise Refusal(Rep.ERR_INVALID, "structured replies are agreed already")
        self.structured = True
        self._reply(option, Rep.ACK)

    def _contexts(self, option: int, body: bytes) -> None:
        """NBD_OPT_LIST_META_CONTEXT and NBD_OPT_SET_META_CONTEXT."""
        setting = option == Opt.SET_META_CONTEXT
        if setting:
            self._context_of = None  # whatever becomes of this one, it replaces what was set before
        if not self.structured:
            raise Refusal(Rep.ERR_INVALID, "contexts need structured replies first")
        name, at = _counted_name(body, 0)
        if len(body) < at + _U32.size:
            raise Refusal(Rep.ERR_INVALID, "the number of queries is missing")
        (count,) = _U32.unpack_from(body, at)
        at += _U32.size
        queries = []
        for _ in range(min(count, len(body))):
            query, at = _counted_name(body, at)
            queries.append(query)
        if len(queries) != count or at != len(body):
            raise Refusal(Rep.ERR_INVALID, f"{count} queries do not fill this option")
        self._look_up(name)
        everything = (BASE_ALLOCATION,) if setting else (BASE_ALLOCATION, "base:")
        if any(query in everything for query in queries) or (not setting and not queries):
            self._reply(option, Rep.META_CONTEXT,
                        _U32.pack(BASE_ALLOCATION_ID if setting else 0) + BASE_ALLOCATION.encode())
            if setting:
                self._context_of = name
        self._reply(option, Rep.ACK)

    # ---- below

    def _flags(self, export: Export) -> int:
        """NBD_FLAG_SEND_DF means something only beside structured replies."""
        return export.flags | (Transmission.SEND_DF if self.structured else 0)

    def _choose(self, export: Export, asked: str) -> None:
        """Contexts hold only for the very name they were set for."""
        self.chosen = export
        self.allocation = asked == self._context_of


Answer = Callable[[Negotiation, int, bytes], None]

ANSWERS: dict[int, Answer] = {
    Opt.ABORT: Negotiation._abort,
    Opt.LIST: Negotiation._list,
    Opt.INFO: Negotiation._info,
    Opt.GO: Negotiation._info,
    Opt.STRUCTURED_REPLY: Negotiation._structured,
    Opt.LIST_META_CONTEXT: Negotiation._contexts,
    Opt.SET_META_CONTEXT: Negotiation._contexts,
}


def _name(raw: bytes) -> str:
    if len(raw) > MAX_STRING_BYTES:
        raise Refusal(Rep.ERR_INVALID, f"a name of {len(raw)} bytes")
    if 0 in raw:
        raise Refusal(Rep.ERR_INVALID, "a name with a NUL in it")
    try:
        return raw.decode()
    except UnicodeDecodeError:
        raise Refusal(Rep.ERR_INVALID, "a name that is not UTF-8") from None


def _shortened(text: str) -> bytes:
    """As much of it as a string may have; whole characters."""
    return text.encode()[:MAX_STRING_BYTES].decode(errors="ignore").encode()


def _counted_name(body: bytes, at: int) -> tuple[str, int]:
    """A name after its length, and where it ends."""
    if len(body) < at + _U32.size:
        raise Refusal(Rep.ERR_INVALID, "the length of a name is missing")
    (length,) = _U32.unpack_from(body, at)
    end = at + _U32.size + length
    if len(body) < end:
        raise Refusal(Rep.ERR_INVALID, "a name ends outside its option")
    return _name(body[at + _U32.size : end]), end
