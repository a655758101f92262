# SPDX-License-Identifier: GPL-2.0-or-later
"""The Debian package: its contents, and its life on a machine: this one, with an overlay that takes all writes.

dpkg does what it does on a real machine, maintainer scripts and all; nothing of it reaches the machine below.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
OLD, NEW = "0.0.9", "0.1.0"
SCRIPT = "etc/ha.d/resource.d/replblock"

CONF = """global { usage-count no; disable-ip-verification; }
resource r0 {
    net { protocol C; }
    replblock { attach none; }
    on here { device /dev/drbd0; disk /srv/disk; address 127.0.0.1:17788; meta-disk internal; }
    on there { device /dev/drbd0; disk /srv/disk; address 127.0.0.1:17789; meta-disk internal; }
}
"""


def build(directory: Path, version: str) -> Path:
    command = [sys.executable, str(ROOT / "tools" / "deb.py"), "--output", str(directory), "--version", version]
    made = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert made.returncode == 0, made
    return Path(made.stdout.strip())


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    directory = tmp_path_factory.mktemp("deb")
    return {version: build(directory, version) for version in (OLD, NEW)}


def field(package: Path, name: str) -> str:
    return subprocess.run(["dpkg-deb", "-f", str(package), name], capture_output=True, text=True, check=True).stdout


def test_what_is_in_it(packages: dict[str, Path], tmp_path: Path) -> None:
    """What lintian would look at first."""
    package = packages[NEW]
    listed = subprocess.run(["dpkg-deb", "--contents", str(package)], capture_output=True, text=True, check=True).stdout
    for line in listed.splitlines():
        mode, owner, *_ = line.split()
        assert owner == "root/root", line
        assert mode in ("drwxr-xr-x", "-rw-r--r--", "-rwxr-xr-x", "lrwxrwxrwx"), line
        assert not line.endswith(".pyc") and "__pycache__" not in line and "/usr/local" not in line, line
    tree = tmp_path / "tree"
    subprocess.run(["dpkg-deb", "--raw-extract", str(package), str(tree)], check=True)
    found = {str(path.relative_to(tree)) for path in tree.rglob("*") if path.is_file()}
    for path in ("usr/sbin/replctl", SCRIPT, "usr/lib/ocf/resource.d/replblock/replblock",
                 "lib/systemd/system/replblock@.service", "lib/udev/rules.d/65-replblock.rules",
                 "usr/share/man/man8/replctl.8.gz",
                 "usr/share/doc/replblock/copyright", "usr/share/doc/replblock/changelog.gz",
                 "usr/share/replblock/nbdkit_plugin/replblock.py"):  # fmt: skip
        assert path in found, path
    assert set((tree / "DEBIAN/conffiles").read_text().split()) == {f"/{p}" for p in found if p.startswith("etc/")}
    for line in (tree / "DEBIAN/md5sums").read_text().splitlines():
        wanted, _, name = line.partition("  ")
        assert hashlib.md5((tree / name).read_bytes()).hexdigest() == wanted, name
    sources = {str(p.relative_to(ROOT)) for p in (ROOT / "replblock").rglob("*") if p.is_file() and p.suffix != ".pyc"}
    assert {f"usr/share/replblock/{path}" for path in sources} <= found
    assert all(len(line) <= 80 for line in field(package, "Description").splitlines())
    for script in ("postinst", "prerm", "postrm"):
        assert subprocess.run(["sh", "-n", str(tree / "DEBIAN" / script)]).returncode == 0
    assert not [path for path in found if b"@REPL" + b"CTL@" in (tree / path).read_bytes() and path.startswith(("etc",
                "lib", "usr/lib"))]  # fmt: skip


def test_the_same_tree_gives_the_same_bytes(packages: dict[str, Path], tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        again = build(tmp_path, NEW)
    finally:
        os.umask(before)
    assert again.read_bytes() == packages[NEW].read_bytes()


class Machine:
    """This machine seen through an overlay; `upper` holds what was written."""

    def __init__(self, directory: Path) -> None:
        self.root, self.upper = directory / "root", directory / "layers" / "upper"
        script = f"""set -e
            mkdir -p {directory}/layers {directory}/root
            mount -t tmpfs tmpfs {directory}/layers
            mkdir {directory}/layers/upper {directory}/layers/work
            mount -t overlay overlay -o lowerdir=/,upperdir={self.upper},workdir={directory}/layers/work {self.root}
            mount --rbind /dev {self.root}/dev
            mount -t proc proc {self.root}/proc
            for place in run tmp srv; do mount -t tmpfs tmpfs {self.root}/$place; done
            mkdir -p {self.root}/run/lock
            mount --bind {directory} {self.root}/mnt
            ip link set lo up
            echo ready
            exec cat"""
        self.holder = subprocess.Popen(["unshare", "--mount", "--net", "--pid", "--fork", "--kill-child", "sh", "-c",
                                        script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)  # fmt: skip
        assert self.holder.stdout is not None
        assert self.holder.stdout.readline() == "ready\n", "no overlay over /"
        child = Path(f"/proc/{self.holder.pid}/task/{self.holder.pid}/children").read_text().split()[0]
        self.enter = ["nsenter", "--mount", "--net", "--pid", "--root", "--wd", "--target", child, "chroot",
                      str(self.root)]  # fmt: skip

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "REPLBLOCK_HOST": "here", "LC_ALL": "C.UTF-8",
                       "DEBIAN_FRONTEND": "noninteractive"}  # fmt: skip
        return subprocess.run([*self.enter, *command], env=environment, capture_output=True, text=True, timeout=120,
                              stdin=subprocess.DEVNULL)  # fmt: skip

    def do(self, *command: str) -> str:
        done = self.run(*command)
        assert done.returncode == 0, done
        return done.stdout + done.stderr

    def written(self) -> set[str]:
        """Files of ours that are new or changed, by the overlay's upper layer; dpkg's own books are not ours."""
        listed = subprocess.run([*self.enter[:-2], "find", str(self.upper), "!", "-type", "d", "-printf", "%P\\n"],
                                capture_output=True, text=True, check=True).stdout  # fmt: skip
        books = ("var/lib/dpkg/", "var/log/", "var/cache/", "var/lib/systemd/")
        return {path for path in listed.split() if not path.startswith(books)}

    def close(self) -> None:
        assert self.holder.stdin is not None and self.holder.stdout is not None
        self.holder.stdin.close()
        self.holder.wait(timeout=20)
        self.holder.stdout.close()


@pytest.fixture
def machine(tmp_path: Path, packages: dict[str, Path]) -> Iterator[Machine]:
    for version, package in packages.items():
        (tmp_path / f"{version}.deb").write_bytes(package.read_bytes())
    made = Machine(tmp_path)
    yield made
    made.close()


@pytest.mark.root
@pytest.mark.netns
@pytest.mark.slow
def test_a_packages_life(machine: Machine) -> None:
    """Installed, used, upgraded under a running resource, not removed while that is in use, removed, purged."""
    before = machine.written()
    machine.do("dpkg", "-i", f"/mnt/{OLD}.deb")
    assert "REPLBLOCK_VERSION" in machine.do("replctl", "--version")
    assert "replctl" in machine.do("man", "--where", "replctl")
    assert machine.run("/etc/ha.d/resource.d/replblock", "r0", "status").returncode == 3
    assert machine.do("bash", "-c", ". /usr/share/bash-completion/completions/replctl; complete -p replctl")
    assert (machine.run("readlink", "-f", "/usr/lib/replblock/drbdadm").stdout) == "/usr/sbin/replctl\n"

    write = machine.run("sh", "-c", f"cat > /etc/drbd.conf <<'X'\n{CONF}X\ntruncate -s 64M /srv/disk")
    assert write.returncode == 0, write
    machine.do("replctl", "create-md", "r0")
    machine.do("replctl", "up", "r0")
    machine.do("replctl", "primary", "--force", "r0")
    first = machine.do("cat", "/run/replblock/r0.pid")

    said = machine.do("dpkg", "-i", f"/mnt/{NEW}.deb")
    assert "still served by the version before: r0" in said
    assert machine.do("cat", "/run/replblock/r0.pid") == first
    assert machine.do("replctl", "role", "r0") == "Primary/Unknown\n", "the new replctl and the old engine"
    assert machine.do("/etc/ha.d/resource.d/replblock", "r0", "stop") is not None

    linked = machine.do("replctl", "install-scripts")
    assert "files put in place" in linked
    assert machine.do("readlink", "/usr/local/sbin/drbdadm") == "/usr/sbin/replctl\n"
    assert "-> replctl" not in machine.do("ls", "-l", "/sbin/drbdadm"), "drbd-utils' own is left alone"

    machine.do("replctl", "primary", "r0")
    uri = machine.do("replctl", "sh-nbd", "r0").strip()
    hold = "import nbd, sys; h = nbd.NBD(); h.connect_uri(sys.argv[1]); print('open', flush=True); input()"
    holder = subprocess.Popen([*machine.enter, "/usr/bin/python3", "-c", hold, uri],
                              stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)  # fmt: skip
    try:
        assert holder.stdout is not None and holder.stdout.readline() == "open\n"
        refused = machine.run("dpkg", "-r", "replblock")
        assert refused.returncode != 0 and "r0 is in use; the package stays" in refused.stderr
        assert machine.do("replctl", "role", "r0") == "Primary/Unknown\n"
    finally:
        holder.communicate("\n", timeout=30)
    machine.do("dpkg", "-i", f"/mnt/{NEW}.deb")
    machine.do("sh", "-c", "echo PEER_WAIT=3 >> /etc/default/replblock")
    machine.do("dpkg", "-r", "replblock")
    assert machine.run("test", "-e", "/run/replblock/r0.ctl").returncode == 1
    assert machine.run("which", "replctl").returncode == 1
    assert machine.run("test", "-L", "/usr/local/sbin/drbdadm").returncode == 1, "the links go with what they lead to"
    assert "PEER_WAIT=3" in machine.do("cat", "/etc/default/replblock"), "removal keeps the administrator's settings"
    machine.do("dpkg", "--purge", "replblock")
    left = machine.written() - before - {"etc/drbd.conf"}
    assert not {path for path in left if "replblock" in path or "replctl" in path}, left
    assert machine.run("test", "-e", "/run/replblock").returncode == 1
