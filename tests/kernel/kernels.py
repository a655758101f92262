# SPDX-License-Identifier: GPL-2.0-or-later
"""Which kernel the guests boot: User Mode Linux, a kernel that is a program, or else Debian's kernel in QEMU.

`REPLBLOCK_UML` names a User Mode Linux; without it Debian's package user-mode-linux serves if it is new enough. Where
there is none QEMU boots Debian's kernel, ten times slower if it has to emulate the processor.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess

from tests.kernel.boot import INSIDE, Boot, Kernel, NoGuest, mac
from tests.kernel.network import CABLES
from tests.kernel.qemu import find_qemu

VARIABLE = "REPLBLOCK_UML"
OLDEST_UML = (7, 0)         # 6.x runs processes by ptrace only, and panics on processors with wide registers


class UserModeLinux:
    """A kernel that runs as a process, its processes as threads of control of ours: no emulation, no KVM."""

    def __init__(self, program: str, modules: str = "") -> None:
        self._program = program
        self._modules = modules

    @property
    def text(self) -> str:
        return f"User Mode Linux, {self._program}"

    def command(self, boot: Boot) -> list[str]:
        words = {"disk": "/dev/ubda", **({"modules": self._modules} if self._modules else {}), **boot.words}
        return [
            self._program, f"uml_dir={boot.directory}/", "umid=guest", "seccomp=auto", f"mem={boot.memory_mib}M",
            f"ubd0={boot.disk}", "root=/dev/root", "rootfstype=hostfs", "rootflags=/", "ro", f"init={INSIDE}",
            "con=null", "con0=null,fd:1", "con1=null,fd:1", "ssl=null",
            "drbd.minor_count=1",   # a kernel with DRBD built in sets 1 MiB aside for each
            # Without gro a guest receives a hundred times slower.
            *(f"vec{at}:transport=tap,ifname={boot.network.tap(boot.number, cable)},depth=128,gro=1,"
              f"mac={mac(boot.number, at)}" for at, cable in enumerate(CABLES)),
            *(f"guest.{name}={value}" for name, value in words.items()),
        ]  # fmt: skip


def find() -> Kernel:
    """The first way that works here. Raises NoGuest with all the reasons."""
    if os.geteuid() != 0:
        raise NoGuest("guests need root (taps, the whole file system as their root)")
    named = os.environ.get(VARIABLE)
    if named:
        return _uml(named)          # who names one wants to hear what is wrong with it
    packaged = shutil.which("linux.uml")
    reason = f"no linux.uml: set {VARIABLE}=/path/to/linux"
    try:
        if packaged is not None:
            return _uml(packaged)
    except NoGuest as old:
        reason = str(old)
    try:
        return find_qemu()
    except NoGuest as neither:
        raise NoGuest(f"no kernel for guests: {reason}; {neither}") from None


def _uml(program: str) -> UserModeLinux:
    try:
        said = subprocess.run([program, "--version"], capture_output=True, text=True, timeout=20).stdout.strip()
    except (OSError, subprocess.SubprocessError) as problem:
        raise NoGuest(f"{program} cannot be run: {problem}") from problem
    found = re.match(r"(\d+)\.(\d+)", said)
    if found is None:
        raise NoGuest(f"{program} is no User Mode Linux: its --version says {said!r}")
    if (int(found[1]), int(found[2])) < OLDEST_UML:
        raise NoGuest(f"{program} is version {said}: {'.'.join(map(str, OLDEST_UML))} or newer is needed; "
                      f"set {VARIABLE}=/path/to/linux")
    modules = f"/usr/lib/uml/modules/{said}"
    return UserModeLinux(program, modules if os.path.isdir(modules) else "")
