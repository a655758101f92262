# SPDX-License-Identifier: GPL-2.0-or-later
"""How `replctl` talks to an engine: one JSON object a line over `RUN/RES.ctl`. Standard library only; starts fast."""

from __future__ import annotations

import errno
import json
import os
import socket
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

MAX_LINE_BYTES = 16 << 20
CONNECT_S = 2.0
SUN_PATH_BYTES = 107


class NotUp(ConnectionError):
    """No engine of this resource runs: there is no control socket, or nobody listens on it (`stale`)."""

    def __init__(self, resource: str, stale: bool) -> None:
        self.resource, self.stale = resource, stale
        left = " (its control socket is left over from a process that died)" if stale else ""
        super().__init__(f"{resource} is not up{left}")


class Busy(TimeoutError):
    """The engine is there and has not answered in time."""

    def __init__(self, resource: str, verb: str, timeout_s: float) -> None:
        self.resource = resource
        super().__init__(f"{resource}: no answer to '{verb}' within {timeout_s:g} s; the engine is busy or stuck")


VOLUME_MARK = "@"
"""Between resource and volume in the name of an engine that serves one of several."""


def section_of(name: str) -> str:
    """The resource of this engine."""
    section, mark, number = name.rpartition(VOLUME_MARK)
    return section if mark and number.isdigit() else name


def volume_of(name: str) -> int | None:
    """Which of several volumes this engine serves; None if it is its resource's only one."""
    _, mark, number = name.rpartition(VOLUME_MARK)
    return int(number) if mark and number.isdigit() else None


def engine_names(section: str, numbers: Iterable[int]) -> list[str]:
    """The engines of a resource with these volumes."""
    known = sorted(numbers)
    return [section] if len(known) == 1 else [f"{section}{VOLUME_MARK}{number}" for number in known]


def control_path(run_dir: str | os.PathLike[str], resource: str) -> Path:
    return Path(run_dir) / f"{resource}.ctl"


def call(
    run_dir: str | os.PathLike[str],
    resource: str,
    verb: str,
    args: dict[str, Any] | None = None,
    timeout_s: float | None = 30.0,
) -> dict[str, Any]:
    """One verb, one answer: {"exit_code": int, "lines": [str], "data": {…}}.

    Raises NotUp or Busy; None waits without end. An engine that ends before it answers raises ConnectionError.
    """
    with _session(run_dir, resource, verb, args, timeout_s) as lines:
        for answer in lines:
            return answer
    raise ConnectionError(f"{resource}: the engine ended before it answered '{verb}'; see {run_dir}/{resource}.log")


def stream(
    run_dir: str | os.PathLike[str], resource: str, verb: str = "events", args: dict[str, Any] | None = None
) -> Iterator[dict[str, Any]]:
    """Every line a streaming verb sends, until the engine ends."""
    with _session(run_dir, resource, verb, args, None) as lines:
        yield from lines


def is_up(run_dir: str | os.PathLike[str], resource: str) -> bool:
    """Whether somebody listens on the control socket; says nothing about how well he is."""
    try:
        _connect(run_dir, resource).close()
    except NotUp:
        return False
    except Busy:
        return True
    return True


def resources_up(run_dir: str | os.PathLike[str]) -> list[str]:
    """Names of the resources that are up in this run directory."""
    try:
        names = sorted(entry[: -len(".ctl")] for entry in os.listdir(run_dir) if entry.endswith(".ctl"))
    except FileNotFoundError:
        return []
    return [name for name in names if is_up(run_dir, name)]


@contextmanager
def unix_address(path: Path) -> Iterator[str]:
    """An address for bind or connect; a path longer than a socket address goes by way of its directory."""
    if len(os.fsencode(path)) <= SUN_PATH_BYTES:
        yield str(path)
        return
    directory = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{directory}/{path.name}"
    finally:
        os.close(directory)


def _connect(run_dir: str | os.PathLike[str], resource: str) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    sock.settimeout(CONNECT_S)
    try:
        with unix_address(control_path(run_dir, resource)) as address:
            sock.connect(address)
        return sock
    except OSError as error:
        sock.close()
        if error.errno in (errno.ENOENT, errno.ENOTDIR):
            raise NotUp(resource, stale=False) from None
        if error.errno == errno.ECONNREFUSED:
            raise NotUp(resource, stale=True) from None
        if isinstance(error, TimeoutError) or error.errno == errno.EAGAIN:
            raise Busy(resource, "connect", CONNECT_S) from None
        raise


@contextmanager
def _session(
    run_dir: str | os.PathLike[str], resource: str, verb: str, args: dict[str, Any] | None, timeout_s: float | None
) -> Iterator[Iterator[dict[str, Any]]]:
    sock = _connect(run_dir, resource)
    try:
        sock.sendall(json.dumps({"verb": verb, "args": args or {}}).encode() + b"\n")
        yield _answers(sock, resource, verb, timeout_s)
    except (ConnectionResetError, BrokenPipeError):
        raise ConnectionError(f"{resource}: the engine ended before it answered '{verb}'") from None
    finally:
        sock.close()


def _answers(sock: socket.socket, resource: str, verb: str, timeout_s: float | None) -> Iterator[dict[str, Any]]:
    deadline = None if timeout_s is None else time.monotonic() + timeout_s
    buffered = b""
    while True:
        line, newline, rest = buffered.partition(b"\n")
        if newline:
            buffered = rest
            yield json.loads(line)
            continue
        left_s = None if deadline is None else deadline - time.monotonic()
        if left_s is not None and left_s <= 0:
            raise Busy(resource, verb, timeout_s or 0)
        sock.settimeout(left_s)
        try:
            more = sock.recv(1 << 16)
        except TimeoutError:
            raise Busy(resource, verb, timeout_s or 0) from None
        if not more:
            return
        buffered += more
        if len(buffered) > MAX_LINE_BYTES:
            raise ConnectionError(f"{resource}: the engine's answer to '{verb}' has no end")
