# SPDX-License-Identifier: GPL-2.0-or-later
"""Builds the Debian package with nothing but dpkg-deb: tools/deb.py [--output DIR] [--version VERSION].

The same tree gives the same bytes: times come from SOURCE_DATE_EPOCH or the last commit.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from replblock import __version__  # noqa: E402
from replblock.cli.install import made  # noqa: E402
from replblock.cluster import layout  # noqa: E402

DEBIAN = ROOT / "tools" / "debian"
PROGRAM = "/usr/sbin/replctl"
LIBRARY = "usr/share/replblock"
DOC = "usr/share/doc/replblock"


def put(tree: Path, path: str, content: bytes, mode: int = 0o644) -> None:
    target = tree / path.lstrip("/")
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(content)
    target.chmod(mode)


def fill(tree: Path, version: str, when: int) -> None:
    """All files of the package, without its control data."""
    for package in ("replblock", "nbdkit_plugin"):
        shutil.copytree(ROOT / package, tree / LIBRARY / package, ignore=shutil.ignore_patterns("__pycache__", "*.pyc"))
    put(tree, PROGRAM, (DEBIAN / "replctl").read_bytes(), 0o755)
    wanted, _ = layout.items(layout.PACKAGE, PROGRAM, made())
    for item in wanted:
        if item.link:
            target = tree / item.path.lstrip("/")
            target.parent.mkdir(parents=True, exist_ok=True)
            target.symlink_to(os.path.relpath(item.link, os.path.dirname(item.path)))
        elif "/man/" in item.path:
            put(tree, item.path + ".gz", gzip.compress(item.content, 9, mtime=when))
        else:
            put(tree, item.path, item.content, item.mode)
    put(tree, "etc/default/replblock", (DEBIAN / "default").read_bytes())
    put(tree, f"{DOC}/copyright", (DEBIAN / "copyright").read_bytes())
    day = subprocess.run(["date", "-u", "-R", f"-d@{when}"], capture_output=True, text=True, check=True).stdout.strip()
    log = f"replblock ({version}) unstable; urgency=medium\n\n  * See the history of the repository.\n\n" \
          f" -- replblock <replblock@localhost>  {day}\n"
    put(tree, f"{DOC}/changelog.gz", gzip.compress(log.encode(), 9, mtime=when))
    for source in (ROOT / "README.md", ROOT / "drbd.conf.example", *sorted((ROOT / "docs").glob("*.md"))):
        put(tree, f"{DOC}/{source.name}", source.read_bytes())


def control(tree: Path, version: str) -> None:
    """DEBIAN/: control, md5sums, conffiles, maintainer scripts."""
    files = sorted(path for path in tree.rglob("*") if path.is_file() and not path.is_symlink())
    names = [str(path.relative_to(tree)) for path in files]
    sums = "".join(f"{hashlib.md5(path.read_bytes()).hexdigest()}  {name}\n" for path, name in zip(files, names))
    size_kib = sum((path.stat().st_size + 1023) // 1024 for path in files)
    text = (DEBIAN / "control").read_text().replace("@VERSION@", version).replace("@SIZE@", str(size_kib))
    put(tree, "DEBIAN/control", text.encode())
    put(tree, "DEBIAN/md5sums", sums.encode())
    put(tree, "DEBIAN/conffiles", "".join(f"/{name}\n" for name in names if name.startswith("etc/")).encode())
    for script in ("postinst", "prerm", "postrm"):
        put(tree, f"DEBIAN/{script}", (DEBIAN / script).read_bytes(), 0o755)


def modes(tree: Path, when: int) -> None:
    """Nothing of the builder's umask or clock."""
    for path in (*sorted(tree.rglob("*"), reverse=True), tree):
        if not path.is_symlink():
            path.chmod(0o755 if path.is_dir() or path.stat().st_mode & 0o100 else 0o644)
        os.utime(path, (when, when), follow_symlinks=False)


def epoch() -> int:
    if os.environ.get("SOURCE_DATE_EPOCH"):
        return int(os.environ["SOURCE_DATE_EPOCH"])
    last = subprocess.run(["git", "log", "-1", "--format=%ct"], cwd=ROOT, capture_output=True, text=True)
    return int(last.stdout) if last.returncode == 0 else 0


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--output", type=Path, default=ROOT / "dist")
    parser.add_argument("--version", default=__version__)
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    package = options.output / f"replblock_{options.version}_all.deb"
    when = epoch()
    with tempfile.TemporaryDirectory() as scratch:
        tree = Path(scratch) / "tree"
        tree.mkdir(mode=0o755)
        fill(tree, options.version, when)
        control(tree, options.version)
        modes(tree, when)
        subprocess.run(["dpkg-deb", "--root-owner-group", "-Zxz", "--build", str(tree), str(package)], check=True,
                       stdout=subprocess.DEVNULL, env={**os.environ, "SOURCE_DATE_EPOCH": str(when)})  # fmt: skip
    print(package)


if __name__ == "__main__":
    main()
