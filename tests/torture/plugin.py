# SPDX-License-Identifier: GPL-2.0-or-later
"""The real plugin over a disk that keeps a log: every write and every flush, in order, and faults on demand.

The log (TORTURE_LOG) is what `medium` replays after a simulated power loss. A record is appended before a call and
another one after it, so the order in the log is one that really happened, whatever kill -9 interrupts. TORTURE_FAULTS
names a file of faults (see `Faults`); it is read again whenever it changes.
"""

from __future__ import annotations

import errno
import itertools
import json
import os
import signal
import time
from pathlib import Path
from typing import Any

from nbdkit_plugin import replblock as plugin  # noqa: F401
from nbdkit_plugin.replblock import *  # noqa: F403 - nbdkit looks for its callbacks here
from replblock.engine import zeroing
from replblock.meta.geometry import internal
from tests.torture.records import Kind, pack

_real = {name: getattr(os, name) for name in ("pwrite", "pwritev", "fdatasync", "pread", "preadv")}
_fallocate = zeroing._libc.fallocate
_disk = os.stat(os.environ["TORTURE_DISK"])
_identity = (_disk.st_dev, _disk.st_ino)
_meta_from = internal(_disk.st_size // 512).data_sectors * 512
_log = os.open(os.environ["TORTURE_LOG"], os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
_number = itertools.count(1)


def _note(kind: Kind, number: int, offset: int = 0, length: int = 0, result: int = 0, data: Any = b"") -> None:
    os.writev(_log, [pack(kind, number, offset, length, result), data])


class Faults:
    """What the file says: {"write": errno, "meta": errno, "sync": errno, "read": errno} fail such calls.

    "delay_s" slows writes and flushes, "sync_delay_s" flushes; "die": {"kind", "count", "when": before, half or after}
    is a kill -9 at an exact point; "forget_syncs" makes flushes a lie, for the test that the oracle notices.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._stamp = 0
        self._now: dict[str, Any] = {}
        self._count = 0

    def look(self) -> dict[str, Any]:
        try:
            stamp = os.stat(self._path).st_mtime_ns
        except FileNotFoundError:
            if self._now:
                self._now, self._stamp = {}, 0
            return self._now
        if stamp != self._stamp:
            self._now, self._stamp, self._count = json.loads(Path(self._path).read_text()), stamp, 0
        return self._now

    def before(self, kind: str) -> str:
        """Slow down or fail this call; when the process is to die at it, says where."""
        now = self.look()
        if not now:
            return ""
        if kind != "read":
            time.sleep(now.get("delay_s", 0))
        if kind == "sync":
            time.sleep(now.get("sync_delay_s", 0))
        if now.get(kind):
            raise OSError(now[kind], os.strerror(now[kind]))
        die = now.get("die")
        if die and die["kind"] == kind:
            self._count += 1
            if self._count == die["count"]:
                return str(die["when"])
        return ""


_faults = Faults(os.environ["TORTURE_FAULTS"])


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(60)


def _ours(fd: int) -> bool:
    found = os.fstat(fd)
    return (found.st_dev, found.st_ino) == _identity


def _written(fd: int, data: Any, offset: int, flags: int) -> int:
    """One write, between its two records."""
    number, synced = next(_number), bool(flags & os.RWF_DSYNC)
    kind = "meta" if offset >= _meta_from else "write"
    _note(Kind.WRITE_SYNC if synced else Kind.WRITE, number, offset, len(data), 0, data)
    done = 0
    try:
        die = _faults.before(kind)
        if synced and _faults.look().get("sync"):
            raise OSError(_faults.look()["sync"], "no flush")
        if die == "before":
            _die()
        if die == "half":
            _real["pwrite"](fd, memoryview(data)[: len(data) // 1024 * 512], offset)
            _die()
        done = _real["pwritev"](fd, [data], offset, flags) if flags else _real["pwrite"](fd, data, offset)
        if die == "after":
            _die()
    finally:
        _note(Kind.WRITTEN, number, result=done)
    return done


def _logged_pwrite(fd: int, data: Any, offset: int) -> int:
    return _written(fd, data, offset, 0) if _ours(fd) else _real["pwrite"](fd, data, offset)


def _logged_pwritev(fd: int, buffers: Any, offset: int, flags: int = 0) -> int:
    if not _ours(fd):
        return _real["pwritev"](fd, buffers, offset, flags)
    assert len(buffers) == 1, "the engine writes one buffer at a time"
    return _written(fd, buffers[0], offset, flags)


def _logged_fdatasync(fd: int) -> None:
    if not _ours(fd):
        return _real["fdatasync"](fd)
    number = next(_number)
    _note(Kind.SYNC, number)
    failed = 1
    try:
        die = _faults.before("sync")
        if die == "before":
            _die()
        _real["fdatasync"](fd)
        if die:
            _die()
        failed = int(bool(_faults.look().get("forget_syncs")))
    finally:
        _note(Kind.SYNCED, number, result=1 - failed)


def _logged_pread(fd: int, length: int, offset: int) -> bytes:
    if _ours(fd):
        _faults.before("read")
    return bytes(_real["pread"](fd, length, offset))


def _logged_preadv(fd: int, buffers: Any, offset: int, flags: int = 0) -> int:
    if _ours(fd):
        _faults.before("read")
    return int(_real["preadv"](fd, buffers, offset, flags))


class _Libc:
    """Zeroing goes around `os`: it calls fallocate itself."""

    @staticmethod
    def fallocate(fd: int, mode: int, offset: int, length: int) -> int:
        if not _ours(fd):
            return int(_fallocate(fd, mode, offset, length))
        number = next(_number)
        _note(Kind.ZERO, number, offset, length)
        done = 0
        try:
            _faults.before("write")
            answer = int(_fallocate(fd, mode, offset, length))
            done = 0 if answer else length
            return answer
        except OSError as error:
            import ctypes

            ctypes.set_errno(error.errno or errno.EIO)
            return -1
        finally:
            _note(Kind.WRITTEN, number, result=done)


for _name in _real:
    setattr(os, _name, globals()[f"_logged_{_name}"])    # their own names are nbdkit's callbacks
zeroing._libc = _Libc()  # type: ignore[assignment]
_note(Kind.BEGIN, 0)
