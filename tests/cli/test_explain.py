# SPDX-License-Identifier: GPL-2.0-or-later
"""`replctl explain --images` on metadata that drbdmeta made: every way to name it, and every way to get it wrong."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from replblock.meta import activity_log
from replblock.meta.geometry import Kind, Placement, internal
from tests.cli.conftest import MIB, Node
from tests.meta.tools import FLEXIBLE, INTERNAL, drbdmeta

A, B, C = (f"{digit * 15}0" for digit in "ABC")
NONE = "0" * 16
GOOD = "1:1:0:0:0:0:0"
LA_SECTORS = 20480              # 10 MiB: 2560 blocks
BM_ROW = "    " + " ".join(["0x{:016X};"] + ["0x0000000000000000;"] * 3) + "\n"


def make(path: Path, gi: str, placement: Placement = INTERNAL, *, bits: int = 0, size: int = 16 * MIB) -> Path:
    """A metadata set by drbdmeta: create-md, a dump with `bits` set and a size put back, set-gi."""
    with path.open("wb") as file:
        file.truncate(size)
    assert drbdmeta(path, placement, "create-md", "--force").exit_code == 0
    dump = drbdmeta(path, placement, "dump-md").out
    dump = re.sub(r"la-size-sect 0;", f"la-size-sect {LA_SECTORS};", dump)
    rows = BM_ROW.format((1 << bits) - 1) + "    1276 times 0x0000000000000000;\n" if bits else ""
    if rows:
        dump = re.sub(r"bm \{.*?\}", "bm {\n" + rows + "}", dump, flags=re.DOTALL)
    text = path.with_suffix(".restore")
    text.write_text(dump)
    done = drbdmeta(path, placement, "restore-md", str(text))
    assert done.exit_code == 0, done
    assert drbdmeta(path, placement, "set-gi", gi).exit_code == 0
    assert drbdmeta(path, placement, "apply-al").exit_code == 0
    return path


def told(node: Node, *words: str) -> dict[str, Any]:
    done = node.run("explain", "--json", "--images", *words)
    assert done.code == 0, done
    (one,) = json.loads(done.out)
    return dict(one)


@pytest.fixture
def two(tmp_path: Path) -> tuple[str, str]:
    """A split brain: 3 blocks against 1."""
    one = make(tmp_path / "one.img", f"{B}:{A}:{NONE}:{NONE}:{GOOD}", bits=3)
    other = make(tmp_path / "other.img", f"{C}:{A}:{NONE}:{NONE}:{GOOD}", bits=1)
    return str(one), str(other)


def test_both_sides_and_every_class_of_roles(node: Node, two: tuple[str, str]) -> None:
    """drbdmeta counts the bits; both orders tell mirror images; with a resource its policy is the configured one."""
    made, back = told(node, *two), told(node, *two[::-1])
    for path, side in zip(two, ("here", "there")):
        dump = drbdmeta(Path(path), INTERNAL, "dump-md").out
        assert f"# bits-set {made[side]['marked-blocks']};" in dump
    assert [made[side]["loses"]["blocks"] for side in ("here", "there")] == [3, 1]
    assert made["here"]["loses"] == back["there"]["loses"]
    assert {tuple(row["primary"]) for row in made["policies"]} == {
        (), ("here",), ("there",), ("here", "there")}
    swap = {"here": "there", "there": "here", None: None}
    mirrored = {"discard-local": "discard-remote", "discard-remote": "discard-local"}

    def ends(one: dict[str, Any], mirror: bool) -> set[Any]:
        found = set()
        for row in one["policies"]:
            loser, value, zero = row["outcome"]["discards"], row["value"], row["after-sb-0pri"]
            primary = row["primary"]
            if mirror:
                loser, value = swap[loser], mirrored.get(value, value)
                zero, primary = mirrored.get(zero, zero), sorted(swap[side] for side in primary)
            found.add((tuple(primary), value, zero, loser, row["outcome"]["what"] == "no-connection"))
        return found

    assert ends(made, False) == ends(back, True)
    assert made["options"] is None and made["forecast"]["policy"]["value"] is None
    assert told(node, *two, "r0")["forecast"]["policy"]["value"] == "discard-zero-changes"


def test_text_fits_a_terminal_and_names_the_commands(node: Node, two: tuple[str, str]) -> None:
    """80 columns; the rule by our name and DRBD's number; what is lost; commands for both ways."""
    out = node.run("explain", "--images", *two, "r0").out
    assert max(len(line) for line in out.splitlines()) <= 80
    for words in ("rule both-moved-on (DRBD's rule 90, uuid_compare 100)", "at most 3 blocks of 4 KiB (12 KiB)",
                  "since when is not known", "* discard-zero-changes", "replctl connect --discard-my-data r0",
                  "To give up what one.img changed:", "To give up what other.img changed:"):
        assert words in out, words


