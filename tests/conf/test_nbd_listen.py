# SPDX-License-Identifier: GPL-2.0-or-later
"""`nbd-listen`: what it takes, which node and volume gets what of it, and with what it does not go together."""

from __future__ import annotations

from pathlib import Path

import pytest

from replblock.conf import Address, ConfigError, Configuration, dump, loads
from tests.conf.oracle import drbdadm
from tests.conf.snippets import GLOBAL, HOSTS


def read(body: str, hosts: str = HOSTS, top: str = "", dialect: str | None = None) -> Configuration:
    return loads(f"{GLOBAL}{top}resource r {{\n{body}\n{hosts}}}\n", dialect=dialect)


def on(configuration: Configuration, host: str, resource: str = "r") -> object:
    return configuration.resources[resource].view(host).replblock["nbd-listen"]


@pytest.mark.parametrize("dialect", ["8.3", "8.4"])
@pytest.mark.parametrize(("text", "found", "dumped"), [
    ("127.0.0.1:10809", Address("ipv4", "127.0.0.1", 10809), "127.0.0.1:10809"),
    ("ipv4 0.0.0.0:1", Address("ipv4", "0.0.0.0", 1), "0.0.0.0:1"),
    ("[::1]:10809", Address("ipv6", "::1", 10809), "[::1]:10809"),
    ("ipv6 [0:0::1]:10809", Address("ipv6", "::1", 10809), "[::1]:10809"),
    ("[fe80::1%eth0]:7", Address("ipv6", "fe80::1%eth0", 7), "[fe80::1%eth0]:7"),
    ("none", None, "none"),
])  # fmt: skip
def test_what_it_takes(text: str, found: Address | None, dumped: str, dialect: str, tmp_path: Path) -> None:
    """A dump says it so that it reads the same again; without our section drbdadm takes it."""
    made = read(f"protocol C; replblock {{ door direct; nbd-listen {text}; }}", dialect=dialect)
    assert on(made, "a") == on(made, "b") == found
    printed = dump(made, "a")
    assert f"nbd-listen       {dumped};" in printed
    assert on(loads(printed, dialect=dialect), "a") == found
    path = tmp_path / "drbd.conf"
    path.write_text(dump(made, "a", without_ours=True))
    assert drbdadm(dialect, path, "a").code == 0 and "nbd-listen" not in path.read_text()


