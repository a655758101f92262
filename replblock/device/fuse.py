# SPDX-License-Identifier: GPL-2.0-or-later
"""Back end fuse, for kernels without nbd: nbdfuse shows the export as a file, a loop device makes it a device.

An fsync of the loop device becomes an NBD flush. A restart of the server under it cannot be survived: nbdfuse gives
errors once its connection is gone.
"""

from __future__ import annotations

import errno
import os
import re
import select
import shutil
import signal
import subprocess
import time

from replblock.device import loop, reclaim, sysfs, usage
from replblock.device.errors import DeviceError
from replblock.device.negotiate import connect_export
from replblock.device.types import Attached, AttachSpec, Host, Reservation, nbd_uri

NAME = "fuse"
START_PATIENCE_S = 10.0
GONE_PATIENCE_S = 10.0
SEARCH_PATH = "/usr/local/bin:/usr/bin:/bin"
PACKAGES = {"nbdfuse": "libnbd-bin", "fusermount3": "fuse3"}


def missing(host: Host) -> str:
    """Why this back end cannot be used here, "" if it can."""
    for program, package in PACKAGES.items():
        if _program(program) is None:
            return f"{program} is not installed (apt-get install {package})"
    for node in ("fuse", "loop-control"):
        if not os.path.exists(f"{host.dev}/{node}"):
            return f"{host.dev}/{node} is missing (modprobe {node.partition('-')[0]})"
    return "" if os.geteuid() == 0 else "loop devices need root"


def _program(name: str) -> str | None:
    return shutil.which(name, path=f"{os.environ.get('PATH', '')}:{SEARCH_PATH}")


def attach(spec: AttachSpec, reservation: Reservation, host: Host) -> Attached:
    link, export = connect_export(spec.socket_path, spec.export)    # says clearly what nbdfuse would say in a log
    link.close()
    stem = os.path.join(spec.run_directory, "nbdfuse-" + re.sub(r"[^\w.-]+", "_", spec.name).strip("_"))
    os.makedirs(spec.run_directory, exist_ok=True)
    helper = _start(spec, stem)
    attached = Attached(NAME, spec.name, reservation.kernel_device, export.size_bytes, spec.socket_path, spec.export,
                        reservation, mount_path=stem, helper_pid=helper.pid,
                        helper_started=start_time(helper.pid, host))
    try:
        _wait_for_file(spec, stem, helper, export.size_bytes)
        reclaim.set_oom_score(helper.pid, reclaim.OOM_SCORE_NEVER, host.proc)   # it carries every write
        loop.bind(reservation.kernel_device, stem)
    except BaseException:
        _stop(attached, host, force=True)
        raise
    return attached


def _start(spec: AttachSpec, stem: str) -> subprocess.Popen[bytes]:
    """nbdfuse over an empty file of that name. It outlives the engine, so it gets a session of its own."""
    for suffix in (".pid", ".log"):
        if os.path.exists(stem + suffix):
            os.unlink(stem + suffix)
    _unmount(stem, lazily=True)             # of an engine that died
    with open(stem, "wb"):
        pass
    command = [_program("nbdfuse") or "nbdfuse", "-C", str(spec.connections), "-P", stem + ".pid", stem,
               nbd_uri(spec.socket_path, spec.export)]
    with open(stem + ".log", "wb") as log:
        return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd="/",
                                start_new_session=True)


def _wait_for_file(spec: AttachSpec, stem: str, helper: subprocess.Popen[bytes], size_bytes: int) -> None:
    """nbdfuse writes its process number when the file is there."""
    ready = sysfs.wait_until(lambda: helper.poll() is not None or bool(sysfs.read(stem + ".pid")), START_PATIENCE_S)
    if helper.poll() is not None or not ready:
        said = sysfs.read(stem + ".log").splitlines()
        raise DeviceError(f"{spec.name}: nbdfuse did not start: {said[-1] if said else 'no answer in time'}; "
                          f"see: {stem}.log")
    if os.stat(stem).st_size != size_bytes:
        raise DeviceError(f"{spec.name}: nbdfuse shows {os.stat(stem).st_size} bytes, not {size_bytes}; "
                          f"see: {stem}.log")


