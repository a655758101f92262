# SPDX-License-Identifier: GPL-2.0-or-later
"""What drbdadm reads we read, and our dump is drbdadm's, byte for byte."""

from __future__ import annotations

from pathlib import Path

import pytest

from replblock.conf import ConfigError, Configuration, dump, load, loads
from tests.conf.oracle import (
    CORPUS,
    GLOBAL_COMMON,
    drbdadm,
    example_resources,
    manual_examples,
    unchecked_addresses,
)

FILES = sorted(path.name for path in CORPUS.glob("*.conf"))
HOSTS = ("alpha", "beta", "dados", "backup", "delta", "nobody")


def same_dump(path: Path, host: str, dialect: str, configuration: Configuration) -> bool:
    """Compare; False if 8.3's drbdadm refuses because it has nothing to do on this host."""
    theirs = drbdadm(dialect, path, host)
    if dialect == "8.3" and theirs.code == 1 and "no normal resources" in theirs.err:
        return False
    assert theirs.code == 0, theirs.err
    assert dump(configuration, host, dialect=dialect) == theirs.out
    return True


@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize("name", FILES)
def test_corpus_dumps_as_drbdadm_does(name: str, host: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_text(unchecked_addresses((CORPUS / name).read_text()))
    configuration = load(str(path))
    assert configuration.dialect == name.removesuffix(".conf")[-3:], configuration.why
    same_dump(path, host, "8.4", load(str(path), dialect="8.4") if name.startswith("everything") else configuration)
    if configuration.dialect == "8.3":
        same_dump(path, host, "8.3", configuration)


@pytest.mark.parametrize("name", FILES)
def test_our_dump_reads_back_as_itself(name: str) -> None:
    configuration = load(str(CORPUS / name))
    again = loads(dump(configuration, "alpha"), name=configuration.file, dialect=configuration.dialect)

    def meaning(text: str) -> list[str]:
        """Without comments, and without the line drbdadm (and we) leave out although it differs from the default."""
        return [line for line in text.splitlines() if not line.startswith("# ") and "cmd-timeout" not in line]

    assert meaning(dump(again, "alpha")) == meaning(dump(configuration, "alpha"))


@pytest.mark.parametrize("dialect", ["8.3", "8.4"])
def test_examples_of_the_manual(dialect: str, tmp_path: Path) -> None:
    """drbd.conf(5) of both dialects. 8.3's page shows `meta-disk DEVICE;`, which 8.3's drbdadm refuses."""
    examples = manual_examples(dialect)
    assert len(examples) >= 3
    for number, text in enumerate(examples):
        path = tmp_path / f"example{number}.conf"
        path.write_text(unchecked_addresses(text))
        configuration = load(str(path))
        compared = same_dump(path, "alice", "8.4", configuration)
        assert compared
        if drbdadm("8.3", path, "alice").code == 0:
            assert same_dump(path, "alice", "8.3", load(str(path), dialect="8.3"))
        else:
            assert "floating" in text or "volume" in text or "net" in text


def test_example_file_of_drbd_utils(tmp_path: Path) -> None:
    """Its 8.4 resources are read; its DRBD 9 ones are refused, with a word about that."""
    taken = 0
    for number, text in enumerate(example_resources()):
        path = tmp_path / f"example{number}.conf"
        lower = ""
        if "stacked-on-top-of alpha-bravo" in text:
            lower = next(other for other in example_resources() if other.startswith("resource alpha-bravo"))
        path.write_text(unchecked_addresses(lower + text))
        theirs = drbdadm("8.4", path, "alpha")
        if theirs.code == 0:
            assert same_dump(path, "alpha", "8.4", load(str(path)))
            taken += 1
        else:
            with pytest.raises(ConfigError, match="DRBD 9"):
                load(str(path))
    assert taken >= 4


def test_debians_own_files(tmp_path: Path) -> None:
    """/etc/drbd.conf's way: a common file and a pattern of resources."""
    (tmp_path / "drbd.d").mkdir()
    (tmp_path / "drbd.d" / "global_common.conf").write_text(GLOBAL_COMMON.read_text())
    (tmp_path / "drbd.d" / "r0.res").write_text((CORPUS / "case-8.3.conf").read_text().split("}\n", 1)[1])
    path = tmp_path / "drbd.conf"
    path.write_text('include "drbd.d/global_common.conf";\ninclude "drbd.d/*.res";\n')
    configuration = load(str(path))
    assert [Path(name).name for name in configuration.files] == ["drbd.conf", "global_common.conf", "r0.res"]
    theirs = drbdadm("8.4", path, "nobody")
    assert theirs.code == 0, theirs.err
    assert dump(configuration, "nobody", dialect="8.4") == theirs.out


def test_the_model_file_is_taken_as_it_is() -> None:
    configuration = load(str(CORPUS / "case-8.3.conf"))
    assert configuration.dialect == "8.3" and "syncer" in configuration.why
    view = configuration.resources["r0"].view("dados")
    assert view.net["protocol"] == "B" and view.disk(0)["resync-rate"] == 102400
    assert view.net["ko-count"] == 0 and view.disk(0)["al-extents"] == 127      # 8.3's defaults
    assert view.startup["degr-wfc-timeout"] == 120 and view.peer.names == ("backup",)


def test_awkward_words_stay_in_quotes(tmp_path: Path) -> None:
    """drbdadm prints them bare and cannot read its own dump then; it can read ours."""
    text = """resource "7" { net { cram-hmac-alg "volume"; shared-secret "10.0.0.1"; verify-alg "timeout"; }
        on "on" { device minor 1; disk "disk"; meta-disk "yes"; address 10.0.0.1:7788; }
        on "12" { device minor 1; disk "resource"; meta-disk internal; address 10.0.0.2:7788; } }"""
    path = tmp_path / "drbd.conf"
    path.write_text(unchecked_addresses(text))
    ours = dump(load(str(path)), "on")
    theirs = drbdadm("8.4", path, "on").out
    assert ours.replace('"', "") == theirs
    path.write_text(theirs)
    assert drbdadm("8.4", path, "on").code == 10
    path.write_text(ours)
    again = drbdadm("8.4", path, "on")
    assert again.code == 0, again.err
    assert again.out.partition("resource 7 {")[2] == theirs.partition("resource 7 {")[2]


def test_without_ours_drbdadm_takes_it(tmp_path: Path) -> None:
    text = """common { replblock { io direct; } }
    resource r {
        replblock { door direct; threads 8; }
        on alpha { device /dev/nbd4; disk /dev/x; meta-disk internal; address 10.0.0.1:7788; replblock { attach nbd; } }
        on beta { device /dev/nbd4; disk /dev/x; meta-disk internal; address 10.0.0.2:7788; }
    }"""
    configuration = loads(unchecked_addresses(text))
    ours = dump(configuration, "alpha")
    assert "door" in ours and "/dev/nbd4 minor 4" in ours
    again = loads(ours).resources["r"].view("alpha")
    assert again.replblock["threads"] == 8 and again.replblock["attach"] == "nbd" and again.replblock["io"] == "direct"
    path = tmp_path / "drbd.conf"
    path.write_text(dump(configuration, "alpha", without_ours=True))
    theirs = drbdadm("8.4", path, "alpha")
    assert theirs.code == 0, theirs.err
    assert "device           minor 4;" in theirs.out
