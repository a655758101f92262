# SPDX-License-Identifier: GPL-2.0-or-later
"""`RUN/proc`: /proc/drbd of all resources that are up in this run directory, written by every engine in turn.

Each engine keeps a snapshot of its status, `RES.status`, and holds a lock on `RES.lock` as long as it lives; whoever
writes `proc` merges the snapshots whose engine lives. Nothing up: no file.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from replblock.engine.pool import Batcher
from replblock.status.proc import render

PROC_82 = "proc-8.2"
"""The same in the words of DRBD 8.2, for init scripts and monitors of that time."""


class AlreadyUp(RuntimeError):
    """Another engine serves this resource from this run directory."""


class LifeLock:
    """Held by the one engine of a resource as long as its process lives. Raises AlreadyUp."""

    def __init__(self, run_dir: Path, resource: str, patience_s: float = 2.0) -> None:
        self.path = run_dir / f"{resource}.lock"
        self._fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        # Whoever asks whether we live holds it for a moment, and so does an engine that is just ending.
        end = time.monotonic() + patience_s
        while not _try_lock(self._fd):
            if time.monotonic() > end:
                os.close(self._fd)
                raise AlreadyUp(f"{resource} is up already in {run_dir}")
            time.sleep(0.01)

    def release(self) -> None:
        os.close(self._fd)


class Publisher:
    """Writes one engine's snapshot and the merged file, in a thread of its own; of several waiting the last counts."""

    def __init__(self, run_dir: Path, resource: str) -> None:
        self._run_dir = run_dir
        self._snapshot = run_dir / f"{resource}.status"
        self._own_lock = f"{resource}.lock"
        self._batcher = Batcher("replblock-proc", self._work)

    def publish(self, status: dict[str, Any]) -> None:
        self._batcher.put(status)

    def withdraw(self) -> None:
        """This resource is going down; returns when the files say so."""
        self._batcher.stop()
        self._batcher.join(5)
        self._snapshot.unlink(missing_ok=True)
        self._merge()

    def _work(self, statuses: list[dict[str, Any]]) -> None:
        try:
            replace(self._snapshot, json.dumps(statuses[-1]))
            self._merge()
        except OSError:
            pass  # a full run directory is no reason to stop replicating; the next second tries again

    def _merge(self) -> None:
        with _locked(self._run_dir / "proc.lock"):
            statuses = []
            for snapshot in sorted(self._run_dir.glob("*.status")):
                lock = snapshot.with_suffix(".lock")
                if lock.name == self._own_lock or is_held(lock):
                    status = _read(snapshot)
                    if status is not None:
                        statuses.append(status)
                else:
                    snapshot.unlink(missing_ok=True)  # its engine died
            texts = manners(render(statuses)) if statuses else {}
            for name in ("proc", PROC_82):
                if name in texts:
                    replace(self._run_dir / name, texts[name])
                else:
                    (self._run_dir / name).unlink(missing_ok=True)


def manners(text: str) -> dict[str, str]:
    """File name → /proc/drbd as 8.4 writes it, and as 8.2 did: there a role was called a state."""
    return {"proc": text, PROC_82: text.replace(" ro:", " st:")}


def is_held(lock: Path) -> bool:
    """Whether the engine that owns this lock lives."""
    try:
        fd = os.open(lock, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        return not _try_lock(fd, fcntl.LOCK_SH)
    finally:
        os.close(fd)


def replace(path: Path, text: str) -> None:
    """Write a file so that a reader sees the old or the new one."""
    temporary = path.with_name(f".{path.name}.new")
    temporary.write_text(text)
    os.replace(temporary, path)


def _read(path: Path) -> dict[str, Any] | None:
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def _try_lock(fd: int, kind: int = fcntl.LOCK_EX) -> bool:
    try:
        fcntl.flock(fd, kind | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)
