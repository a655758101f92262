# SPDX-License-Identifier: GPL-2.0-or-later
"""What is installed, and where: beside a checkout (`LOCAL`), or in a Debian package (`PACKAGE`)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from replblock.cluster.install import Item

HERE = Path(__file__).resolve().parent


class Places(NamedTuple):
    """Directories of the machine."""

    sbin: str
    drbdadm: str
    lib: str
    man: str
    units: str
    udev: str
    completions: str


LOCAL = Places("/usr/local/sbin", "/usr/local/sbin/drbdadm", "/usr/local/lib/replblock", "/usr/local/share/man",
               "/etc/systemd/system", "/etc/udev/rules.d", "/usr/local/share/bash-completion/completions")  # fmt: skip
PACKAGE = Places("/usr/sbin", "/usr/lib/replblock/drbdadm", "/usr/lib/replblock", "/usr/share/man",
                 "/lib/systemd/system", "/lib/udev/rules.d", "/usr/share/bash-completion/completions")  # fmt: skip
"""The name drbdadm belongs to drbd-utils, whose drbdmeta one may well want beside replblock."""
RESOURCE_SCRIPTS = "/etc/ha.d/resource.d"
RESOURCE_AGENTS = "/usr/lib/ocf/resource.d/replblock"
"""Pacemaker looks nowhere else; the last part is the provider."""
OLD_DRBDADM = "/sbin/drbdadm"
"""Where scripts of 2008 call it by its path."""
STANDARD = ("/usr/sbin", "/usr/bin", "/sbin", "/bin", "/usr/local/sbin", "/usr/local/bin")


def links(program: str) -> list[Item]:
    """All that is left to do where a package has put the rest in place: the names that other scripts call."""
    return [Item(LOCAL.drbdadm, link=program), Item(OLD_DRBDADM, link=program, optional=True)]


def items(places: Places, program: str, made: Mapping[str, bytes]) -> tuple[list[Item], dict[str, str]]:
    """Everything for a `replctl` at `program`, and which file each copied item comes from.

    `made` holds what is made from the table of verbs: `completion bash`, `manual PAGE`.
    """
    replctl = program if str(Path(program).parent) in STANDARD else f"{places.sbin}/replctl"
    found: list[Item] = []
    sources: dict[str, str] = {}

    def copy(source: Path, path: str, mode: int) -> None:
        content = source.read_text().replace("@REPLCTL@", replctl).replace("@LIB@", places.lib).encode()
        plain = content == source.read_bytes()
        command = "" if plain else f"sed 's|@REPLCTL@|{replctl}|g; s|@LIB@|{places.lib}|g' {source}"
        found.append(Item(path, content, mode, command=command))
        sources[path] = str(source)

    if replctl != program:
        found.append(Item(replctl, link=program))
    found.append(Item(places.drbdadm, link=replctl))
    if places is LOCAL:
        found.append(Item(OLD_DRBDADM, link=replctl, optional=True))
    copy(HERE / "resource.d" / "replblock", f"{RESOURCE_SCRIPTS}/replblock", 0o755)
    copy(HERE / "ocf" / "replblock", f"{RESOURCE_AGENTS}/replblock", 0o755)
    for source in sorted((HERE / "lib").iterdir()):
        copy(source, f"{places.lib}/{source.name}", 0o755)
    for source in sorted((HERE / "systemd").iterdir()):
        copy(source, f"{places.units}/{source.name}", 0o644)
    for source in sorted((HERE / "udev").iterdir()):
        copy(source, f"{places.udev}/{source.name}", 0o644)
    for words, content in made.items():
        verb, _, name = words.partition(" ")
        path = f"{places.completions}/replctl" if verb == "completion" else f"{places.man}/man{name[-1]}/{name}"
        found.append(Item(path, content, command=f"replctl {words}"))
    return found, sources
