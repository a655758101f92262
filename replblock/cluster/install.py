# SPDX-License-Identifier: GPL-2.0-or-later
"""Puts files where other programs look for them, remembers in a manifest which they were, and takes them out again.

First a plan is made by looking only; it holds refusals, or steps. A file is ours if the manifest names it with the
contents it has. Anything else in the way is a stranger's: it is never touched without `force`, and then set aside under
the name `…before-replblock` and put back at removal. The manifest is written before the first step and after the last,
so that a run which was cut short can be repeated or taken back.
"""

from __future__ import annotations

import hashlib
import os
import shlex
from collections.abc import Iterable
from typing import NamedTuple

MANIFEST = "/var/lib/replblock/installed"
ASIDE = ".before-replblock"


class Item(NamedTuple):
    """One file or link that is wanted. `path` is absolute as the machine will see it."""

    path: str
    content: bytes = b""
    mode: int = 0o644
    link: str = ""
    """Target, if it is a link."""
    command: str = ""
    """Shell words whose output is the content, for the dry run."""
    optional: bool = False
    """A stranger in the way is then left alone with a note, instead of refusing everything."""

    @property
    def mark(self) -> str:
        return f"link {self.link}" if self.link else f"file {hashlib.sha256(self.content).hexdigest()}"


class Step(NamedTuple):
    """One change of the file system."""

    verb: str  # mkdir, write, link, move, unlink, rmdir
    path: str
    other: str = ""
    item: Item | None = None

    def shell(self) -> str:
        """The same as a command."""
        path, other = shlex.quote(self.path), shlex.quote(self.other)
        if self.verb == "write":
            assert self.item is not None
            if self.item.command:
                executable = f" && chmod {self.item.mode:o} {path}" if self.item.mode != 0o644 else ""
                return f"{self.item.command} > {path}{executable}"
            return f"install -m {self.item.mode:o} {other} {path}"
        return {
            "mkdir": f"mkdir {path}", "link": f"ln -sfn {other} {path}", "move": f"mv {path} {other}",
            "unlink": f"rm {path}", "rmdir": f"rmdir --ignore-fail-on-non-empty {path}",
        }[self.verb]  # fmt: skip

    def apply(self) -> None:
        if self.verb == "mkdir":
            os.makedirs(self.path, mode=0o755, exist_ok=True)
        elif self.verb == "move":
            os.replace(self.path, self.other)
        elif self.verb == "unlink":
            if os.path.lexists(self.path):
                os.unlink(self.path)
        elif self.verb == "rmdir":
            try:
                os.rmdir(self.path)
            except OSError:
                pass  # something else lies in it by now, or it is gone
        else:
            assert self.item is not None
            new = f"{self.path}.new-replblock"
            if os.path.lexists(new):
                os.unlink(new)
            if self.verb == "link":
                os.symlink(self.item.link, new)
            else:
                with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, self.item.mode), "wb") as file:
                    file.write(self.item.content)
                    os.fchmod(file.fileno(), self.item.mode)
                    os.fsync(file.fileno())
            os.replace(new, self.path)


class Plan(NamedTuple):
    """What would be done; nothing, if there are refusals. `manifest` is what will be true afterwards."""

    steps: list[Step]
    refusals: list[str]
    notes: list[str]
    manifest: list[str]


# ---- the manifest: one line an entry, `MARK<tab>PATH`; MARK is `file SHA256`, `link TARGET`, `dir` or `aside`


def read_manifest(root: str) -> list[str]:
    """Its lines; none if there is no manifest."""
    try:
        with open(below(root, MANIFEST), encoding="utf-8", errors="surrogateescape") as file:
            return [line for line in file.read().splitlines() if "\t" in line]
    except FileNotFoundError:
        return []


def write_manifest(root: str, lines: Iterable[str]) -> None:
    """Replace it; without lines it goes, and its directory if that is empty."""
    path = below(root, MANIFEST)
    text = "".join(f"{line}\n" for line in dict.fromkeys(lines))
    if text:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        Step("write", path, item=Item(MANIFEST, text.encode(errors="surrogateescape"))).apply()
    elif os.path.exists(path):
        os.unlink(path)
        Step("rmdir", os.path.dirname(path)).apply()


def below(root: str, path: str) -> str:
    return os.path.join(root, path.lstrip("/"))


def mark_of(path: str) -> str:
    """What is there: `file SHA256`, `link TARGET`, `other`, or nothing at all."""
    if os.path.islink(path):
        return f"link {os.readlink(path)}"
    if os.path.isfile(path):
        with open(path, "rb") as file:
            return f"file {hashlib.sha256(file.read()).hexdigest()}"
    return "other" if os.path.lexists(path) else ""


