#!/usr/bin/python3 -I
# SPDX-License-Identifier: GPL-2.0-or-later
"""Process 1 of a guest: makes it a machine of its own out of the files it was booted on, then runs what it is told.

Nothing but Python's own library, and nothing of the project: it must run on a kernel that has just booted. What it has
to know stands on the kernel's command line as `guest.WORD=VALUE`.

    stage 1     the root is the host's file system, read-only: an overlay of memory over it becomes the new root
    stage 2     mounts, name, network, then commands: one TCP connection each

With `guest.init=systemd` process 1 becomes systemd after that, and what takes commands a service of it.

A request is one line of JSON, {"argv": [...], "timeout": seconds, "env": {...}}. The answer is a run of frames, a kind
(o, e: output; x: exit code, the last one) and four bytes of length before each. If the connection breaks, the command
and its process group are killed.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import selectors
import shutil
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import traceback
from pathlib import Path

FRAME = struct.Struct(">cI")
PORT = 22
MS_RDONLY, MNT_DETACH, SYS_PIVOT_ROOT = 1, 2, 155
PIECE_BYTES = 1 << 16
libc = ctypes.CDLL(None, use_errno=True)


def mount(kind: str, source: str, target: str, options: str = "", flags: int = 0) -> None:
    os.makedirs(target, exist_ok=True)
    if libc.mount(source.encode(), target.encode(), kind.encode(), flags, options.encode() or None):
        problem = ctypes.get_errno()
        raise OSError(problem, f"mount -t {kind} {source} {target}: {os.strerror(problem)}")


def parameters() -> dict[str, str]:
    words = Path("/proc/cmdline").read_text().split()
    pairs = (word.removeprefix("guest.").partition("=") for word in words if word.startswith("guest."))
    return {name: value for name, _, value in pairs}


def overlay_root() -> None:
    """Stage 1: everything written from now on is in memory."""
    mount("tmpfs", "tmpfs", "/mnt")
    for name in ("upper", "work", "root"):
        os.mkdir(f"/mnt/{name}")
    mount("overlay", "overlay", "/mnt/root", "lowerdir=/,upperdir=/mnt/upper,workdir=/mnt/work")
    os.makedirs("/mnt/root/oldroot", exist_ok=True)
    os.chdir("/mnt/root")
    if libc.syscall(SYS_PIVOT_ROOT, b".", b"oldroot"):
        raise OSError(ctypes.get_errno(), "pivot_root")
    os.chroot(".")
    os.execv(sys.argv[0], [sys.argv[0], "stage2"])


def furnish(said: dict[str, str]) -> None:
    """Stage 2: what a machine has when its services may start."""
    libc.umount2(b"/oldroot", MNT_DETACH)
    mount("sysfs", "sysfs", "/sys")
    mount("devtmpfs", "devtmpfs", "/dev")
    mount("devpts", "devpts", "/dev/pts")
    for place in ("/dev/shm", "/run", "/mnt"):
        mount("tmpfs", "tmpfs", place)
    os.mkdir("/run/lock")
    for name, target in (("fd", "/proc/self/fd"), ("stdin", "fd/0"), ("stdout", "fd/1"), ("stderr", "fd/2")):
        with contextlib.suppress(FileExistsError):
            os.symlink(target, f"/dev/{name}")
    os.symlink(said["disk"], "/dev/guestdisk")
    if "modules" in said:
        os.makedirs("/lib/modules", exist_ok=True)
        with contextlib.suppress(FileExistsError):
            os.symlink(said["modules"], f"/lib/modules/{os.uname().release}")
    socket.sethostname(said["name"])
    Path("/etc/hostname").write_text(said["name"] + "\n")
    hosts = "".join(line.replace("=", " ") + "\n" for line in said["hosts"].split(","))
    Path("/etc/hosts").write_text("127.0.0.1 localhost\n" + hosts)
    call("ip", "link", "set", "lo", "up")
    for number, spec in enumerate(said["net"].split(",")):      # eth0=10.0.0.1/24,…
        name, _, address = spec.partition("=")
        now = next(form for form in (f"vec{number}", f"eth{number}") if os.path.exists(f"/sys/class/net/{form}"))
        if now != name:
            call("ip", "link", "set", now, "name", name)
        call("ip", "address", "add", address, "broadcast", "+", "dev", name)
        call("ip", "link", "set", name, "up")


def call(*command: str) -> None:
    subprocess.run(command, check=True)


# ---- systemd

SYSTEMD = "/lib/systemd/systemd"
COMMANDS_UNIT = """\
[Unit]
Description=Commands from outside
[Service]
ExecStart={python} -I {program} serve {address}
# What a command leaves running lives on.
KillMode=process
OOMScoreAdjust=-1000
"""


def become_systemd(said: dict[str, str]) -> None:
    """Of the services of the machine whose files these are, none: it boots what is the package's own choice."""
    etc = Path("/etc/systemd/system")
    for place in etc.glob("*.wants"):
        shutil.rmtree(place)
    Path("/etc/systemd/system-generators").mkdir(exist_ok=True)
    Path("/etc/systemd/system-generators/systemd-sysv-generator").symlink_to("/dev/null")
    for unit in ("systemd-tmpfiles-setup.service", "systemd-tmpfiles-clean.timer"):     # /tmp is the host's, and large
        (etc / unit).symlink_to("/dev/null")
    if not Path("/etc/machine-id").exists():
        Path("/etc/machine-id").write_text(said["name"].encode().hex().ljust(32, "0") + "\n")
    text = COMMANDS_UNIT.format(python="/usr/bin/python3", program=sys.argv[0], address=said["control"])
    (etc / "guest-commands.service").write_text(text)
    wanted = etc / "multi-user.target.wants"
    wanted.mkdir()
    (wanted / "guest-commands.service").symlink_to("../guest-commands.service")
    os.execv(SYSTEMD, [SYSTEMD, "--unit=multi-user.target"])


