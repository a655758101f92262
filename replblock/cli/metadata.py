# SPDX-License-Identifier: GPL-2.0-or-later
"""The metadata of a resource that is down: create-md, show-gi, get-gi, dump-md, wipe-md, apply-al; what drbdmeta does.

While the resource is up its metadata belongs to the engine: only the generation identifiers may be read then.
"""

from __future__ import annotations

import select
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from replblock.cli.blockdev import BlockDevice
from replblock.cli.errors import CANNOT, Stop
from replblock.cli.run import Run, Target
from replblock.meta import moving
from replblock.meta import offline as operations
from replblock.meta.create import create_md as create
from replblock.meta.errors import MetadataError, NeedsConfirmation, NoMetadata, WouldDamage
from replblock.meta.geometry import Kind, Placement
from replblock.meta.texts import DumpHeader
from replblock.paths import last_size_path

if TYPE_CHECKING:
    from replblock.conf import VolumeView

REFUSED_BY_USER = 1
Act = Callable[[BlockDevice, Placement], int]


def placement_of(volume: VolumeView) -> tuple[str, Placement]:
    """The file that holds the volume's metadata, and where in it."""
    meta = volume.meta_disk
    path = meta.path or volume.disk
    assert path is not None
    return path, Placement(Kind(meta.kind), meta.index or 0)


def _each_volume(run: Run, act: Callable[[Target], int]) -> int:
    """`act` for every volume that is meant, as a target with its number."""
    return run.each(
        lambda target: max(act(Target(target.resource, volume.number)) for volume in run.volumes(target))
    )


def _with_device(run: Run, target: Target, write: bool, act: Act, shared: bool = False) -> int:
    """Open the metadata of one volume and do `act`; what it raises becomes sentences."""
    volume = run.volumes(target)[0]
    path, placement = placement_of(volume)
    what = "disk" if placement.kind is Kind.INTERNAL else "meta-disk"
    with BlockDevice(path, write, what, shared) as device:
        try:
            return act(device, placement)
        except NoMetadata as error:
            raise Stop(
                error.exit_code,
                f"No valid meta data found on {path}: {error.text}",
                *error.advice,
                f"write metadata: replctl create-md {_short(run, target)}",
            ) from None
        except MetadataError as error:
            lines = [error.text, *error.advice]
            if error.rule == "unclean":
                lines.append(f"run: replctl apply-al {_short(run, target)}")
            raise Stop(error.exit_code, *lines) from None
        except OSError as error:
            raise Stop(CANNOT, f"{path}: {error.strerror}", "the kernel's log may say more: dmesg | tail") from None


def _short(run: Run, target: Target) -> str:
    """r0 for the only volume, else r0/1."""
    return target.resource if len(run.view(target.resource).volumes) == 1 else str(target)


def _refuse_while_up(run: Run, target: Target) -> None:
    """Raise Stop(20) while an engine holds the disk."""
    if not run.is_up(target.resource):
        return
    from replblock.cli.control import status_of

    for device in status_of(run, target.resource)["devices"]:
        if device["volume"] == target.volume and device["disk-state"] == "Diskless":
            return
    minor = run.volumes(target)[0].minor
    raise Stop(CANNOT, f"Device '{minor}' is configured!", f"it belongs to the running {target.resource};"
               f" first: replctl down {target.resource}")


# ---- verbs


def create_md(run: Run) -> int:
    """Write fresh metadata. What is found on the device decides: nothing, a question, or a refusal."""
    import secrets

    force = "--force" in run.options

    def one(target: Target) -> int:
        _refuse_while_up(run, target)
        volume = run.volumes(target)[0]
        again = f"replctl create-md --force {_short(run, target)}"

        def act(device: BlockDevice, placement: Placement) -> int:
            data_sectors = None
            if placement.kind is not Kind.INTERNAL and volume.disk:
                with BlockDevice(volume.disk, False, "disk") as data:
                    data_sectors = data.size_sectors

            def write(confirmed: bool) -> str:
                return create(
                    device, placement, random64=lambda: secrets.randbits(64), name=device.path,
                    data_device_sectors=data_sectors, confirmed=confirmed, force=force,
                )  # fmt: skip

            try:
                text = write(False)
            except NeedsConfirmation as question:
                if not _confirmed(f"{question.text}\nDo you really want to write new metadata over it?"):
                    raise Stop(REFUSED_BY_USER, f"{question.text}; nothing was written",
                               f"to replace it run: {again}") from None
                text = write(True)
            except WouldDamage as damage:
                raise Stop(damage.exit_code, damage.text, *damage.advice, f"that is: {again}") from None
            print(text, end="")
            return 0

        return _with_device(run, target, True, act)

    return _each_volume(run, one)


