# SPDX-License-Identifier: GPL-2.0-or-later
"""The verbs of the control socket. Most go to the core as they are; those that move the device are composed here."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from typing import Any

from replblock import __version__
from replblock.conf import ConfigError
from replblock.device import DeviceError, DeviceInUseError
from replblock.engine.backing import DiskError
from replblock.engine.control import EXIT_FATAL, EXIT_USAGE, Client, answer
from replblock.engine.lower import open_disk
from replblock.engine.mapping import addresses_of, handler_environment, handlers_of, nbd_port_of, settings_of, tls_of
from replblock.engine.service import Engine

Args = dict[str, Any]
Ended = Callable[[int, list[str]], None]
"""ended(exit_code, lines)."""

REFUSED, CONFIG_REFUSED = 11, 10


def core_verb(name: str) -> Callable[[Engine, Args, Client], None]:
    """A verb the core understands by itself."""

    def run(engine: Engine, args: Args, client: Client) -> None:
        if _wrong_volume(engine, args, client):
            return
        engine.core.command(name, args, lambda found: _reply(client, found))

    return run


def _reply(client: Client, found: Any) -> None:
    client.reply(answer(found.exit_code, list(found.lines), dict(found.data)))


def _wrong_volume(engine: Engine, args: Args, client: Client) -> bool:
    volume = args.pop("volume", None)
    if volume in (None, engine.volume):
        return False
    minor = engine.settings.minor
    client.reply(answer(CONFIG_REFUSED, [f"{minor}: Failure: (127) Device minor not allocated",
                                         f"this engine serves volume {engine.volume}, not {volume}"]))  # fmt: skip
    return True


# ---- looking


def status(engine: Engine, args: Args, client: Client) -> None:
    client.reply(answer(data=engine.status()))


def ping(engine: Engine, args: Args, client: Client) -> None:
    """Who answers."""
    data = {"pid": os.getpid(), "resource": engine.names.resource, "host": engine.names.host,
            "config": engine.names.config_path, "version": __version__}  # fmt: skip
    client.reply(answer(data=data))


def events(engine: Engine, args: Args, client: Client) -> None:
    """The status now and after every change, one a line; and handlers as they are called and end."""
    client.streaming = True
    client.push({"status": engine.status()})


def nbd(engine: Engine, args: Args, client: Client) -> None:
    """The URIs under which the doors of this node can be opened; none while it is not primary."""
    uris = [engine.device.uri, *([engine.direct.port.uri] if engine.direct and engine.direct.port.uri else [])]
    client.reply(answer(data={"uris": uris if engine.core.doors_open else []}))


def log_level(engine: Engine, args: Args, client: Client) -> None:
    try:
        engine.log.set_level(str(args.get("level", "info")))
    except ValueError as error:
        client.reply(answer(EXIT_USAGE, [str(error)]))
        return
    client.reply(answer(data={"level": engine.log.level}))


# ---- the disk


def attach(engine: Engine, args: Args, client: Client) -> None:
    """Open and claim the disk beside the loop, then hand it to the core."""
    if _wrong_volume(engine, args, client) or _busy(engine, "attach", client):
        return
    volume = engine.view.volumes[engine.volume]
    io, threads = str(engine.view.replblock["io"]), int(str(engine.view.replblock["threads"]))

    def opening() -> None:
        try:
            former = engine.last_size.read(volume.disk)
            found = open_disk(
                volume, engine.names.resource, engine.post, io=io, threads=threads, former_sizes=former
            )
        except DiskError as error:
            engine.post(refused, error)
        else:
            engine.post(opened, *found)

    def refused(error: DiskError) -> None:
        engine.busy = ""
        engine.log.write("error", "attach-refused", str(error))
        client.reply(answer(CONFIG_REFUSED, [f"{volume.minor}: Failure: ({error.code}) {error.text}", error.detail]))

    def opened(disk: Any, geometry: Any) -> None:
        def ended(found: Any) -> None:
            engine.busy = ""
            if found.exit_code:
                disk.close()
            _reply(client, found)

        engine.core.command("attach", {**args, "disk": disk, "geometry": geometry}, ended)

    if engine.core.disk is not None:
        engine.busy = ""
        detail = "Device is attached to a disk (use detach first)"
        client.reply(answer(CONFIG_REFUSED, [f"{volume.minor}: Failure: (124) {detail}"]))
        return
    engine.side.put(opening)


def resize(engine: Engine, args: Args, client: Client) -> None:
    """Grow with the disks. The configuration's `size` counts if nothing else is said."""
    if args.get("size_sectors") is None:
        args["size_sectors"] = engine.settings.size_sectors
    core_verb("resize")(engine, args, client)


# ---- role and device