def detach(attached: Attached, force: bool, host: Host) -> None:
    """Loop device, then nbdfuse: a descriptor held alone through write-back makes the loop let go at once."""
    index = attached.reservation.device_index
    if loop.backing_file(index, host) == attached.mount_path:
        if force:
            _unbind_under_users(attached.kernel_device)
        else:
            with usage.held_exclusively(attached, host) as descriptor:
                usage.write_back(descriptor, attached.name)
                loop.unbind(descriptor)
            if not sysfs.wait_until(lambda: not loop.backing_file(index, host), GONE_PATIENCE_S):
                raise DeviceError(f"{attached.name}: {attached.kernel_device} is still in use; "
                                  f"see: fuser -v {attached.kernel_device}")
    _stop(attached, host, force)


def _unbind_under_users(device: str) -> None:
    descriptor = os.open(device, os.O_RDONLY | os.O_CLOEXEC)
    try:
        loop.unbind(descriptor)
    finally:
        os.close(descriptor)


def _stop(attached: Attached, host: Host, force: bool) -> None:
    """Unmount, and wait until nbdfuse has ended: only then is nothing on its way any more."""
    _unmount(attached.mount_path, lazily=force)
    gone = _wait_for_end(attached, host, GONE_PATIENCE_S if not force else 1.0)
    if not gone and force and is_helper(attached, host):
        os.kill(attached.helper_pid, signal.SIGKILL)
        gone = _wait_for_end(attached, host, GONE_PATIENCE_S)
    if not gone:
        raise DeviceError(f"{attached.name}: nbdfuse (pid {attached.helper_pid}) does not end; "
                          f"see: fuser -v {attached.mount_path}")
    for path in (attached.mount_path, attached.mount_path + ".pid", attached.mount_path + ".log"):
        try:
            os.unlink(path)
        except FileNotFoundError:
            pass


def _unmount(path: str, lazily: bool) -> None:
    """A loop device lets go of its file a moment after it is told to, so this is tried for a while."""
    command = [_program("fusermount3") or "fusermount3", "-u", *(["-z"] if lazily else []), path]

    def unmounted() -> bool:
        return not _is_mounted(path) or subprocess.run(command, capture_output=True, check=False).returncode == 0

    sysfs.wait_until(unmounted, GONE_PATIENCE_S, 0.05)


def _is_mounted(path: str) -> bool:
    """os.path.ismount says no of a mount whose nbdfuse was killed: it cannot look at it any more."""
    try:
        os.lstat(path)
    except OSError as problem:
        return problem.errno == errno.ENOTCONN
    return os.path.ismount(path)


def start_time(pid: int, host: Host) -> int:
    """Clock ticks since boot at which a process began (proc(5), stat, field 22); 0 if it is not there."""
    after_name = sysfs.read(f"{host.proc}/{pid}/stat").rpartition(") ")[2].split()
    return int(after_name[19]) if len(after_name) > 19 else 0


def is_helper(attached: Attached, host: Host) -> bool:
    """Whether that process number is still the nbdfuse we started."""
    return bool(attached.helper_pid) and start_time(attached.helper_pid, host) == attached.helper_started


def _wait_for_end(attached: Attached, host: Host, seconds: float) -> bool:
    """Our child or, after a restart of the engine, somebody else's: a process descriptor tells either way."""
    if not is_helper(attached, host):
        return True
    try:
        descriptor = os.pidfd_open(attached.helper_pid)
    except ProcessLookupError:
        return True
    try:
        deadline = time.monotonic() + seconds
        ended = bool(select.select([descriptor], [], [], max(0.0, deadline - time.monotonic()))[0])
    finally:
        os.close(descriptor)
    if ended:
        try:
            os.waitpid(attached.helper_pid, os.WNOHANG)
        except ChildProcessError:           # started by an earlier engine
            pass
    return ended


def reattach(attached: Attached, host: Host) -> Attached:
    raise DeviceError(f"{attached.name}: a device through nbdfuse does not survive a restart of the engine; "
                      "unmount it, then run: replctl secondary; replctl primary")
