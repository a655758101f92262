# SPDX-License-Identifier: GPL-2.0-or-later
"""Questions to the running engine, and DRBD's sentences for what goes wrong with them."""

from __future__ import annotations

import re
import sys
from typing import Any, NamedTuple

from replblock.cli.errors import CANNOT, REFUSED, TIMEOUT, Stop
from replblock.cli.run import Run, Target

SHORT_S = 5.0
"""Looking at something; the engine answers from memory."""
MEDIUM_S = 121.0
"""A change of state: may wait for the peer or the disk (drbdadm's cmd-timeout-medium)."""

NEXT_STEP: dict[int, str] = {
    # code of the answer: what to do, with {r} the resource
    -1: "the peer is Primary; run there: replctl secondary {r}",
    -2: "no UpToDate data can be reached; bring the peer back, or if the data here is to be the good one: "
    "replctl primary --force {r}",
    -7: "the peer must be outdated first; see the handler fence-peer, or: replctl primary --force {r}",
    -10: "the peer would be left without good data; see there: replctl status {r}; or wait: replctl wait-sync {r}",
    -9: "look at: replctl status {r}",
    -11: "attach a disk first: replctl attach {r}",
    -12: "see who holds it: fuser -vm {device}; unmount it, then: replctl {verb} {r}",
    -14: "set verify-alg in section net, then: replctl adjust {r}",
    -15: "connect first: replctl connect {r}",
    -21: "or without asking the peer: replctl {verb} --force {r}",
    104: "is it there? see: replctl sh-ll-dev {r}",
    105: "is it there? see: replctl sh-md-dev {r}",
    114: "see who holds it: replctl sh-ll-dev {r}",
    115: "see who holds it: replctl sh-md-dev {r}",
    119: "write metadata: replctl create-md {r}",
    124: "it is attached already; see: replctl status {r}",
    125: "it looks for its peer already; see: replctl status {r}",
    157: "it is paused there; run there: replctl resume-sync {r}",
    139: "set protocol C in section net, then: replctl adjust {r}",
    151: "run: replctl disconnect {r}",
    165: "run: replctl apply-al {r}",
}
_CODE = re.compile(r"\((-?\d+)\)")


class Reply(NamedTuple):
    """The engine's answer: exit code (0 done), sentences, data."""

    exit_code: int
    lines: list[str]
    data: dict[str, Any]


def ask(run: Run, target: Target, verb: str, args: dict[str, Any] | None = None, timeout_s: float = MEDIUM_S) -> Reply:
    """Put a question to the engine of the target's resource.

    Raises Stop if it is down, or does not answer in time.
    """
    from replblock.engine.client import NotUp, call

    if run.verbose and verb != "status":
        print(f"{target}: {verb} {args or ''}".rstrip(), file=sys.stderr)
    full = dict(args or {})
    if target.volume is not None:
        full.setdefault("volume", target.volume)
    try:
        answer = call(run.run_dir, target.resource, verb, full, timeout_s)
    except TimeoutError:  # Busy
        raise Stop(
            TIMEOUT,
            f"{target}: '{verb}' did not end within {timeout_s:g} seconds",
            f"look at: replctl status {target.resource}",
        ) from None
    except NotUp:
        raise not_up(run, target) from None
    except ConnectionError as error:
        raise Stop(CANNOT, str(error), f"its log says why: {run.run_dir}/{target.resource}.log") from None
    except OSError as error:
        raise run.no_access(error) from None
    lines = list(answer["lines"])
    if answer["exit_code"] == CANNOT and f"unknown command '{verb}'" in "".join(lines):
        raise Stop(CANNOT, f"{target}: the engine does not support '{run.verb.name}' yet", "see: replctl help")
    return Reply(answer["exit_code"], lines, answer.get("data") or {})


def status_of(run: Run, resource: str) -> dict[str, Any]:
    """The status of a running resource. Raises Stop if it is down."""
    reply = ask(run, Target(resource), "status", timeout_s=SHORT_S)
    if reply.exit_code:
        raise Stop(reply.exit_code, *reply.lines)
    return reply.data


def not_up(run: Run, target: Target) -> Stop:
    """The sentences for a resource that is down: DRBD's, then the next command."""
    from replblock.engine.client import section_of

    name = section_of(target.resource)
    next_step = f"{name} is not up on this node; run: replctl up {name}"
    if run.verb.name == "status":
        return Stop(REFUSED, f"{name}: No such resource", next_step)
    if run.verb.name in ("connect", "disconnect", "down"):
        return Stop(REFUSED, f"{name}: Failure: (158) Unknown resource", next_step)
    minor = run.volumes(target)[0].minor
    return Stop(REFUSED, f"{minor}: Failure: (127) Device minor not allocated", next_step)


def finish(run: Run, target: Target, reply: Reply) -> int:
    """Print an answer: to stdout when all went well, else to stderr, followed by the next command to run."""
    out = sys.stderr if reply.exit_code else sys.stdout
    for line in reply.lines:
        print(line, file=out)
    if reply.exit_code and reply.lines and not any("replctl " in line for line in reply.lines):
        hint = next_step(run, target, reply.lines[0])
        if hint:
            print(hint, file=sys.stderr)
    return reply.exit_code


def next_step(run: Run, target: Target, line: str) -> str:
    """What to do about an error sentence that carries one of DRBD's codes, or nothing."""
    found = _CODE.search(line)
    text = NEXT_STEP.get(int(found[1]), "") if found else ""
    device = ""
    if "{device}" in text:
        try:
            device = run.volumes(target)[0].device
        except Stop:
            device = "DEVICE"
    return text.format(r=target.resource, verb=run.verb.name, device=device)


def act(run: Run, verb: str, args: dict[str, Any] | None = None, timeout_s: float = MEDIUM_S) -> int:
    """One control verb for every target of the command line."""
    return run.each(lambda target: finish(run, target, ask(run, target, verb, args, timeout_s)))