def primary(engine: Engine, args: Args, client: Client) -> None:
    """The name must be there, then the core decides, then the device is attached; if that fails all is taken back."""
    if _wrong_volume(engine, args, client) or _undecided(engine, client) or _busy(engine, "primary", client):
        return
    keeper = engine.device

    def reply(exit_code: int, lines: list[str], data: Args | None = None) -> None:
        engine.busy = ""
        client.reply(answer(exit_code, lines, data))

    def reserved(problem: Exception | None) -> None:
        if problem is not None:
            reply(EXIT_FATAL, [str(problem)])
        else:
            engine.core.command("primary", args, promoted)

    def promoted(found: Any) -> None:
        if found.exit_code:
            reply(found.exit_code, list(found.lines), dict(found.data))
        else:
            work = partial(keeper.attach, engine.core.users_generation)
            _aside(engine, work, lambda problem: attached(problem, found))

    def attached(problem: Exception | None, found: Any) -> None:
        if problem is None:
            reply(0, list(found.lines), dict(found.data))
        else:
            engine.log.write("error", "attach-device-failed", str(problem))
            engine.doors.shut("the device could not be attached")
            engine.core.command("secondary", {"device_open": False}, lambda back: undone(problem))

    def undone(problem: Exception) -> None:
        engine.doors.reopen()
        reply(EXIT_FATAL, [str(problem)])

    _aside(engine, keeper.reserve, reserved)


def secondary(engine: Engine, args: Args, client: Client) -> None:
    """Refused while somebody holds the device; else it is detached, then the core demotes."""
    if _wrong_volume(engine, args, client) or _undecided(engine, client) or _busy(engine, "secondary", client):
        return

    def ended(exit_code: int, lines: list[str]) -> None:
        engine.busy = ""
        client.reply(answer(exit_code, lines))

    _leave_device_then(engine, "secondary", {"device_open": False}, ended)


def stop(engine: Engine, ended: Ended) -> None:
    """As secondary, then the core's `down`. Everything is as it was if it is refused."""
    resumption = engine.resumption
    # who orders a stop now gives the device up
    if resumption is not None and resumption.pending and resumption.give_up(lambda: stop(engine, ended)):
        return
    if engine.busy or _resuming(engine):
        ended(REFUSED, [_transient(engine)])
        return
    engine.busy = "stop"

    def done(exit_code: int, lines: list[str]) -> None:
        if exit_code:
            engine.busy = ""
        ended(exit_code, lines)

    _leave_device_then(engine, "down", {}, done)


def stop_verb(engine: Engine, args: Args, client: Client) -> None:
    """Answers, then the process ends with exit code 0. A device that still waits to be taken back is given up."""

    def ended(exit_code: int, lines: list[str]) -> None:
        client.reply(answer(exit_code, lines))
        if not exit_code:
            engine.finish()

    stop(engine, ended)


def _leave_device_then(engine: Engine, verb: str, args: Args, ended: Ended) -> None:
    keeper, door = engine.device, engine.doors
    had_device = keeper.attached is not None
    door.shut(f"{verb} is under way")

    def detached(problem: Exception | None) -> None:
        if problem is None:
            engine.core.command(verb, args, decided)
            return
        door.reopen()
        minor = engine.settings.minor
        if isinstance(problem, DeviceInUseError):
            first = f"{minor}: State change failed: (-12) Device is held open by someone"
            ended(REFUSED, [first, *problem.reasons])
        else:
            ended(EXIT_FATAL, [str(problem)])

    def decided(found: Any) -> None:
        door.reopen()
        if found.exit_code and had_device:
            work = partial(keeper.attach, engine.core.users_generation)
            _aside(engine, work, lambda problem: ended(found.exit_code, list(found.lines)))
        else:
            ended(found.exit_code, list(found.lines))

    _aside(engine, lambda: keeper.detach(door), detached)


def _aside(engine: Engine, work: Callable[[], None], then: Callable[[Exception | None], None]) -> None:
    """Do something that blocks in the side thread; go on in the loop with its exception, or None."""

    def run() -> None:
        problem: Exception | None = None
        try:
            work()
        except (DeviceError, OSError) as error:
            problem = error
        engine.post(then, problem)

    engine.side.put(run)


def _busy(engine: Engine, verb: str, client: Client) -> bool:
    if engine.busy:
        client.reply(answer(REFUSED, [_transient(engine)]))
        return True
    engine.busy = verb
    return False


def _resuming(engine: Engine) -> bool:
    return engine.resumption is not None and engine.resumption.pending


def _undecided(engine: Engine, client: Client) -> bool:
    """The device of the engine before this one waits: its users decide about the role, and nobody else."""
    if _resuming(engine):
        client.reply(answer(REFUSED, [_transient(engine)]))
    return _resuming(engine)