# ---- commands


def serve(address: str) -> None:
    listener = socket.create_server((address, PORT))
    print("guest: ready", flush=True)
    while True:
        link, _ = listener.accept()
        threading.Thread(target=answer, args=(link,), daemon=True).start()


def answer(link: socket.socket) -> None:
    with link:
        try:
            run(link)
        except Exception as problem:
            with contextlib.suppress(OSError):
                text = traceback.format_exc().encode()
                code = 127 if isinstance(problem, FileNotFoundError) else 126
                link.sendall(FRAME.pack(b"e", len(text)) + text + FRAME.pack(b"x", 4) + struct.pack(">i", code))


def run(link: socket.socket) -> None:
    data = b""
    while not data.endswith(b"\n"):
        piece = link.recv(PIECE_BYTES)
        if not piece:
            return
        data += piece
    request = json.loads(data)
    child = subprocess.Popen(
        request["argv"], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        start_new_session=True, env={**os.environ, **request["env"]}, cwd="/",
    )  # fmt: skip
    assert child.stdout is not None and child.stderr is not None
    with contextlib.suppress(OSError):
        Path(f"/proc/{child.pid}/oom_score_adj").write_text("0")
    ended = os.pidfd_open(child.pid)
    try:
        watch(link, child, ended, time.monotonic() + request["timeout"])
        code = child.wait()
        link.sendall(FRAME.pack(b"x", 4) + struct.pack(">i", code if code >= 0 else 128 - code))
    finally:
        os.close(ended)
        child.stdout.close()
        child.stderr.close()
        child.poll()


def watch(link: socket.socket, child: subprocess.Popen[bytes], ended: int, deadline: float) -> None:
    """Pass on what the command says until it has ended; what daemons of it still hold open is not waited for."""
    pipes = {child.stdout.fileno(): b"o", child.stderr.fileno(): b"e"}  # type: ignore[union-attr]
    with selectors.DefaultSelector() as ready:
        for descriptor in (*pipes, ended, link.fileno()):
            ready.register(descriptor, selectors.EVENT_READ)
        for descriptor in pipes:
            os.set_blocking(descriptor, False)
        over = False
        while not over:
            found = {key.fd for key, _ in ready.select(max(0.0, deadline - time.monotonic()))}
            over = ended in found
            if not found or link.fileno() in found:     # too late, or nobody listens any more
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(child.pid, signal.SIGKILL)
                ready.unregister(link.fileno())
                over = True
                child.wait()
            for descriptor in (list(pipes) if over else found & pipes.keys()):
                if not pass_on(link, descriptor, pipes[descriptor]):
                    ready.unregister(descriptor)
                    del pipes[descriptor]


def pass_on(link: socket.socket, descriptor: int, kind: bytes) -> bool:
    """Everything that is in the pipe now; False at its end."""
    while True:
        try:
            data = os.read(descriptor, PIECE_BYTES)
        except BlockingIOError:
            return True
        if not data:
            return False
        link.sendall(FRAME.pack(kind, len(data)) + data)


def main() -> None:
    os.environ.update(PATH="/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", HOME="/root",
                      LC_ALL="C.UTF-8", PYTHONDONTWRITEBYTECODE="1")  # fmt: skip
    if sys.argv[1:2] == ["serve"]:
        serve(sys.argv[2])
    mount("proc", "proc", "/proc")      # in both stages: what is seen there is the host's
    if sys.argv[1:] != ["stage2"]:
        overlay_root()
    said = parameters()
    furnish(said)
    if said.get("init") == "systemd":
        become_systemd(said)
    if os.fork() == 0:
        Path("/proc/self/oom_score_adj").write_text("-1000")    # a guest short of memory can still be asked
        serve(said["control"])
    while True:                 # process 1 buries everybody's orphans
        try:
            os.wait()
        except ChildProcessError:
            time.sleep(1)


if __name__ == "__main__":
    try:
        main()
    except BaseException:
        traceback.print_exc()
        print("guest: could not start", flush=True)
        time.sleep(1)
        raise
