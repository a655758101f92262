# SPDX-License-Identifier: GPL-2.0-or-later
"""Starts the process of a resource: nbdkit with our plugin, detached, and waits until it answers."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

from replblock import paths
from replblock.engine.client import is_up

START_S = 60.0          # one that dies is noticed at once; a busy or emulated machine needs half a minute
POLL_S = 0.01
THREADS = 16
"""nbdkit's threads for one connection: as many requests of it are under way."""
CLEAN_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
SUN_PATH_BYTES = 107
SUPERVISOR = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")
"""Variables by which systemd tells a process how to report to it."""

_children: list[subprocess.Popen[bytes]] = []  # so that a caller that lives on buries them


class LaunchError(RuntimeError):
    """The engine did not come up; one line with what to do."""


def start(
    resource: str, config: str | os.PathLike[str], host: str, run_dir: str | os.PathLike[str],
    plugin: Path | None = None, threads: int = THREADS, resume: bool = False,
) -> int:  # fmt: skip
    """Start the engine of a resource; returns its process number once its control socket answers.

    `resume`: it takes back the device of an engine that died, if the data allows.

    Raises LaunchError, or OSError if the run directory cannot be used.
    """
    run = Path(run_dir).absolute()
    command = _command(resource, Path(config).absolute(), host, run, plugin, threads, "yes" if resume else "")
    log_path = run / f"{resource}.log"
    begun_at = log_path.stat().st_size if log_path.exists() else 0
    _children[:] = [child for child in _children if child.poll() is None]
    with open(log_path, "ab") as log:
        child = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=_environment(),
            cwd="/",
            start_new_session=True,
        )
    _children.append(child)
    _wait(child, resource, run, log_path, begun_at)
    return child.pid


def become(
    resource: str, config: str | os.PathLike[str], host: str, run_dir: str | os.PathLike[str],
) -> None:  # fmt: skip
    """Turn this process into the engine, for a supervisor that wants to watch it; only its errors return.

    If the one before died, it takes back its device, where that is of a kind that survives.
    """
    command = _command(resource, Path(config).absolute(), host, Path(run_dir).absolute(), None, THREADS, "survivor")
    kept = {name: os.environ[name] for name in SUPERVISOR if name in os.environ}
    os.chdir("/")
    os.execve(command[0], command, {**_environment(), **kept})


def _command(resource: str, config: Path, host: str, run: Path, plugin: Path | None, threads: int,
             resume: str) -> list[str]:
    """nbdkit's command line; what a dead engine left in the run directory is out of its way."""
    run.mkdir(mode=0o755, parents=True, exist_ok=True)
    if is_up(run, resource):
        raise LaunchError(f"{resource} is up already; see: replctl status {resource}")
    nbdkit = _nbdkit()
    socket_path = run / f"{resource}.nbd"
    if len(os.fsencode(run / f"{resource}.direct")) > SUN_PATH_BYTES:
        raise LaunchError(f"the path {socket_path} is too long for a socket; use a shorter REPLBLOCK_RUN")
    for path in (socket_path, run / f"{resource}.direct"):
        path.unlink(missing_ok=True)
    (run / f"{resource}.pid").unlink(missing_ok=True)
    try:
        plugin = plugin or paths.plugin_path()
    except FileNotFoundError as error:
        raise LaunchError(str(error)) from None
    return [
        nbdkit, "--foreground", "--unix", str(socket_path), "--pidfile", str(run / f"{resource}.pid"),
        "--threads", str(threads), "python", str(plugin),
        f"resource={resource}", f"config={config}", f"host={host}", f"run={run}",
        *([f"resume={resume}"] if resume else []),
    ]  # fmt: skip


def _wait(child: subprocess.Popen[bytes], resource: str, run: Path, log_path: Path, begun_at: int) -> None:
    end = time.monotonic() + START_S
    while not is_up(run, resource):
        if child.poll() is not None:
            said = _last_line(log_path, begun_at)
            raise LaunchError(f"{resource}: the engine ended at once (exit code {child.returncode}): {said}")
        if time.monotonic() > end:
            child.kill()
            child.wait()
            said = _last_line(log_path, begun_at)
            raise LaunchError(f"{resource}: the engine did not answer within {START_S:g} s: {said}; log: {log_path}")
        time.sleep(POLL_S)


def _last_line(log_path: Path, begun_at: int) -> str:
    """What our own log said last, or else the last line at all (nbdkit's)."""
    try:
        with open(log_path, "rb") as log:
            log.seek(begun_at)
            lines = log.read()[-65536:].decode(errors="replace").splitlines()
    except OSError:
        lines = []
    errors = [line for line in lines if " error " in line or "error:" in line]
    return (errors or lines or [f"nothing was logged in {log_path}"])[-1]


def _environment() -> dict[str, str]:
    """nbdkit's Python finds its library through PATH, and us through PYTHONPATH; nothing else of the caller's.

    Least of all his line to a supervisor: an engine that was left behind must not speak for the unit that called us.
    """
    unwanted = ("PYTHON", "VIRTUAL_ENV", "LD_", *SUPERVISOR)
    kept = {key: value for key, value in os.environ.items() if not key.startswith(unwanted)}
    return {**kept, "PATH": CLEAN_PATH, "PYTHONPATH": paths.python_path(), "LC_ALL": "C.UTF-8"}


@functools.cache
def _nbdkit() -> str:
    """The program, once it is known to embed this version of Python. Raises LaunchError."""
    program = shutil.which("nbdkit", path=CLEAN_PATH)
    if program is None:
        raise LaunchError("nbdkit is not installed; run: apt-get install nbdkit nbdkit-plugin-python")
    found = subprocess.run(
        [program, "python", "--dump-plugin"], capture_output=True, text=True, env={"PATH": CLEAN_PATH}, check=False
    )
    versions = [line.partition("=")[2] for line in found.stdout.splitlines() if line.startswith("python_version=")]
    if found.returncode or not versions:
        said = found.stderr.strip().splitlines()
        if said and "No such file" not in said[-1]:
            raise LaunchError(f"nbdkit cannot start its Python plugin: {said[-1]}; see: nbdkit python --dump-plugin")
        raise LaunchError("nbdkit has no Python plugin; run: apt-get install nbdkit-plugin-python")
    ours = f"{sys.version_info.major}.{sys.version_info.minor}"
    theirs = ".".join(versions[0].split(".")[:2])
    if theirs != ours:
        raise LaunchError(
            f"nbdkit embeds Python {theirs}, this is Python {ours}; make the virtual environment with"
            f" /usr/bin/python{theirs} (make setup)"
        )
    return program