def _transient(engine: Engine) -> str:
    text = "In transient state, retry after next state change"
    what = engine.busy
    if not what and engine.resumption is not None:
        what = f"restart ({engine.resumption.waits_for})"
    return f"{engine.settings.minor}: State change failed: (-18) {text}: {what} is under way"


# ---- a new engine under a device in use


def leave(engine: Engine, args: Args, client: Client) -> None:
    """End at once, with the device attached, so that the next engine can take it back. {"dry_run": true} only asks.

    Refused if the device would not survive that and somebody uses it.
    """
    if _busy(engine, "restart", client):
        return
    keeper = engine.device

    def answered(problem: Exception | None) -> None:
        engine.busy = ""
        if isinstance(problem, DeviceInUseError):
            client.reply(answer(REFUSED, [f"{keeper.attached.name if keeper.attached else ''}: "
                                          "this device would not survive a restart", *problem.reasons]))  # fmt: skip
            return
        client.reply(answer(data={"supervised": engine.notifier.supervised}))
        if not args.get("dry_run"):
            engine.loop.timer_call("leave", 1, engine.leave_at_once)

    _aside(engine, lambda: keeper.refuse_restart(engine.doors), answered)


def resume(engine: Engine, args: Args, client: Client) -> None:
    """Wait until it is decided whether the device is taken back; data: {"resumed": bool}."""
    resumption = engine.resumption
    if resumption is None:
        client.reply(answer(data={"resumed": False}))
    else:
        resumption.tell(lambda exit_code, lines, data: client.reply(answer(exit_code, lines, data)))


# ---- the configuration


def adjust(engine: Engine, args: Args, client: Client) -> None:
    """Take over what the configuration says now; {"dry_run": true} only tells whether it differs."""
    from replblock.engine.boot import view_of  # boot builds the engine that these verbs are verbs of

    names = engine.names
    try:
        view = view_of(names._replace(config_path=str(args.get("config") or names.config_path)))
        settings, addresses, tls = engine.settings_of(view), engine.addresses_of(view), tls_of(view)
        outside = settings_of(view, engine.volume), addresses_of(view)
        port = engine.direct.port if engine.direct else None  # another door takes another engine
        nbd_port = nbd_port_of(view, engine.volume) if port else None
    except ConfigError as error:
        client.reply(answer(CONFIG_REFUSED, [str(error)]))
        return
    commands = handlers_of(view)
    changed = [
        what for what, old, new in (
            ("options", engine.settings, settings),
            ("addresses", engine.loop.network.addresses, addresses),
            ("handlers", engine.handlers.commands, commands),
            ("encryption", engine.tls, tls),
            ("nbd-listen", port.wanted if port else None, nbd_port),
            ("poll-max-us", engine.loop.polling.longest_us, engine.polling_of(view)),
            ("connection", engine.outside if engine.bundling is not None else outside, outside),
        ) if old != new
    ]  # fmt: skip
    if args.get("dry_run") or not changed:
        client.reply(answer(data={"changed": bool(changed), "what": changed}))
        return

    def ended(found: Any) -> None:
        if not found.exit_code:
            engine.view, engine.settings = view, settings
            engine.handlers.commands = commands
            run_dir = str(names.run_dir)
            engine.handlers.environment = handler_environment(view, engine.volume, names.config_path, run_dir)
            if engine.tls != tls:
                engine.secure(tls)
            if port:
                port.use(nbd_port)
            engine.loop.polling.longest_us = engine.polling_of(view)
            engine.outside = outside
            if engine.bundling is not None:
                engine.bundling.loop.post(engine.bundling.adjust, *outside)
        else:
            engine.loop.network.set_addresses(before)
        _reply(client, found)

    before = engine.loop.network.addresses
    engine.loop.network.set_addresses(addresses)  # first: the core may dial anew at once
    engine.core.command("net_options", {"settings": settings}, ended)


CORE_VERBS = (
    "detach", "connect", "disconnect", "invalidate", "invalidate_remote", "outdate", "pause_sync", "resume_sync",
    "wait_connect", "wait_sync", "new_current_uuid", "verify", "suspend_io", "resume_io",
)  # fmt: skip

VERBS: dict[str, Callable[[Engine, Args, Client], None]] = {
    "status": status, "ping": ping, "events": events, "nbd": nbd, "sh_nbd": nbd, "log_level": log_level,
    "attach": attach, "primary": primary, "secondary": secondary, "stop": stop_verb, "down": stop_verb,
    "resize": resize, "adjust": adjust, "leave": leave, "resume": resume,
    **{name: core_verb(name) for name in CORE_VERBS},
}  # fmt: skip