def test_external_metadata(node: Node, tmp_path: Path, two: tuple[str, str]) -> None:
    """flexible is found by itself; an index by its number."""
    gi = f"{C}:{A}:{NONE}:{NONE}:{GOOD}"
    flexible = make(tmp_path / "flex", gi, FLEXIBLE, size=4 * MIB)
    indexed = make(tmp_path / "index", gi, Placement(Kind.INDEXED, 1), size=256 * MIB)
    for word in (str(flexible), f"{flexible}[flexible]", f"{indexed}[1]"):
        made = told(node, two[0], word)
        assert made["there"]["uuids"][:2] == [C, A] and made["forecast"]["rule"] == "both-moved-on"
        assert made["there"]["marked-blocks"] == 0 and made["there"]["loses"]["bound"] == "none"
    assert node.run("explain", "--images", two[0], f"{indexed}[0]").code == 1


def test_a_crashed_primary_brings_its_activity_log(node: Node, tmp_path: Path) -> None:
    """As much is marked as drbdmeta's apply-al marks; the same generation, so the crashed side is the source."""
    one = make(tmp_path / "one.img", f"{A}:{NONE}:{NONE}:{NONE}:1:1:1:0:0:0:0")
    other = make(tmp_path / "other.img", f"{A}:{NONE}:{NONE}:{NONE}:{GOOD}")
    where = internal(one.stat().st_size // 512)
    log = activity_log.pack_transaction(0, [(0, 1)], 0, [activity_log.FREE_EXTENT] * 7, 7)
    with one.open("r+b") as file:
        file.seek(where.al_offset_bytes)
        file.write(log)
        at = where.superblock_offset_bytes + 56
        file.seek(at)
        flags = int.from_bytes(file.read(4), "big") & ~0x80
        file.seek(at)
        file.write(flags.to_bytes(4, "big") + (0x8374026C).to_bytes(4, "big"))
    made = told(node, str(one), str(other))
    assert made["forecast"]["rule"] == "i-crashed" and made["forecast"]["outcome"]["what"] == "sync-from-here"
    assert any("activity log is counted in" in note for note in made["notes"])
    before = one.read_bytes()
    assert drbdmeta(one, INTERNAL, "apply-al").exit_code == 0
    marked = re.search(r"# bits-set (\d+);", drbdmeta(one, INTERNAL, "dump-md").out)
    assert marked is not None and made["here"]["marked-blocks"] == int(marked[1]) > 0
    assert one.read_bytes() != before


def test_nothing_is_written(node: Node, two: tuple[str, str]) -> None:
    before = [Path(path).read_bytes() for path in two]
    node.run("explain", "--images", *two)
    assert [Path(path).read_bytes() for path in two] == before


def test_dumps(node: Node, tmp_path: Path, two: tuple[str, str]) -> None:
    """drbdmeta's text, alone (flags not known) and with get-gi (known); on standard input, too."""
    dumps = [drbdmeta(Path(path), INTERNAL, "dump-md").out for path in two]
    files = [tmp_path / "a.txt", tmp_path / "b.txt"]
    for file, dump in zip(files, dumps):
        file.write_text(dump)
    made, whole = told(node, *map(str, files)), told(node, *two)
    for side in ("here", "there"):
        assert made[side]["uuids"] == whole[side]["uuids"]
        assert made[side]["marked-blocks"] == whole[side]["marked-blocks"]
        assert not made[side]["flags-known"] and whole[side]["flags-known"]
    assert sum("flags" in note for note in made["notes"]) == 2
    stale = dumps[1] + f"{C}:{A}:{NONE}:{NONE}:1:0:0:0:0:0:0\n"
    files[1].write_text(stale)
    assert told(node, *map(str, files))["there"]["disk"] == "Outdated"
    done = node.run("explain", "--json", "--images", str(files[0]), "-", stdin=stale)
    assert json.loads(done.out)[0]["there"]["disk"] == "Outdated"


def test_our_own_dump_and_a_resource_that_is_down(node: Node, two: tuple[str, str]) -> None:
    """The resource's name stands for its metadata."""
    disk = Path(node.directory / "disk.img")
    disk.write_bytes(Path(two[0]).read_bytes())
    other = node.directory / "there.txt"
    other.write_text(node.run("dump-md", "r0").out)
    made = told(node, "r0", two[1], "r0")
    assert made["here"]["uuids"][0] == B and made["here"]["name"] == "here"
    again = told(node, str(other), two[1])
    assert again["here"]["uuids"] == made["here"]["uuids"]
    assert again["here"]["marked-blocks"] == made["here"]["marked-blocks"] == 3


def test_bad_input_is_one_clear_line(node: Node, tmp_path: Path, two: tuple[str, str]) -> None:
    """An exit code that is not 0, one sentence with the name of what is wrong, one with what to do."""
    def file(name: str, text: str | bytes) -> str:
        path = tmp_path / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return str(path)

    dump = drbdmeta(Path(two[0]), INTERNAL, "dump-md").out
    gi = f"{B}:{A}:{NONE}:{NONE}:{GOOD}\n"
    one = two[0]
    for words, code, said in (
        ((one,), 1, "two metadata sets"),
        ((one, two[1], "r0", "more"), 1, "two metadata sets"),
        ((one, one), 1, "named twice"),
        ((one, two[1], "r9"), 1, "'r9' not defined"),
        ((one, "/nowhere/x.img"), 20, "/nowhere/x.img: no such file"),
        ((one, "nothing"), 20, "nothing: no such file, and no resource"),
        ((one, str(tmp_path)), 20, "neither a file nor a block device"),
        ((one, file("zero.img", bytes(4 * MIB))), 1, "zero.img: neither a dump of metadata nor metadata"),
        ((one, file("empty", b"")), 1, "empty: neither a dump of metadata nor metadata"),
        ((one, file("gi.txt", gi)), 10, "gi.txt: get-gi tells the generations, but not how many blocks"),
        ((one, file("cut.txt", dump[:dump.index("times")])), 10, "cut.txt: "),
        ((one, file("mixed.txt", dump + gi.replace(B, C))), 10, "not of the same moment"),
        ((one, file("v09.txt", dump.replace("v08", "v09"))), 10, "only v08"),
        ((one, file("bad.json", "{")), 10, "bad.json: not JSON"),
        ((one, file("other.json", "[1]")), 10, "other.json: not one resource of schema replblock-explain/1"),
        (("-", one), 10, "standard input: neither the output of dump-md nor of explain --json"),
    ):
        done = node.run("explain", "--images", *words)
        assert done.code == code, (words, done)
        assert said in done.errors[0] and "Traceback" not in "".join(done.errors), (words, done)
        assert 1 < len(done.errors) <= 3 and not done.out, (words, done)


def test_a_resource_that_is_down_is_told_how_else(node: Node) -> None:
    """DRBD's sentence and exit code, then both ways on; --json stays JSON."""
    done = node.run("explain", "r0")
    assert done.code == 10 and "(127) Device minor not allocated" in done.errors[0]
    assert "replctl up r0" in done.errors[1] and "explain --images r0 OTHER r0" in done.errors[2]
    assert json.loads(node.run("explain", "--json", "r0").out) == []


def test_help_and_completion(node: Node) -> None:
    """`help explain` tells the forms; bash completes files after --images."""
    text = node.run("help", "explain").out
    assert "explain --images ONE OTHER [RESOURCE]" in text and "FILE[flexible]" in text
    assert max(len(line) for line in text.splitlines()) <= 100
    assert node.run("explain", "--help").out == text
    script = node.directory / "complete.sh"
    script.write_text(node.run("completion", "bash").out + f"""
        cd {node.directory}; touch there.txt
        COMP_WORDS=(replctl explain --images ther); COMP_CWORD=3; _replctl; echo "${{COMPREPLY[*]}}"
        COMP_WORDS=(replctl explain --im); COMP_CWORD=2; _replctl; echo "${{COMPREPLY[*]}}"
    """)
    done = subprocess.run(["bash", str(script)], capture_output=True, text=True, env=node.environment)
    assert done.stdout.splitlines() == ["there.txt", "--images"], done


def test_every_key_of_the_json_is_documented(node: Node, two: tuple[str, str]) -> None:
    """docs/explain.md is the schema: what it does not name must not appear."""
    text = (Path(__file__).resolve().parents[2] / "docs" / "explain.md").read_text()

    def keys(value: Any) -> set[str]:
        if isinstance(value, dict):
            return set(value) | {key for one in value.values() for key in keys(one)}
        return {key for one in value for key in keys(one)} if isinstance(value, list) else set()

    found = keys(told(node, *two, "r0"))
    assert {"uuids", "refused-by", "only-if"} < found
    options = {"after-sb-0pri", "after-sb-1pri", "after-sb-2pri"}
    assert [key for key in sorted(found - options) if f"`{key}`" not in text] == []