# ---- plans


def plan_install(root: str, items: Iterable[Item], sources: dict[str, str], force: bool = False) -> Plan:
    """Bring `items` below `root`; what an earlier version installed and this one does not want is taken out."""
    old = read_manifest(root)
    ours = set(old)
    steps: list[Step] = []
    refusals: list[str] = []
    notes: list[str] = []
    manifest: list[str] = [line for line in old if line.startswith(("dir\t", "aside\t"))]
    made: set[str] = set()
    wanted = list(items)
    for item in wanted:
        path, entry = below(root, item.path), f"{item.mark}\t{item.path}"
        found = mark_of(path)
        known = f"{found}\t{item.path}" in ours
        if found == item.mark:
            if known:
                manifest.append(entry)
            continue  # there already; not ours to take away if somebody else put it there
        if found and not known:
            if found == "other":
                refusals.append(f"{path} is in the way and no file")
                continue
            if not force and item.optional:
                notes.append(f"left alone: {path} is not ours (--force sets it aside)")
                continue
            if not force:
                changed = any(line.endswith(f"\t{item.path}") for line in old)
                why = "was changed since it was installed" if changed else "is not ours"
                refusals.append(f"{path} {why}; --force sets it aside")
                continue
            if os.path.lexists(path + ASIDE):
                refusals.append(f"{path + ASIDE} is in the way: something was set aside there before")
                continue
            steps.append(Step("move", path, path + ASIDE))
            manifest.append(f"aside\t{item.path}")
        for directory in reversed(_missing_parents(root, item.path)):
            if directory not in made:
                made.add(directory)
                steps.append(Step("mkdir", below(root, directory)))
                manifest.append(f"dir\t{directory}")
        if item.link:
            steps.append(Step("link", path, item.link, item))
        else:
            steps.append(Step("write", path, sources.get(item.path, ""), item))
        manifest.append(entry)
    paths = {item.path for item in wanted}
    for line in old:
        mark, _, path = line.partition("\t")
        if mark not in ("dir", "aside") and path not in paths and mark_of(below(root, path)) == mark:
            steps.append(Step("unlink", below(root, path)))
    return Plan(steps, refusals, notes, manifest)


def plan_remove(root: str, force: bool = False) -> Plan:
    """Take out what the manifest names. A file that was changed since is left, with a note, unless `force`."""
    old = read_manifest(root)
    steps: list[Step] = []
    notes: list[str] = []
    kept: list[str] = []
    paths: dict[str, list[str]] = {}
    for line in old:
        mark, _, path = line.partition("\t")
        if mark not in ("dir", "aside"):
            paths.setdefault(path, []).append(mark)
    for path, marks in reversed(paths.items()):
        found = mark_of(below(root, path))
        if found in marks:
            steps.append(Step("unlink", below(root, path)))
        elif f"aside\t{path}" in old and not os.path.lexists(below(root, path + ASIDE)):
            continue  # the stranger's own: an earlier run ended before it was set aside, or after it was put back
        elif found and found != "other" and force:
            steps.append(Step("unlink", below(root, path)))
        elif found:
            notes.append(f"left alone: {below(root, path)} was changed since it was installed")
            kept += [f"{mark}\t{path}" for mark in marks]
    left = {line.partition("\t")[2] for line in kept}
    for line in reversed(old):
        mark, _, path = line.partition("\t")
        if mark == "aside" and path in left:
            kept.append(line)
        elif mark == "aside" and os.path.lexists(below(root, path + ASIDE)):
            steps.append(Step("move", below(root, path + ASIDE), below(root, path)))
    directories = [line.partition("\t")[2] for line in old if line.startswith("dir\t")]
    for directory in sorted(directories, key=len, reverse=True):
        steps.append(Step("rmdir", below(root, directory)))
        kept += [f"dir\t{directory}"] if any(path.startswith(directory + "/") for path in left) else []
    return Plan(steps, [], notes, kept)


def carry_out(root: str, plan: Plan) -> None:
    """Do it. Raises OSError; what was done so far stands in the manifest."""
    assert not plan.refusals
    if plan.steps:
        write_manifest(root, [*read_manifest(root), *plan.manifest])
        for step in plan.steps:
            step.apply()
    write_manifest(root, plan.manifest)


def _missing_parents(root: str, path: str) -> list[str]:
    """Directories above `path` that are not there yet, the deepest first."""
    missing = []
    directory = os.path.dirname(path)
    while directory not in ("", "/") and not os.path.isdir(below(root, directory)):
        missing.append(directory)
        directory = os.path.dirname(directory)
    return missing
