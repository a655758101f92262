# SPDX-License-Identifier: GPL-2.0-or-later
"""The sh-* verbs: one fact a line, for scripts. Forms are drbdadm's."""

from __future__ import annotations

from collections.abc import Callable

from replblock.cli.control import ask, finish
from replblock.cli.errors import CANNOT, USAGE, Stop
from replblock.cli.run import Run, Target

DEFAULT_MINOR_COUNT = 32
"""What drbdadm says where `global { minor-count }` says nothing."""


def _print_volumes(run: Run, fact: Callable[..., object]) -> int:
    for target in run.targets():
        for volume in run.volumes(target):
            print(fact(volume))
    return 0


def sh_nop(run: Run) -> int:
    """Read and check the configuration, say nothing."""
    assert run.configuration
    assert run.views is not None
    return 0


def sh_resources(run: Run) -> int:
    """Names on one line."""
    names = [] if run.stacked else list(run.views)
    if names:
        print(" ".join(names))
    return 0


def sh_resource(run: Run) -> int:
    """The name of each resource that is meant."""
    for target in run.targets():
        print(target.resource)
    return 0


def sh_mod_params(run: Run) -> int:
    """What modprobe drbd would be given."""
    from replblock.conf import global_options

    print(f"minor_count={global_options(run.configuration)['minor-count'] or DEFAULT_MINOR_COUNT}")
    return 0


def sh_dev(run: Run) -> int:
    """Device names."""
    return _print_volumes(run, lambda volume: volume.device)


def sh_minor(run: Run) -> int:
    """Minor numbers."""
    return _print_volumes(run, lambda volume: volume.minor)


def sh_ll_dev(run: Run) -> int:
    """Backing disks."""
    return _print_volumes(run, lambda volume: volume.disk)


def sh_md_dev(run: Run) -> int:
    """Disks that hold the metadata."""
    return _print_volumes(run, lambda volume: volume.meta_disk.path or volume.disk)


def sh_md_idx(run: Run) -> int:
    """internal, flexible, or the slot's number."""
    return _print_volumes(
        run, lambda volume: volume.meta_disk.kind if volume.meta_disk.index is None else volume.meta_disk.index
    )


def sh_ip(run: Run) -> int:
    """Own address of the resource, once a volume."""
    for target in run.targets():
        for _ in run.volumes(target):
            address = run.view(target.resource).me.address
            print(address.host if address else "")
    return 0


def sh_lr_of(run: Run) -> int:
    """There are no stacked resources."""
    raise Stop(USAGE, "sh-lower-resource only available in stacked mode")


def becomes_primary(run: Run, target: Target) -> bool:
    """True if `become-primary-on` names this node."""
    named = run.view(target.resource).startup["become-primary-on"]
    return isinstance(named, tuple) and bool({"both", run.host} & set(named))


def sh_b_pri(run: Run) -> int:
    """Promote where the configuration says so; an init script calls it after the wait for the peers."""

    def promote(target: Target) -> int:
        if not becomes_primary(run, target):
            return 0
        return finish(run, target, ask(run, target, "primary", {"force": False}))

    return run.each(promote)


def sh_nbd(run: Run) -> int:
    """The NBD URIs of each volume's door: its Unix socket, then its TCP port if there is one."""
    for target in run.targets():
        uris = ask(run, target, "nbd").data.get("uris", [])
        if not uris:
            raise Stop(CANNOT, f"{target}: no door is open", f"make it usable here: replctl primary {target.resource}")
        for uri in uris:
            print(uri)
    return 0


def sh_status(run: Run) -> int:
    """State as shell assignments; after each volume a call of the shell function _sh_status_process."""
    from replblock.cli.sh_status import print_all

    return print_all(run)
