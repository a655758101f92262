# SPDX-License-Identifier: GPL-2.0-or-later
"""The doors of this room: choose a back end, reserve a name, attach, detach, attach again after a restart.

Everything here blocks, and some of it waits for the NBD server to answer: an engine calls it from a thread of its own,
never from its loop.
"""

from __future__ import annotations

from typing import Protocol

from replblock.device import fuse, names, nbd, none
from replblock.device.errors import DeviceError
from replblock.device.types import MODES, Attached, AttachSpec, Host, Probe, Reservation


class Backend(Protocol):
    """What each back end's module offers."""

    NAME: str

    def missing(self, host: Host) -> str: ...
    def attach(self, spec: AttachSpec, reservation: Reservation, host: Host) -> Attached: ...
    def detach(self, attached: Attached, force: bool, host: Host) -> None: ...
    def reattach(self, attached: Attached, host: Host) -> Attached: ...


BACKENDS: dict[str, Backend] = {"nbd": nbd, "fuse": fuse, "none": none}
AUTOMATIC = ("nbd", "fuse")         # never none by itself: who wants to mount must not find nothing there


def probe(mode: str, host: Host | None = None) -> Probe:
    """The back end that `mode` leads to on this machine, or the reason why there is none."""
    host = host or Host()
    if mode not in MODES:
        return Probe("", f"attach {mode}: one of {', '.join(MODES)} was expected")
    reasons = []
    for name in AUTOMATIC if mode == "auto" else (mode,):
        reason = BACKENDS[name].missing(host)
        if not reason:
            return Probe(name)
        reasons.append(f"{name}: {reason}")
    return Probe("", "; ".join(reasons))


def reserve_name(name: str, mode: str = "auto", host: Host | None = None) -> Reservation:
    """At `up`: the name exists from now on, in both roles, and leads to a kernel device set aside for it.

    Asked again for the same name it gives the same answer. Raises DeviceError.
    """
    found = probe(mode, host)
    if not found.backend:
        raise DeviceError(f"{name}: cannot be attached: {found.reason}; or set: attach none")
    return names.reserve(found.backend, name, host or Host())


def release_name(reservation: Reservation, host: Host | None = None) -> None:
    """At `down`: the name disappears. The device must have been detached."""
    names.release(reservation, host or Host())


def attach(spec: AttachSpec, host: Host | None = None) -> Attached:
    """At promotion: when this returns, the name can be opened. Raises DeviceError; then nothing is attached."""
    host = host or Host()
    owns = spec.reservation is None
    reservation = reserve_name(spec.name, spec.mode, host) if spec.reservation is None else spec.reservation
    try:
        try:
            attached = BACKENDS[reservation.backend].attach(spec, reservation, host)
        except FileExistsError:         # somebody took the kernel device meanwhile: the name moves to another
            names.release(reservation, host)
            reservation = names.reserve(reservation.backend, spec.name, host)
            attached = BACKENDS[reservation.backend].attach(spec, reservation, host)
    except BaseException as problem:
        if owns:
            names.release(reservation, host)
        if isinstance(problem, FileExistsError):
            raise DeviceError(f"{spec.name}: {problem.strerror}") from problem
        raise
    return attached._replace(owns_reservation=owns)


def detach(attached: Attached, force: bool = False, host: Host | None = None) -> None:
    """At demotion: cached writes go to the engine, then the kernel lets go. Detached already is fine.

    Raises DeviceInUseError, with the device as it was, when somebody holds it. `force` takes it away from them:
    they get I/O errors.
    """
    host = host or Host()
    BACKENDS[attached.backend].detach(attached, force, host)
    if attached.owns_reservation:
        names.release(attached.reservation, host)


def reattach(attached: Attached, host: Host | None = None) -> Attached:
    """After a restart of the engine, which must serve the same socket path again. Raises DeviceError."""
    return BACKENDS[attached.backend].reattach(attached, host or Host())


def survives(attached: Attached, host: Host | None = None) -> bool:
    """Can it be attached again under its users: is it a kernel nbd, and still connected or waiting for that?"""
    return attached.backend == "nbd" and not names.nbd_is_free(attached.reservation.device_index, host or Host())


def resize(attached: Attached, size_bytes: int, host: Host | None = None) -> Attached:
    """A larger device for those who use it. Raises DeviceError where only a new attach brings that."""
    if attached.backend == "nbd":
        return nbd.resize(attached, size_bytes, host or Host())
    if attached.backend == "fuse":
        raise DeviceError(f"{attached.name}: a device over FUSE keeps its size until it is attached anew; "
                          "unmount it, then run: replctl secondary, and: replctl primary")
    return attached._replace(size_bytes=size_bytes)
