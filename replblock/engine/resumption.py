# SPDX-License-Identifier: GPL-2.0-or-later
"""A new engine takes back the kernel device of the one before it, under a mounted file system; or lets it fail.

The rules stand in replblock.state.resumption. Until they decide, the device's users wait; nothing of theirs fails. An
engine that is to resume is started with the parameter resume=yes, and from then on does so by itself: the command that
started it may be gone.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from replblock.device import DeviceError
from replblock.state.names import Disk
from replblock.state.resumption import Resume, Scene, judge

if TYPE_CHECKING:
    from replblock.engine.service import Engine

LOOK_MS = 20
RETRY_MS = 500
"""After a promotion that was refused without anything speaking against the device."""
PATIENCE_S = 30.0
"""For a peer that was connected when the last engine ended. Its users wait meanwhile."""
DEGRADED_PATIENCE_S = 5.0
"""For one that was not: it may have come back all the same."""
REFUSED = 11

Told = Callable[[int, list[str], dict[str, Any]], None]
"""told(exit_code, lines, data)."""


class Resumption:
    """From the engine's start until the device is taken back or has failed."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._began = time.monotonic()
        self._rule = ""
        self._text = ""
        self._told: list[Told] = []
        self._working = False
        self._was_inconsistent = False
        self._outcome: tuple[int, list[str], dict[str, Any]] | None = None

    @property
    def pending(self) -> bool:
        return self._outcome is None

    def begin(self) -> None:
        self._again(LOOK_MS)

    @property
    def waits_for(self) -> str:
        """Why it is not decided yet."""
        return self._text or "the engine has just started"

    def tell(self, told: Told) -> None:
        """Call back when it is decided, which it may be already."""
        if self._outcome is not None:
            told(*self._outcome)
        else:
            self._told.append(told)

    def give_up(self, then: Callable[[], None]) -> bool:
        """By order of the operator: the device fails for its users. False: just now it is being taken back."""
        if self._working:
            return False
        self._working = True
        self._fail("given-up", "given up by order", then)
        return True

    def disk_is(self, disk: Disk) -> None:
        """Called with every change of state: a short resync may begin and end between two looks."""
        self._was_inconsistent |= disk == Disk.INCONSISTENT

    def _again(self, delay_ms: int) -> None:
        self._engine.loop.timer_call("resume", delay_ms, self._look)

    def _patience(self) -> bool:
        degraded = self._engine.core.attachment.was_degraded
        return time.monotonic() - self._began < (DEGRADED_PATIENCE_S if degraded else PATIENCE_S)

    def _scene(self) -> Scene:
        core = self._engine.core
        return Scene(
            core.state, None if core.meta is None else core.meta.uuids, self._engine.device.seen_generation,
            core.remembered.generations, core.remembered.role, core.handshake.running, self._patience(),
            self._was_inconsistent,
        )  # fmt: skip

    def _look(self) -> None:
        if not self.pending or self._working:
            return
        rule = judge(self._scene())
        if rule.name != self._rule:
            self._engine.log.write("notice", rule.name, f"{self._engine.device.left_name}: {rule.explain}")
        self._rule, self._text = rule.name, rule.explain
        if rule.then is Resume.WAIT:
            self._again(LOOK_MS)
        elif rule.then is Resume.FAIL:
            self._working = True
            self._fail(rule.name, rule.explain, lambda: None)
        else:
            self._working = True
            self._engine.core.command("primary", {}, self._promoted)

    def _promoted(self, found: Any) -> None:
        if found.exit_code:     # a handshake under way, a fencing handler that failed: nothing that makes the data bad
            self._working = False
            text = " ".join(found.lines)
            if text != self._text:
                self._engine.log.write("notice", "resume-promotion-refused", text)
            self._rule = "resume-promotion-refused"
            self._text = text
            self._again(RETRY_MS)
            return
        self._aside(self._engine.device.take_back, self._taken)

    def _taken(self, problem: Exception | None) -> None:
        engine = self._engine
        if problem is None:
            engine.log.write("notice", "device-taken-back", f"{engine.device.kernel_device}: its users go on")
            self._decided(0, [], {"resumed": True})
            return
        engine.doors.shut("the device could not be taken back")

        def demoted(found: Any) -> None:
            engine.doors.reopen()
            self._fail("not-taken-back", str(problem), lambda: None)

        def failed(ignored: Exception | None) -> None:
            engine.core.command("secondary", {"device_open": False}, demoted)

        self._aside(lambda: engine.device.fail_left(str(problem)), failed)

    def _fail(self, rule: str, why: str, then: Callable[[], None]) -> None:
        name = self._engine.device.left_name

        def failed(problem: Exception | None) -> None:
            text = f"{name}: not taken back (rule {rule}): {why}; its users get I/O errors: unmount it"
            self._decided(REFUSED, [text if problem is None else f"{text}; {problem}"], {"resumed": False})
            then()

        self._aside(lambda: self._engine.device.fail_left(f"rule {rule}: {why}"), failed)

    def _aside(self, work: Callable[[], None], then: Callable[[Exception | None], None]) -> None:
        def run() -> None:
            problem: Exception | None = None
            try:
                work()
            except (DeviceError, OSError) as error:
                problem = error
            self._engine.post(then, problem)

        self._engine.side.put(run)

    def _decided(self, exit_code: int, lines: list[str], data: dict[str, Any]) -> None:
        self._outcome = (exit_code, lines, data)
        if exit_code:
            self._engine.log.write("error", "device-not-taken-back", " ".join(lines))
        for told in self._told:
            told(exit_code, lines, data)
