# SPDX-License-Identifier: GPL-2.0-or-later
"""Guests in QEMU: a kernel as the distribution ships it, by KVM where that works, else in an emulated processor."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
from pathlib import Path

from tests.kernel.boot import INSIDE, Boot, NoGuest, mac
from tests.kernel.network import CABLES

PROGRAM = "qemu-system-x86_64"
VARIABLE = "REPLBLOCK_QEMU_ACCEL"
KERNEL = Path(__file__).resolve().parents[2] / ".venv" / "guest"     # tools/guest-kernel makes it
EMULATED = "tcg,thread=multi,tb-size=256"
PROBE_S = 10.0
MACHINE = ["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-M", "q35", "-serial", "stdio"]
WORDS = "console=ttyS0 net.ifnames=0 mitigations=off nokaslr no_timer_check panic=1 quiet"


class Qemu:
    """A virtual machine whose root is this machine's file system over 9p."""

    def __init__(self, accelerator: str) -> None:
        self._accelerator = accelerator

    @property
    def text(self) -> str:
        return f"QEMU with {self._accelerator.partition(',')[0]}"

    def command(self, boot: Boot) -> list[str]:
        words = {"inside": INSIDE, "disk": "/dev/vda", **boot.words}
        command = [
            *_start(self._accelerator), "-m", str(boot.memory_mib),
            "-append", " ".join([WORDS, *(f"guest.{name}={value}" for name, value in words.items())]),
            # What a guest flushes is flushed; what it does not is in the page cache, as with its own cache.
            "-drive", f"file={boot.disk},format=raw,if=none,id=disk,cache=writeback,discard=unmap",
            "-device", "virtio-blk-pci,drive=disk", "-device", "virtio-rng-pci",
            "-fsdev", "local,id=host,path=/,security_model=none,readonly=on,multidevs=remap",
            "-device", "virtio-9p-pci,fsdev=host,mount_tag=host",
        ]  # fmt: skip
        for at, cable in enumerate(CABLES):
            tap = boot.network.tap(boot.number, cable)
            command += ["-netdev", f"tap,id=cable{at},ifname={tap},script=no,downscript=no",
                        "-device", f"virtio-net-pci,netdev=cable{at},mac={mac(boot.number, at)}"]  # fmt: skip
        return command


def _start(accelerator: str) -> list[str]:
    """What every virtual machine here begins with."""
    processor = "host" if accelerator.startswith("kvm") else "Nehalem"
    return [PROGRAM, *MACHINE, "-accel", accelerator, "-cpu", processor,
            "-kernel", str(KERNEL / "vmlinuz"), "-initrd", str(KERNEL / "initrd.gz")]  # fmt: skip


def find_qemu() -> Qemu:
    """Raises NoGuest: it is not installed, or has no kernel to boot."""
    if shutil.which(PROGRAM) is None:
        raise NoGuest(f"no {PROGRAM}: apt-get install qemu-system-x86")
    if not (KERNEL / "made-by").exists():
        raise NoGuest("no kernel for QEMU: run tools/guest-kernel")
    return Qemu(os.environ.get(VARIABLE) or ("kvm" if _kvm_works() else EMULATED))


@functools.cache
def _kvm_works() -> bool:
    """A machine may have /dev/kvm, and no guest ever says a word: only trying tells."""
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return False
    probe = [*_start("kvm"), "-m", "256", "-append", f"{WORDS} guest.probe"]
    try:
        done = subprocess.run(probe, stdin=subprocess.DEVNULL, capture_output=True, timeout=PROBE_S, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return b"guest: alive" in done.stdout