def wipe_md(run: Run) -> int:
    """Destroy the superblock, after a question."""

    def one(target: Target) -> int:
        _refuse_while_up(run, target)

        def act(device: BlockDevice, placement: Placement) -> int:
            if "--force" not in run.options and not _confirmed(
                f"{device.path}: Do you really want to wipe out the DRBD meta data?"
            ):
                raise Stop(REFUSED_BY_USER, f"{device.path}: nothing was wiped",
                           f"to do it run: replctl wipe-md --force {_short(run, target)}")
            print(operations.wipe_md(device, placement), end="")
            return 0

        return _with_device(run, target, True, act)

    return _each_volume(run, one)


def show_gi(run: Run) -> int:
    """Generation identifiers with a legend."""
    return _each_volume(run, lambda target: _print(run, target, operations.show_gi))


def get_gi(run: Run) -> int:
    """Generation identifiers on one line."""
    return _each_volume(run, lambda target: _print(run, target, operations.get_gi))


def _print(run: Run, target: Target, text: Callable[[BlockDevice, Placement], str]) -> int:
    """A running engine writes them to the disk whenever they change: what is read there is what it has."""

    def act(device: BlockDevice, placement: Placement) -> int:
        print(text(device, placement), end="")
        return 0

    return _with_device(run, target, False, act, shared=run.is_up(target.resource))


def dump_md(run: Run) -> int:
    """The whole metadata; --force also while the activity log has not been applied."""
    import time

    def one(target: Target) -> int:
        _refuse_while_up(run, target)
        now = time.time()
        stamp = time.strftime("%Y-%m-%d %H:%M:%S %z", time.localtime(now)) + f" [{int(now)}]"
        header = DumpHeader(stamp, run.host, f"replctl dump-md {_short(run, target)}")

        def act(device: BlockDevice, placement: Placement) -> int:
            pieces = operations.dump_md(device, placement, header=header, force="--force" in run.options)
            for piece in pieces:
                sys.stdout.write(piece)
            return 0

        return _with_device(run, target, False, act)

    return _each_volume(run, one)


def apply_al(run: Run) -> int:
    """Set the bits of what a crashed Primary may have been writing. `up` does this by itself."""

    def one(target: Target) -> int:
        _refuse_while_up(run, target)

        def act(device: BlockDevice, placement: Placement) -> int:
            done = operations.apply_al(device, placement)
            out = sys.stderr if done.exit_code else sys.stdout
            for remark in done.remarks:
                print(remark, file=out)
            return done.exit_code

        return _with_device(run, target, True, act)

    return _each_volume(run, one)


def offline(run: Run, target: Target, verb: str) -> int:
    """dstate, outdate, invalidate of a resource that is down."""

    def act(device: BlockDevice, placement: Placement) -> int:
        if verb == "dstate":
            print(operations.dstate(device, placement), end="")
        elif verb == "outdate":
            operations.outdate(device, placement)
        else:
            operations.invalidate(device, placement)
        return 0

    volumes = [Target(target.resource, volume.number) for volume in run.volumes(target)]
    return max(_with_device(run, one, verb in ("outdate", "invalidate"), act) for one in volumes)


def check_resize(run: Run, target: Target) -> int:
    """Of a resource that is down: internal metadata goes to the end of a disk that grew."""

    def one(volume: VolumeView) -> int:
        def act(device: BlockDevice, placement: Placement) -> int:
            if placement.kind is not Kind.INTERNAL:
                operations.read_metadata(device, placement)
                return 0
            former = _former_sizes(run, target.resource, volume)
            try:
                if moving.check_resize(device, former).rule == "moved":
                    print("Internal drbd meta data successfully moved.")
            except NoMetadata as error:
                known = f"nor where they were at its former size of {former[0] // 2} KiB" if former else \
                    "and nobody remembers its former size"
                raise Stop(error.exit_code, f"No valid meta data found at the end of {device.path}, {known}",
                           "if the disk grew, name the size it had: replctl check-resize --was SIZE "
                           f"{target.resource}") from None
            return 0

        return _with_device(run, Target(target.resource, volume.number), True, act)

    return max(one(volume) for volume in run.volumes(target))


def _former_sizes(run: Run, resource: str, volume: VolumeView) -> tuple[int, ...]:
    """How large the disk was: as the operator says, else when an engine last used it."""
    from replblock.cli.data import sectors

    if "--was" in run.options:
        return (sectors(run.options["--was"]),)
    try:
        text = last_size_path(Path(run.run_dir), resource, volume.number).read_text()
    except (OSError, ValueError):
        return ()
    return moving.remembered_sizes(text, volume.disk or "")


def _confirmed(question: str) -> bool:
    """Ask on the terminal. A pipe that already holds `yes` counts too: scripts do `yes yes | drbdadm create-md r0`."""
    if sys.stdin is None or sys.stdin.closed:
        return False
    if not sys.stdin.isatty():
        try:
            ready = bool(select.select([sys.stdin], [], [], 0)[0])
        except (OSError, ValueError):
            return False
        return ready and sys.stdin.readline().strip() == "yes"
    print(f"{question}\n[need to type 'yes' to confirm] ", end="", flush=True)
    return sys.stdin.readline().strip() == "yes"
