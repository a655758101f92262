# SPDX-License-Identifier: GPL-2.0-or-later
"""From nothing to a connected resource and back: up, down, attach, detach, connect, disconnect, adjust."""

from __future__ import annotations

import os
import sys
import time
from typing import Any

from replblock.cli.control import SHORT_S, act, ask, finish, status_of
from replblock.cli.errors import CANNOT, TIMEOUT, USAGE, Stop
from replblock.cli.run import Run, Target

END_S = 30.0
"""How long a process that said it will end may take to do so (its last flush of the disk)."""
END_POLL_S = 0.02


# ---- the process


def start(run: Run, target: Target, resume: bool = False) -> bool:
    """Start the engine of the resource unless it runs; True if it was started now.

    `resume`: it takes back the device that an engine which died had attached.
    """
    run.view(target.resource)
    if run.is_up(target.resource):
        return False
    config = run.need_file()
    from replblock.engine.launch import start as launch

    try:
        launch(target.resource, config, run.host, run.run_dir, resume=resume)
    except (OSError, RuntimeError) as error:
        text = str(error).removeprefix(f"{target.resource}: ")
        log = os.path.join(run.run_dir, f"{target.resource}.log")
        raise Stop(CANNOT, f"{target.resource}: {text}", f"its log: {log}") from None
    return True


def stop(run: Run, target: Target) -> int:
    """Take the resource down and wait until its process is gone. Nothing to do is success, as with drbdadm."""
    if not run.is_up(target.resource):
        if not os.path.exists(os.path.join(run.run_dir, f"{target.resource}.device")):
            if run.verbose:
                print(f"{target.resource}: not up")
            return 0
        start(run, target)  # an engine that was killed left its device behind: a new one knows how to take it away
    reply = ask(run, target, "stop")
    if reply.exit_code:
        return finish(run, target, reply)
    end = time.monotonic() + END_S
    while run.is_up(target.resource):
        if time.monotonic() > end:
            raise Stop(TIMEOUT, f"{target.resource}: the engine said it ends, but is still there after {END_S:g} s",
                       f"look at: replctl status {target.resource}")
        time.sleep(END_POLL_S)
    return finish(run, target, reply)


# ---- what is missing


def missing_steps(run: Run, target: Target) -> list[list[str]]:
    """The verbs that bring the target from where it is to where the configuration wants it."""
    name = target.resource
    run.view(name)
    if not run.is_up(name):
        return [["new-resource", name], ["attach", str(target)], ["connect", name]]
    found = status_of(run, name)
    # options first: disk and connection are to come up with them
    wanted = [["net-options", name]] if run.verb.name != "up" and _changed(run, target) else []
    wanted += [["attach", f"{name}/{number}" if len(found["devices"]) > 1 else name]
               for number in _diskless(found, target)]
    if _stands_alone(found):
        wanted.append(["connect", name])
    return wanted


def _diskless(found: dict[str, Any], target: Target) -> list[int]:
    return [device["volume"] for device in found["devices"]
            if device["disk-state"] == "Diskless" and target.volume in (None, device["volume"])]


def _stands_alone(found: dict[str, Any]) -> bool:
    return not found["connections"] or found["connections"][0]["connection-state"] == "StandAlone"


def _changed(run: Run, target: Target) -> bool:
    """True if the engine runs with other options than the configuration now says."""
    reply = ask(run, target, "adjust", {"config": run.need_file(), "dry_run": True}, SHORT_S)
    return bool(reply.exit_code == 0 and reply.data.get("changed"))


# ---- verbs


def up(run: Run) -> int:
    """Start, attach, connect; what is done already is left alone."""
    return run.each(lambda target: _up(run, target))


def _up(run: Run, target: Target) -> int:
    started = start(run, target)
    code = 0
    for verb, name in missing_steps(run, target):
        part = Target(target.resource, int(name.partition("/")[2]) if "/" in name else None)
        code = step(run, part, verb)
        if code:
            break
    if code and started:  # refused as a whole: leave nothing behind that would be in create-md's way
        stop(run, target)
    return code


def step(run: Run, target: Target, verb: str) -> int:
    """One of `missing_steps`."""
    if verb == "net-options":
        return finish(run, target, ask(run, target, "adjust", {"config": run.need_file()}))
    return finish(run, target, ask(run, target, verb))


def down(run: Run) -> int:
    """Refused (exit 11) while something holds the device."""
    return run.each(lambda target: stop(run, target))


def new_resource(run: Run) -> int:
    """Start the engine, nothing more."""
    if "--supervised" in run.options:
        return _supervised(run)

    def one(target: Target) -> int:
        start(run, target)
        return 0

    return run.each(one)


def _supervised(run: Run) -> int:
    """Become the engine of the one resource that is named: who started this process keeps its number."""
    targets = run.targets()
    if len(targets) != 1:
        known = ", ".join(target.resource for target in targets) or "RES"
        text = f"--supervised: one engine, please: {known}"
        raise Stop(USAGE, text, f"run: replctl {run.verb.name} --supervised RES")
    name = targets[0].resource
    run.view(name)
    from replblock.engine.launch import become

    try:
        become(name, run.need_file(), run.host, run.run_dir)
    except (OSError, RuntimeError) as error:
        raise Stop(CANNOT, f"{name}: {str(error).removeprefix(f'{name}: ')}", f"see: replctl status {name}") from None
    return 0


def attach(run: Run) -> int:
    """Attach the disk; what a crash left in the activity log is applied first."""
    return act(run, "attach")


def detach(run: Run) -> int:
    """Let go of the disk; the peer's is used instead while connected."""
    return act(run, "detach", {"force": "--force" in run.options})


def connect(run: Run) -> int:
    """Look for the peer."""
    args = {
        "discard_my_data": "--discard-my-data" in run.options,
        "tentative": "--tentative" in run.options,
    }

    def one(target: Target) -> int:
        # as with drbdadm, a connection begins with the options that the configuration has now
        if _stands_alone(status_of(run, target.resource)):
            handed = ask(run, target, "adjust", {"config": run.need_file()})
            if handed.exit_code:
                return finish(run, target, handed)
        return finish(run, target, ask(run, target, "connect", args))

    return run.each(one)


def disconnect(run: Run) -> int:
    """Leave the peer; --force does not ask it."""
    return act(run, "disconnect", {"force": "--force" in run.options})


def adjust(run: Run) -> int:
    """Make what runs follow the configuration: start, attach, connect, hand over changed options."""
    return run.each(lambda target: _up(run, target))


def adjust_with_progress(run: Run) -> int:
    """adjust, with the names on the way, for init scripts; 1 if something failed."""
    worst = 0
    print("[", end="", flush=True)
    for target in run.targets():
        print(f" {target.resource}", end="", flush=True)
        try:
            code = _up(run, target)
        except Stop as problem:
            code = problem.exit_code
            print(file=sys.stderr)
            for line in problem.lines:
                print(line, file=sys.stderr)
        if code:
            print(f":failed({code})", end="", flush=True)
            worst = 1
    print(" ]")
    return worst