@pytest.mark.parametrize(("text", "message"), [
    ("", r":3: nbd-listen without an address; expected ADDRESS:PORT, \[ADDRESS\]:PORT or none"),
    ("127.0.0.1", r":3: nbd-listen '127\.0\.0\.1' without a port"),
    ("127.0.0.1:0", r":3: port 0 out of range \[1\.\.65535\]"),
    ("127.0.0.1:65536", r"out of range"),
    ("127.0.0.1:nbd", r"port 'nbd'; expected a number"),
    ("localhost:10809", r":3: nbd-listen 'localhost' is not an address"),
    ("010.0.0.1:10809", r":3: nbd-listen '010\.0\.0\.1' is not an address"),
    ("10.0.0.256:10809", r"each number must be 0\.\.255"),
    ("[10.0.0.1]:10809", r":3: nbd-listen '\['; expected \[ADDRESS\]:PORT"),
    ("[::g]:10809", r":3: "),
    ("[1:2:::3]:10809", r":3: nbd-listen '1:2:::3' is not an address"),
    ("sdp 10.0.0.1:10809", r":3: nbd-listen 'sdp'; expected ADDRESS:PORT"),
    ("127.0.0.1:10809 none", r":3: found 'none' after '10809'; expected ';'"),
    ("none 127.0.0.1:10809", r":3: found '127\.0\.0\.1' after 'none'"),
    ('"127.0.0.1:10809"', r":3: nbd-listen '127\.0\.0\.1:10809' is not an address"),
])  # fmt: skip
def test_what_it_does_not_take(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as error:
        read(f"replblock {{ door direct; nbd-listen {text}; }}")
    assert "\n" not in str(error.value)


def test_each_node_can_have_its_own() -> None:
    """What stands with a host counts more than what stands in the resource, and that more than `common`."""
    hosts = HOSTS.replace("on a {", "on a { replblock { nbd-listen 10.0.0.1:10809; }")
    top = "common { replblock { door direct; nbd-listen 127.0.0.1:1; } }\n"
    made = read("", hosts, top)
    assert (str(on(made, "a")), str(on(made, "b"))) == ("10.0.0.1:10809", "127.0.0.1:1")
    made = read("replblock { nbd-listen none; }", hosts, top)
    assert (str(on(made, "a")), on(made, "b")) == ("10.0.0.1:10809", None)
    assert "nbd-listen   10.0.0.1:10809;" in dump(made, "a")


@pytest.mark.parametrize("door", ["", "door nbdkit;"])
def test_only_with_the_direct_door(door: str) -> None:
    with pytest.raises(ConfigError, match=r":3: resource r: nbd-listen needs 'door direct', found nbdkit"):
        read(f"replblock {{ {door} nbd-listen 127.0.0.1:10809; }}")
    read(f"replblock {{ {door} nbd-listen none; }}")
    common = "common { replblock { nbd-listen 127.0.0.1:10809; } }\n"
    with pytest.raises(ConfigError, match=r":2: resource r: nbd-listen needs"):
        read(f"replblock {{ {door} }}", top=common)
    read("replblock { door direct; }", top=common)


def test_who_opens_it_to_others_is_told_what_that_means() -> None:
    for address, count in (("127.1.2.3:5", 0), ("[::1]:5", 0), ("10.0.0.1:5", 1), ("0.0.0.0:5", 1), ("[::]:5", 1)):
        made = read(f"replblock {{ door direct; nbd-listen {address}; }}")
        assert len(made.warnings) == count, address
        assert all(f"drbd.conf:3: resource r: NBD on {address} has no authentication" in w for w in made.warnings)


VOLUMES = "volume 0 { device minor 0; disk /dev/x; meta-disk internal; }\n" \
          "volume 7 { device minor 1; disk /dev/y; meta-disk internal; }\n" \
          "on a { address 10.0.0.1:7788; }\non b { address 10.0.0.2:7788; }\n"


def second(address: str, more: str = "") -> str:
    hosts = HOSTS.replace("drbd0", "drbd1").replace("sda1", "sdb1").replace("7788", "7789")
    return f"resource s {{ replblock {{ door direct; nbd-listen {address}; }} {more}\n{hosts}}}\n"


@pytest.mark.parametrize(("address", "other", "clash"), [
    ("127.0.0.1:10809", "127.0.0.1:10809", True), ("127.0.0.1:10809", "127.0.0.1:10810", False),
    ("127.0.0.1:10809", "127.0.0.2:10809", False), ("127.0.0.1:10809", "0.0.0.0:10809", True),
    ("[::]:10809", "[::1]:10809", True), ("[::1]:10809", "[0:0::1]:10809", True),
    ("[::]:10809", "0.0.0.0:10809", False),
    ("10.0.0.1:7788", "127.0.0.1:1", True), ("0.0.0.0:7788", "127.0.0.1:1", True), ("0.0.0.0:7789", "none", True),
    ("127.0.0.1:7788", "none", False),
])  # fmt: skip
def test_a_port_serves_one_volume(address: str, other: str, clash: bool) -> None:
    """Neither two resources of a node can have it, nor the replication of one."""
    text = f"resource r {{ replblock {{ door direct; nbd-listen {address}; }}\n{HOSTS}}}\n{second(other)}"
    if not clash:
        loads(text)
        return
    with pytest.raises(ConfigError, match=r"drbd\.conf:\d: resource .: nbd-listen .*, on [ab]; that is .*\.conf:\d"):
        loads(text)


def test_each_volume_has_its_port() -> None:
    """PORT + the number of the volume, whatever others there are."""
    read("replblock { door direct; nbd-listen 127.0.0.1:10809; }", VOLUMES)
    with pytest.raises(ConfigError, match=r":3: resource r: nbd-listen 127\.0\.0\.1:65530 is 127\.0\.0\.1:65537 for "
                                          r"volume 7, and there are no ports above 65535"):
        read("replblock { door direct; nbd-listen 127.0.0.1:65530; }", VOLUMES)
    with pytest.raises(ConfigError, match=r"is 10\.0\.0\.1:7788 for volume 7, on a; that is the address of resource r"):
        read("replblock { door direct; nbd-listen 10.0.0.1:7781; }", VOLUMES)
    with pytest.raises(ConfigError, match=r"resource s: nbd-listen 127\.0\.0\.1:10816 .* that is nbd-listen of "
                                          r"resource r, volume 7"):
        loads(f"resource r {{ replblock {{ door direct; nbd-listen 127.0.0.1:10809; }}\n{VOLUMES}}}\n"
              + second("127.0.0.1:10816").replace("drbd1", "drbd2").replace("/dev/sdb1", "/dev/z"))
