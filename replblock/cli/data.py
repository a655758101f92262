# SPDX-License-Identifier: GPL-2.0-or-later
"""What is true of the data: invalidate, outdate, verify, pause-sync, suspend-io, new-current-uuid, resize.

invalidate and outdate also work on the metadata of a resource that is down, as drbdadm's do.
"""

from __future__ import annotations

import contextlib
from typing import Any

from replblock.cli.control import act, ask, finish
from replblock.cli.errors import USAGE, Stop
from replblock.cli.run import Run, Target


def invalidate(run: Run) -> int:
    """All blocks here count as different from the peer's."""
    return run.each(lambda target: _live_or_metadata(run, target, "invalidate"))


def outdate(run: Run) -> int:
    """Mark the data here as outdated; 5 if it is worse than that."""
    return run.each(lambda target: _live_or_metadata(run, target, "outdate"))


def _live_or_metadata(run: Run, target: Target, verb: str) -> int:
    if run.is_up(target.resource):
        return finish(run, target, ask(run, target, verb))
    from replblock.cli import metadata

    return metadata.offline(run, target, verb)


def invalidate_remote(run: Run) -> int:
    """All blocks of the peer count as different from ours."""
    return act(run, "invalidate_remote")


def pause_sync(run: Run) -> int:
    """Set our pause flag."""
    return act(run, "pause_sync")


def resume_sync(run: Run) -> int:
    """Clear our pause flag."""
    return act(run, "resume_sync")


def suspend_io(run: Run) -> int:
    """Requests wait until resume-io."""
    return act(run, "suspend_io")


def resume_io(run: Run) -> int:
    """Frozen requests go on."""
    return act(run, "resume_io")


def new_current_uuid(run: Run) -> int:
    """Begin a new data generation; with --clear-bitmap the disks count as equal."""
    return act(run, "new_current_uuid", {"clear_bitmap": "--clear-bitmap" in run.options})


def verify(run: Run) -> int:
    """Start an online verification."""
    args: dict[str, Any] = {}
    for name, value in run.options.items():
        args[name.strip("-")] = sectors(value)
    return act(run, "verify", args)


def resize(run: Run) -> int:
    """Look at the sizes again, and grow. Without --size the configuration's `size` counts, as drbdadm has it."""

    def one(target: Target) -> int:
        args: dict[str, Any] = {
            "assume_clean": "--assume-clean" in run.options,
            "assume_peer_has_space": "--assume-peer-has-space" in run.options,
        }
        if "--size" in run.options:
            args["size_sectors"] = sectors(run.options["--size"])
        else:
            with contextlib.suppress(Stop):  # the engine knows what it was started with
                args["size_sectors"] = int(str(run.volumes(target)[0].options["size"]))
        return finish(run, target, ask(run, target, "resize", args))

    return run.each(one)


def check_resize(run: Run) -> int:
    """Move internal metadata of a disk that grew while nothing ran; nothing to do while it is where it belongs."""
    from replblock.cli import metadata

    return run.each(lambda target: 0 if run.is_up(target.resource) else metadata.check_resize(run, target))


def sectors(text: str) -> int:
    """A size as drbdadm takes it: sectors with `s`, else bytes in K, M, G, T (1024); bare numbers are sectors."""
    factors = {"s": 1, "K": 2, "M": 2048, "G": 2048 * 1024, "T": 2048 * 1024 * 1024}
    number, factor = (text[:-1], factors.get(text[-1].upper() if text[-1] != "s" else "s", 0)) if text else ("", 0)
    if text.isdigit():
        number, factor = text, 1
    if not number.isdigit() or not factor:
        raise Stop(USAGE, f"'{text}' is not a size; expected a number with s, K, M, G or T")
    return int(number) * factor
