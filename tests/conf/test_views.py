# SPDX-License-Identifier: GPL-2.0-or-later
"""One node's view: inheritance, defaults, peers; compared with the commands `drbdadm -d up` would run."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from replblock.conf import TABLE, ConfigError, Option, load, loads, unused_notes
from replblock.conf.values import SCALES, SUFFIXES
from tests.conf.oracle import CORPUS, drbdadm, unchecked_addresses

DEEP = """
common { disk { c-min-rate 3M; c-max-rate 5M; resync-rate 1M; on-io-error pass_on; } net { timeout 50; ping-int 6; }
         options { on-no-data-accessible suspend-io; } handlers { split-brain /common; pri-lost /lost; } }
resource r {
  protocol C;
  disk { size 5G; c-max-rate 6M; resync-rate 3M; }
  net { timeout 40; timeout 41; after-sb-0pri discard-node-b; no-tcp-cork; tcp-cork yes; }
  handlers { split-brain /mine; }
  volume 1 { device minor 7; disk { al-extents 77; } meta-disk internal; }
  on a { address 127.0.0.1:5; volume 1 { disk /dev/foo; }
         volume 2 { device minor 8; disk /dev/q; meta-disk /dev/m[4]; disk { al-extents 99; fencing resource-only; } } }
  on b { address 1.2.3.4:6; volume 1 { disk /dev/bar; disk { al-extents 78; } }
         volume 2 { device minor 8; disk /dev/q; flexible-meta-disk /dev/qm; } }
}"""
NAMED: dict[str, Option] = {option.name: option for option in TABLE if option.section in ("disk", "net", "options")}


def typed(name: str, text: str) -> object:
    """A drbdsetup argument as a value of ours."""
    option = NAMED[name]
    if option.kind == "number":
        digits, suffix = re.fullmatch(r"(\d+)([kKmMgGs]?)", text).groups()      # type: ignore[union-attr]
        return -(-int(digits) * SUFFIXES[suffix.lower()] // SCALES[option.scale]) if suffix else int(digits)
    return text == "yes" if option.kind == "bool" else text


def arguments(line: str) -> dict[str, object]:
    pairs = (word[2:].split("=", 1) for word in shlex.split(line) if word.startswith("--"))
    return {name: typed(name, text) for name, text in pairs}


@pytest.mark.parametrize(("text", "host"), [
    (DEEP, "a"), (DEEP, "b"), ((CORPUS / "volumes-8.4.conf").read_text(), "beta"),
    ((CORPUS / "stacked-8.4.conf").read_text(), "delta"), ((CORPUS / "case-8.3.conf").read_text(), "dados"),
    ((CORPUS / "case-8.3.conf").read_text(), "backup"), ((CORPUS / "everything-8.3.conf").read_text(), "alpha")])
def test_as_drbdadm_up_would_configure(text: str, host: str, tmp_path: Path) -> None:
    path = tmp_path / "drbd.conf"
    path.write_text(unchecked_addresses(text))
    theirs = drbdadm("8.4", path, host, "-d", "up", "all")
    assert theirs.code == 0, theirs.err
    configuration = load(str(path), dialect="8.4")
    views = {name: configuration.resources[name].view(host) for name in configuration.resource_names(host)}
    volumes = {volume.minor: volume for view in views.values() for volume in view.volumes.values()}
    seen = 0
    for line in theirs.out.splitlines():
        words = shlex.split(line.split(" --")[0])
        if "attach" in words:
            volume = volumes[int(words[2])]
            assert words[3] == volume.disk
            kind, where = volume.meta_disk.kind, words[5]
            assert where == {"internal": "internal", "flexible": "flexible"}.get(kind, str(volume.meta_disk.index))
            for name, value in arguments(line).items():
                assert name == "resync-after" or volume.options[name] == value, (name, line)
            seen += 1
        elif "connect" in words and views[words[2]].me.proxy is None:      # else: to the proxy's address
            view = views[words[2]]
            assert words[3].endswith(str(view.me.address)) and words[4].endswith(str(view.peer.address))
            for name, value in arguments(line).items():
                assert view.net[name] == value, (name, line)
            seen += 1
    assert seen >= 1


def test_precedence_and_explicit() -> None:
    view = loads(unchecked_addresses(DEEP)).resources["r"].view("a")
    assert view.disk(1)["al-extents"] == 77 and view.disk(2)["al-extents"] == 99
    assert view.disk(2)["fencing"] == "resource-only" and view.disk(1)["fencing"] == "dont-care"
    assert view.disk(1)["c-max-rate"] == 6144 and view.disk(1)["c-min-rate"] == 3072
    assert view.handlers["split-brain"] == "/mine" and view.handlers["pri-lost"] == "/lost"
    assert view.handlers["fence-peer"] is None and view.options["on-no-data-accessible"] == "suspend-io"
    assert view.replblock["door"] == "nbdkit" and view.globals["disable-ip-verification"] is True
    where = view.explicit("net", "ping-int")
    assert where is not None and where.value == 6 and view.explicit("net", "ko-count") is None
    assert view.explicit("disk", "al-extents", 2) is not None and view.explicit("disk", "al-updates", 2) is None
    notes = "\n".join(unused_notes(view))
    assert "tcp-cork" in notes and "timeout" not in notes


def test_volume_beats_resource_host_beats_resource() -> None:
    """Where drbdadm 9.22 lets a resource's disk section override its volume's, and ignores a host's options, we keep
    to the order volume, host, resource, common."""
    text = DEEP.replace("al-extents 77;", "resync-rate 2M;").replace("on a {", "on a { options { cpu-mask 2; }")
    view = loads(text).resources["r"].view("a")
    assert view.disk(1)["resync-rate"] == 2048 and view.disk(2)["resync-rate"] == 3072
    assert view.options["cpu-mask"] == "2"


@pytest.mark.parametrize(("given", "expected"), [
    ("", (0, 0, 0)), ("wfc-timeout 9;", (9, 9, 9)), ("wfc-timeout 9; degr-wfc-timeout 4;", (9, 4, 9)),
    ("wfc-timeout 9; degr-wfc-timeout 30; outdated-wfc-timeout 0;", (9, 9, 9)),
    ("degr-wfc-timeout 120;", (0, 120, 0)), ("wfc-timeout 9; outdated-wfc-timeout 3;", (9, 9, 3))])
def test_no_wait_is_longer_than_wfc_timeout(given: str, expected: tuple[int, int, int]) -> None:
    text = DEEP.replace("handlers { split-brain /mine; }", f"startup {{ {given} }}")
    startup = loads(text).resources["r"].view("a").startup
    assert tuple(startup[name] for name in ("wfc-timeout", "degr-wfc-timeout", "outdated-wfc-timeout")) == expected


def test_floating_is_found_by_address() -> None:
    resource = load(str(CORPUS / "floating-8.4.conf")).resources["f"]
    view = resource.view("whatever", addresses=["127.0.0.1", "10.1.1.31"])
    assert str(view.me.address) == "10.1.1.31:7802" and str(view.peer.address) == "[fe80::1%eth0]:7802"
    assert view.volumes[0].disk == "/dev/sda7" and view.disk()["disk-drain"] is False
    with pytest.raises(ConfigError, match=r"no host section for 'whatever'; it has: floating 10\.1\.1\.31"):
        resource.view("whatever")


def test_stacked_stands_on_the_lower_device() -> None:
    resources = load(str(CORPUS / "stacked-8.4.conf")).resources
    view = resources["upper"].view("beta")
    assert view.volumes[0].disk == "/dev/drbd0" and view.volumes[0].meta_disk.kind == "internal"
    assert view.peer.names == ("delta",)
    assert resources["lower"].view("beta").net["after-sb-0pri"] == "discard-remote"
    assert resources["lower"].view("alpha").net["after-sb-0pri"] == "discard-local"


def test_who_is_missing_is_said() -> None:
    configuration = loads(unchecked_addresses(DEEP))
    resource = configuration.resources["r"]
    with pytest.raises(ConfigError, match="no host section for 'c'; it has: on a; on b"):
        resource.view("c")
    third = ("on c { address 1.2.3.5:6; volume 1 { disk /d; } "
             "volume 2 { device minor 8; disk /e; meta-disk internal; } }")
    three = DEEP.replace("after-sb-0pri discard-node-b;", "").replace("on b {", third + "\n  on b {")
    resource = loads(three).resources["r"]
    with pytest.raises(ConfigError, match="2 host sections for the peer"):
        resource.view("a")
    assert resource.view("a", peer="c").peer.names == ("c",)
    assert loads(three).resource_names("c") == ["r"] and loads(three).resource_names("x") == []
