# SPDX-License-Identifier: GPL-2.0-or-later
"""One resource on one node: puts loop, core, disk, door, guard, control socket and device together, and ends them."""

from __future__ import annotations

import ctypes
import os
import select
import signal
import socket
import threading
import traceback
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from replblock.conf import NodeView, unused_notes
from replblock.core.settings import Settings
from replblock.device import DeviceError
from replblock.engine.arguments import wrong_argument
from replblock.engine.bundling import Bundling
from replblock.engine.client import VOLUME_MARK, section_of, volume_of
from replblock.engine.control import EXIT_USAGE, Client, Control, Verb, answer
from replblock.engine.devices import DeviceKeeper
from replblock.engine.direct import DirectDoor
from replblock.engine.door import Door
from replblock.engine.doors import Doors
from replblock.engine.guard import Guard
from replblock.engine.handlers import Handlers
from replblock.engine.lastsize import LastSize
from replblock.engine.log import Log
from replblock.engine.loop import ENTER_AFTER, TRACE_FRAMES, Loop
from replblock.engine.mapping import addresses_of, handler_environment, handlers_of, nbd_port_of, settings_of, tls_of
from replblock.engine.network import Addresses
from replblock.engine.notify import Notifier
from replblock.engine.polling import worth_it
from replblock.engine.pool import Pool
from replblock.engine.processor import Seats
from replblock.engine.procfile import LifeLock, Publisher
from replblock.engine.resumption import Resumption
from replblock.engine.securing import Securing
from replblock.engine.tls import Tls
from replblock.status.words import cstates, dstates, roles

PUBLISH_MS = 1000
PR_SET_PDEATHSIG = 1
END_S = 15.0
"""How long an orderly end asked for by nbdkit may take (the last flush of the disk, the peer's goodbye)."""


class Names(NamedTuple):
    """Who we are and where our files are."""

    resource: str
    """As the files are called: the resource, or RES@VOLUME, where each volume has an engine of its own."""
    config_path: str
    host: str
    run_dir: Path

    def file(self, ending: str) -> Path:
        """`RUN/RES.nbd`, `.ctl`, `.pid`, `.log` …"""
        return self.run_dir / f"{self.resource}.{ending}"

    @property
    def section(self) -> str:
        """What the configuration calls the resource."""
        return section_of(self.resource)

    @property
    def volume(self) -> int | None:
        """Which one, if there are several."""
        return volume_of(self.resource)


MakeCore = Callable[[Any, Loop], Any]


