# SPDX-License-Identifier: GPL-2.0-or-later
"""Every error says where, what was found, what was expected; one line."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from replblock.conf import ConfigError, default_paths, find_default, load, loads
from replblock.conf.dialect import detect
from tests.conf.snippets import HOSTS

BAD = [
    # in the resource (line 2 of the file), message
    ("disk { rate 5M; }",
     r"drbd\.conf:2: 'rate' is not an option of section disk; did you mean 'resync-rate'\?.*syncer"),
    ("net { timout 5; }", r":2: 'timout' is not an option of section net; did you mean 'timeout'\?"),
    ("net { fencing resource-only; }", r":2: 'fencing' is not an option of section net; it belongs in section disk"),
    ("net { resync-rat 5; }", r"did you mean 'resync-rate' of section disk\?"),
    ("net { after-sb-0pri discard-zero-change; }", r"did you mean 'discard-zero-changes'\?"),
    ("net { timeout 601; }", r":2: timeout 601 out of range \[1\.\.600\] \(0\.1 s\)"),
    ("net { timeout 60\n ping-int 10; }", r":2: ';' missing after 'timeout 60'"),
    ("net { timeout 60 }", r":2: ';' missing after 'timeout 60', before '}'"),
    ("net { timeout 60; ", r":3: 'on' inside section net; is the '}' of line 2's section missing\?"),
    ('net { shared-secret "abc; }', r":2: string without its closing"),
    ("nett { }", r"unexpected 'nett' in resource r; did you mean 'net'\?"),
    ("net { quorum majority; }", r"it belongs to DRBD 9, replblock speaks 8\.4"),
    ("quorum majority;", r"it belongs to DRBD 9"),
    ("replblock { dor nbdkit; }", r":2: 'dor' is not an option of section replblock; did you mean 'door'\?"),
    ("replblock { door kitchen; }", r":2: door 'kitchen'; expected nbdkit \| direct"),
    ("replblock { threads 0; }", r":2: threads 0 out of range \[1\.\.64\]"),
    ("net { protocol A; allow-two-primaries; }",
     r":2: resource r: allow-two-primaries needs protocol C, found A \(139\)"),
    ("net { on-congestion pull-ahead; protocol C; }", r"on-congestion pull-ahead needs protocol A, found C \(155\)"),
    ("protocol A; disk { fencing resource-and-stonith; }", r"does not go with protocol A \(154\)"),
    ("net { after-sb-0pri discard-node-x; }", r"names no host of the resource; expected one of: a, b"),
    ("net { shared-secret " + "s" * 64 + "; }", r"shared-secret is longer than 63 bytes"),
    ("net { shared-secret " + "s" * 5000 + "; }", r"word 's{40}\.\.\.' has 5000 characters, at most 128"),
    ('net { shared-secret "' + "s" * 300 + '"; }', r"has 300 characters, at most 255"),
    ("net { x\0y; }", r":2: binary data"),
    ("{ }", r"'\{' without the name of a section"),
    ("net { a { a { a { a { a { a { a { a { a { a { a { a { a { a { a { a { a {", r"nested deeper than 16"),
]


@pytest.mark.parametrize(("snippet", "message"), BAD, ids=range(len(BAD)))
def test_message(snippet: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        loads(f"resource r {{\n{snippet}\n{HOSTS}}}\n")
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400


def second(minor: int = 1, disk: str = "/dev/y", port: int = 7, meta: str = "internal", name: str = "s") -> str:
    return f"""resource {name} {{
      on a {{ device minor {minor}; disk {disk}; address 10.0.0.1:{port}; meta-disk {meta}; }}
      on b {{ device minor 9; disk /dev/z; address 10.0.0.2:7; meta-disk internal; }} }}"""


@pytest.mark.parametrize(("text", "message"), [
    (second(minor=0), r"conf:6: conflicting use of device minor '0' on a in resource s.*first in resource r.*conf:2"),
    (second(disk="/dev/sda1"), r"conflicting use of disk '/dev/sda1' on a"),
    (second(port=7788), r"conflicting use of address 10\.0\.0\.1:7788"),
    (second(name="r"), r"conf:5: conflicting use of resource 'r': first at drbd\.conf:1"),
])
def test_used_twice(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        loads(f"resource r {{\n{HOSTS}}}\n{text}")


def test_metadata_slot_used_twice() -> None:
    first = second(meta="/dev/m[1]")
    other = second(minor=2, disk="/dev/w", port=8, meta="/dev/m[1]", name="t").replace(":7;", ":9;").replace(
        "minor 9", "minor 8").replace("/dev/z", "/dev/v")
    with pytest.raises(ConfigError, match=r"conflicting use of meta-disk '/dev/m\[1\]' on a"):
        loads(first + other)
    loads(first + other.replace("/dev/m[1]", "/dev/m[2]"))


def test_83_style_hints() -> None:
    """An 8.3 file is held to 8.3's words, and the message says why."""
    text = f"resource r {{\nprotocol C; syncer {{ rate 5M; %s }} %s\n{HOSTS}}}\n"
    assert loads(text % ("", "")).dialect == "8.3"
    with pytest.raises(ConfigError, match=r"'resync-rate' is not an option of section syncer; this file is 8\.3 style, "
                                          r"where it is syncer \{ rate"):
        loads(text % ("resync-rate 5M;", ""))
    with pytest.raises(ConfigError, match=r"has no protocol, nor has common"):
        loads(f"resource r {{ syncer {{ rate 5M; }}\n{HOSTS}}}\n")
    with pytest.raises(ConfigError, match=r"meta-disk '/dev/m' without an index; this file is 8\.3 style"):
        loads((text % ("", "")).replace("internal", "/dev/m"), dialect="8.3")


@pytest.mark.parametrize(("snippet", "dialect"), [
    ("", "8.4"), ("protocol C;", "8.4"), ("protocol C; syncer { rate 5M; }", "8.3"),
    ("protocol C; disk { no-md-flushes; }", "8.3"),
    ("syncer { rate 5M; } options { }", "8.4"), ("syncer { rate 5M; } net { protocol A; }", "8.4"),
    ("syncer { use-rle yes; }", "8.4"), ("syncer { rate 5M; } disk { md-flushes no; }", "8.4"),
    ("syncer { rate 5M; } replblock { tls yes; } protocol C;", "8.3")])
def test_dialect(snippet: str, dialect: str) -> None:
    configuration = loads(f"resource r {{\n{snippet}\n{HOSTS}}}\n")
    assert (configuration.dialect, bool(configuration.why)) == (dialect, True)
    assert detect("/etc/drbd-83.conf", [])[0] == "8.3" and detect("/etc/drbd-84.conf", [])[0] == "8.4"


def test_warnings_do_not_stop() -> None:
    body = f"net {{ timeout 100; }} disk {{ resync-after q; }} ignore-on c;\n{HOSTS}"
    configuration = loads(f"resource r {{ {body} }}\nglobal {{ }}")
    text = "\n".join(configuration.warnings)
    for part in ("global section should stand before", "'q' of resync-after is not known", "ignore-on is deprecated",
                 "should be less than connect-int"):
        assert part in text
    assert configuration.resources["r"].view("a").disk()["resync-after"] is None


def test_includes(tmp_path: Path) -> None:
    main = tmp_path / "main.conf"
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "b.res").write_text(f'include "../main.conf"; resource r {{\n{HOSTS}}}\n')
    (tmp_path / "d" / "a.res").write_text('include "b.res";\nglobal { }')
    main.write_text('include "d/*.res"; include "none*"; include "d/a.res";')
    configuration = load(str(main))
    assert [Path(name).name for name in configuration.files] == ["main.conf", "a.res", "b.res"]
    (tmp_path / "d" / "b.res").write_text("resource r {\nnet { bad; } }")
    with pytest.raises(ConfigError) as caught:
        load(str(main))
    assert caught.value.file.endswith("b.res") and caught.value.line == 2


def test_unreadable_files(tmp_path: Path) -> None:
    path = tmp_path / "drbd.conf"
    with pytest.raises(ConfigError, match=r"drbd\.conf: cannot read the configuration: No such file"):
        load(str(path))
    with pytest.raises(ConfigError, match=r"Is a directory"):
        load(str(tmp_path))
    path.write_text('\ninclude "x.conf";')
    with pytest.raises(ConfigError, match=r"drbd\.conf:2: cannot read included file '.*x\.conf': No such file"):
        load(str(path))

    def denied(name: str) -> bytes:
        raise PermissionError(13, "Permission denied", name)

    with pytest.raises(ConfigError, match=r"/etc/drbd\.conf: cannot read the configuration: Permission denied"):
        load("/etc/drbd.conf", reader=denied)
    path.write_bytes(b"x" * (5 << 20))
    with pytest.raises(ConfigError, match="larger than 4 MiB"):
        load(str(path))


def test_endless_includes_end() -> None:
    count = itertools.count()

    def reader(path: str) -> bytes:
        return f'include "file{next(count)}.conf";'.encode()

    with pytest.raises(ConfigError, match=r"nested deeper than|more than"):
        load("/x/file.conf", reader=reader)


def test_standard_input() -> None:
    configuration = load("-", reader={"-": f"resource r {{\n{HOSTS}}}".encode()}.__getitem__)
    assert configuration.file == "STDIN" and configuration.resources["r"].file == "STDIN"


def test_search_path() -> None:
    assert default_paths()[0] == "/etc/drbd-84.conf" and default_paths()[-1] == "/etc/drbd.conf"

    def only_83(path: str) -> bytes:
        if path != "/etc/drbd-83.conf":
            raise FileNotFoundError(2, "No such file or directory")
        return b""

    assert find_default(only_83) == "/etc/drbd-83.conf"
    with pytest.raises(ConfigError, match=r"no configuration found; looked for /etc/drbd-84\.conf"):
        find_default(lambda path: Path("/nonexistent" + path).read_bytes())