class Engine:
    """Built in the process that is to serve the resource; `start` begins, `end` returns when all is over."""

    def __init__(
        self, names: Names, view: NodeView, log: Log, make_core: MakeCore, leave: Callable[[int], None] = os._exit
    ) -> None:
        self.names = names
        self.view = view
        self.log = log
        self.volume = min(view.volumes) if names.volume is None else names.volume
        self.settings = self.settings_of(view)
        self.notifier = Notifier()
        self.handlers = Handlers(
            handlers_of(view),
            handler_environment(view, self.volume, names.config_path, str(names.run_dir)),
            self.post,
            log.write,
            self._report_handler,
        )
        self.loop = Loop(
            self.addresses_of(view), log.write, self.handlers.run, self._state_changed, self._fatal,
            enter_after=int(os.environ.get("REPLBLOCK_ENTER_AFTER", ENTER_AFTER)),
        )  # fmt: skip
        self.loop.polling.longest_us = self.polling_of(view)
        self.outside = settings_of(view, self.volume), addresses_of(view)
        """What holds towards the peer; the same as this engine's own, if it is the only one."""
        self.bundling: Bundling | None = None
        """Of a resource with several volumes, in the engine of the first one."""
        if names.volume == min(view.volumes):
            paths = {number: names.run_dir / f"{names.section}{VOLUME_MARK}{number}.link" for number in view.volumes}
            self.bundling = Bundling(*self.outside, paths, log.write, self._fatal)
        self.secure(tls_of(view))
        self.core = make_core(self.settings, self.loop)
        self.loop.core = self.core
        self.seats = Seats(lambda delay_ms, call: self.post(self.loop.timer_call, "processor", delay_ms, call))
        exports = ("", str(self.volume))
        self.door = Door(self.loop, exports, seats=self.seats)
        self.direct: DirectDoor | None = None
        """The door in the loop, if the configuration asks for it; nbdkit's is there in any case."""
        if view.replblock["door"] == "direct":
            self.direct = DirectDoor(self.loop, names.file("direct"), exports, f"{names.resource} on {names.host}")
        self.doors = Doors(self.door, *([self.direct] if self.direct else []))
        self.core.in_use = lambda: bool(self.doors.clients)
        self.core.resized = self._resized
        self.core.read_beside = lambda: self.door.read_sectors
        self.last_size = LastSize(names.run_dir, names.resource, self.volume)
        self.guard = Guard(self.loop, lambda: self.core.settings.ping_timeout_ms)
        self.device = DeviceKeeper(
            names.run_dir,
            names.resource,
            view.volumes[self.volume].device,
            str(view.replblock["attach"]),
            names.file("direct" if self.direct else "nbd"),
            str(self.volume),
            log.write,
        )
        self.busy = ""
        """The verb that moves device and role at this moment; others have to wait."""
        self.side = Pool("replblock-side", 1)
        """For what blocks and is not the disk: the device, opening the disk."""
        self.resumption: Resumption | None = None
        """While the device of the engine before this one waits to be taken back."""
        self._leave = leave
        self._lock: LifeLock | None = None
        self._publisher: Publisher | None = None
        self._published: dict[str, Any] = {}
        self._ended = threading.Event()
        from replblock.engine.verbs import VERBS  # the verbs are functions of the engine

        self.control = Control(
            self.loop, names.run_dir, names.resource, {name: self._bound(verb) for name, verb in VERBS.items()}
        )

    def _bound(self, verb: Callable[[Engine, dict[str, Any], Client], None]) -> Verb:
        def run(args: dict[str, Any], client: Client) -> None:
            wrong = wrong_argument(args)
            if wrong:
                client.reply(answer(EXIT_USAGE, [wrong]))
            else:
                verb(self, args, client)

        return run

    def secure(self, tls: Tls | None) -> None:
        """Encrypt the link from now on, or do not."""
        network = self.loop.network
        if self.bundling is not None:
            self.bundling.loop.post(self.bundling.secure, tls)
        elif self.names.volume is None:
            network.secure_with(Securing(tls, self.post, self.log.write, network.notes) if tls is not None else None)
        self.tls = tls

    def settings_of(self, view: NodeView) -> Settings:
        """Behind a bundle an engine has nothing to prove: its peer is there in its own node."""
        settings = settings_of(view, self.volume)
        return settings if self.names.volume is None else replace(settings, cram_hmac_alg="", shared_secret="")

    def polling_of(self, view: NodeView) -> int:
        """How long the loop looks for events before it sleeps. Beside a bundle's loop it would be in its way."""
        return worth_it(int(view.replblock["poll-max-us"])) if self.names.volume is None else 0

    def addresses_of(self, view: NodeView) -> Addresses:
        """Where this engine meets its peer: on the network, or in its own node. Raises ConfigError."""
        if self.names.volume is None:
            return addresses_of(view)
        return Addresses(socket.AF_UNIX, str(self.names.file("link")), 0, "the bundle", 0)

    def post(self, call: Callable[..., Any], *args: Any) -> None:
        """Run in the loop, with the engine's lock held."""
        self.loop.post(call, *args)

    # ---- begin and end

    def start(self, resume: str = "") -> None:
        """`resume`: take back what an engine that died had attached: "yes", or "survivor": only if it still is.

        Raises AlreadyUp, OSError.
        """
        threading.excepthook = self._thread_crashed
        self._lock = LifeLock(self.names.run_dir, self.names.resource)
        self._publisher = Publisher(self.names.run_dir, self.names.resource)
        try:
            if resume and self.device.keep_leftover(survivor=resume == "survivor"):
                self.resumption = Resumption(self)
            else:
                self.device.reserve()
        except Exception as error:  # a node without the device still replicates; promotion will say it again
            self.log.write("warning", "no-device-yet", f"{error}")
        if self.direct is not None:
            self.direct.listen()
            self.direct.port.use(nbd_port_of(self.view, self.volume))
        self.loop.start(self.core)
        self.guard.start()
        if self.bundling is not None:
            self.bundling.start()
        self.post(self._open_for_business)

    def _open_for_business(self) -> None:
        self.loop.timer_call("publish", PUBLISH_MS, self._publish_timer)
        self._publish()
        if self.resumption is not None:
            self.resumption.begin()
        self.control.open()
        self.notifier.ready()
        if self.notifier.watchdog_ms:
            self.loop.timer_call("watchdog", self.notifier.watchdog_ms, self._tell_watchdog)
        self.log.write("info", "engine-up", f"node {self.names.host}, process {os.getpid()}, {self.names.config_path}")

    def _tell_watchdog(self) -> None:
        self.loop.timer_call("watchdog", self.notifier.watchdog_ms)
        self.notifier.alive()

    def own_signals(self) -> None:
        """SIGTERM and SIGINT mean an orderly stop, not nbdkit's, which would give the kernel I/O errors.

        Called in the main thread. Python's handlers would wait for it to run Python code, so a socket is written to.
        nbdkit tries out at its start whether the kernel knows PR_SET_PDEATHSIG and leaves it set: the end of the
        command that started us would be the end of the resource.
        """
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, 0, 0, 0, 0)
        reader, writer = socket.socketpair()
        for end in (reader, writer):
            end.setblocking(False)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, lambda number, frame: None)
        signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
        self._signal_sockets = (reader, writer)
        self.post(self._watch_signals, reader)

    def _watch_signals(self, reader: socket.socket) -> None:
        def arrived(mask: int) -> None:
            numbers = set(reader.recv(64))
            if numbers & {signal.SIGTERM, signal.SIGINT}:
                self.stop_by_signal()

        self.loop.watch(reader.fileno(), arrived)
        self.loop.poll.register(reader.fileno(), select.EPOLLIN)

    def stop_by_signal(self) -> None:
        """As `replctl down`: refused, with the reason in the log, while the device is in use, or waits to be."""
        from replblock.engine.verbs import stop

        resumption = self.resumption
        if resumption is not None and resumption.pending:
            self.log.write("error", "stop-refused", f"asked to stop during a restart: {resumption.waits_for}")
            self._ended.set()
            return

        def ended(exit_code: int, lines: list[str]) -> None:
            if exit_code:
                self.log.write("error", "stop-refused", f"asked to stop: {' '.join(lines)}")
                self._ended.set()
            else:
                self.finish()

        stop(self, ended)

    def finish(self) -> None:
        """The core is down and the device detached: tidy up, in a thread, and leave."""
        threading.Thread(target=self._finish, name="replblock-end", daemon=True).start()

    def _finish(self) -> None:
        self.notifier.stopping()
        self.guard.stop()
        if self.bundling is not None:
            self.bundling.stop()
        if self._publisher is not None:
            self._publisher.withdraw()
        try:
            self.device.release()
        except Exception as error:
            self.log.write("warning", "device-left", f"{error}")
        for ending in ("nbd", "direct", "pid", "link"):
            self.names.file(ending).unlink(missing_ok=True)
        self.log.write("info", "engine-down", "stopped in good order")
        with self.loop.lock:
            self.control.close()
            if self.direct is not None:
                self.direct.close()
        self.loop.stop()
        self._ended.set()
        self._leave(0)

    def end(self) -> None:
        """nbdkit itself is ending (its own signal, or its parent is gone): an orderly stop, in bounded time."""
        if not self._ended.is_set():
            self._leave = lambda code: None
            self.post(self.stop_by_signal)
            self._ended.wait(END_S)

    def leave_at_once(self) -> None:
        """For a restart: the kernel keeps the device, its users wait for the engine that comes next.

        A supervisor must take it for a failure: it starts the next one then, and runs no stop commands before.
        """
        self.log.write("notice", "leaving-for-a-restart", "the device stays as it is; its users wait")
        self.log.close()
        self._leave(1 if self.notifier.supervised else 0)

    # ---- what goes on

    def _fatal(self, rule: str, text: str) -> None:
        self.log.close()
        self._leave(1)

    def _thread_crashed(self, what: Any) -> None:
        """An exception nobody expected, in whatever thread: Python would only print it and go on without the thread."""
        trace = "".join(traceback.format_exception(what.exc_value, limit=TRACE_FRAMES)).strip()
        self.log.write("error", "engine-crashed", f"stopping at once, a bug: {trace}")
        self._fatal("engine-crashed", trace)

    def _state_changed(self, old: Any, new: Any) -> None:
        self.post(self._publish)
        self.door.disk = self.core.disk
        if self.direct is not None:
            self.direct.disk = self.core.disk
        if self.resumption is not None:
            self.resumption.disk_is(new.disk)
        self._note_size()
        self._note_generation()

    def _note_generation(self) -> None:
        if self.device.attached is not None and self.core.users_generation & ~1 != self.device.seen_generation & ~1:
            self.side.put(lambda: self.device.note_generation(self.core.users_generation))

    def _resized(self) -> None:
        """The device became larger: what is attached to it may follow; who is connected by NBD sees it next time."""
        size_bytes = self.core.size_bytes

        def work() -> None:
            try:
                self.device.grow(size_bytes, self.direct is not None)
            except (DeviceError, OSError) as error:
                self.log.write("warning", "device-keeps-its-size", f"{error}")

        self.side.put(work)
        self.post(self._publish)

    def _note_size(self) -> None:
        """Of the disk below, which may have grown: after the next start its metadata is looked for by this."""
        disk = self.core.disk
        if disk is not None and self.last_size.changed(disk.path, disk.device_sectors):
            self.side.put(self._write_size, disk.path, disk.device_sectors)  # on a disk that may be slow

    def _write_size(self, path: str, sectors: int) -> None:
        problem = self.last_size.note(path, sectors)
        if problem:
            self.log.write("warning", "disk-size-not-noted", problem)

    def _publish_timer(self) -> None:
        self.loop.timer_call("publish", PUBLISH_MS)
        self._publish()
        self._note_size()
        self._note_generation()  # a write may be lost, or that be told, while no state changes

    def _publish(self) -> None:
        """Status for `proc` and for those who watch events, if it changed."""
        status = self.status()
        if status == self._published:
            return
        self._published = status
        self.notifier.status(f"{', '.join(cstates(status))} {', '.join(roles(status))} {', '.join(dstates(status))}")
        if self._publisher is not None:
            self._publisher.publish(status)
        for client in self.control.streams():
            client.push({"status": status})

    def _report_handler(self, what: str, name: str, code: int | None) -> None:
        for client in self.control.streams():
            client.push({"helper": name, "what": what, "exit_code": code})

    def status(self) -> dict[str, Any]:
        """The core's status, with what only the engine knows."""
        status: dict[str, Any] = self.core.status()
        for item in status["devices"]:
            item["open"] = bool(self.doors.clients)
            item["replblock-door"] = "direct" if self.direct else "nbdkit"
            item["replblock-nbd"] = self.direct.port.uri if self.direct else ""
            item["replblock-kernel-device"] = self.device.kernel_device
            item["replblock-io"] = str(self.view.replblock["io"])
        for item in status["connections"]:
            item["tls"] = self.tls is not None and item["paths"][0]["established"]
        notes = [*self.loop.network.notes.items(), *(self.direct.port.notes.items() if self.direct else ())]
        if self.bundling is not None:
            notes += self.bundling.loop.network.notes.items()
        status["replblock-why"] += [{"rule": rule, "text": text, "time-ms": None} for rule, text in notes]
        status["replblock-unused-options"] = unused_notes(self.view)
        return status
