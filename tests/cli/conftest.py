# SPDX-License-Identifier: GPL-2.0-or-later
"""A node for the command line: a configuration, a disk and a run directory of its own, nothing of the machine's."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

MIB = 1 << 20
HERE = "here"
DRBDADM = "/lib/drbd/drbdadm-84"
QUIET = {"DRBD_DONT_WARN_ON_VERSION_MISMATCH": "1"}


@dataclass
class Node:
    """One node: `run` calls replctl as a process of its own, as a cluster manager does."""

    directory: Path
    name: str = HERE
    config: Path = field(init=False)
    env: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        self.config = self.directory / "drbd.conf"

    def run(self, *words: str, stdin: str | None = None, config: bool = True, timeout: float = 60) -> Result:
        """`stdin` None is /dev/null."""
        command = [sys.executable, "-m", "replblock.cli.main"]
        if config:
            command += ["-c", str(self.config)]
        return Result(_call([*command, *words], self.environment, stdin, timeout))

    @property
    def environment(self) -> dict[str, str]:
        return os.environ | QUIET | {
            "REPLBLOCK_HOST": self.name,
            "REPLBLOCK_RUN": str(self.directory / "run"),
            "PYTHONPATH": str(Path(__file__).resolve().parents[2]),
        } | self.env  # fmt: skip

    def drbdadm(self, *words: str) -> Result:
        """The same words to drbd-utils' own tool; `{name}` of the configuration must be this machine's for it."""
        return Result(_call([DRBDADM, "-c", str(self.config), *words], os.environ | QUIET, None, 20))


@dataclass
class Result:
    """Of a finished process."""

    done: subprocess.CompletedProcess[str]

    @property
    def code(self) -> int:
        return self.done.returncode

    @property
    def out(self) -> str:
        return self.done.stdout

    @property
    def errors(self) -> list[str]:
        return self.done.stderr.splitlines()

    def __repr__(self) -> str:
        return f"{self.done.args}\nexit code {self.code}\n{self.out}\n{self.done.stderr}"


def _call(
    command: list[str], env: dict[str, str], stdin: str | None, timeout: float
) -> subprocess.CompletedProcess[str]:
    source: dict[str, Any] = {"stdin": subprocess.DEVNULL} if stdin is None else {"input": stdin}
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=timeout, **source)


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    """A node of an 8.3 style pair whose disk is a file of 64 MiB, without metadata."""
    made = Node(tmp_path)
    disk = tmp_path / "disk.img"
    with disk.open("wb") as file:
        file.truncate(64 * MIB)
    made.config.write_text(one_resource(HERE, disk))
    yield made


def one_resource(here: str, disk: Path | str, more: str = "") -> str:
    """The model deployment's configuration, with this node's names."""
    return f"""global {{ usage-count no; disable-ip-verification; }}
resource r0 {{
    protocol B;
    startup {{ wfc-timeout 0; degr-wfc-timeout 120; }}
    disk {{ on-io-error detach; }}
    syncer {{ rate 100M; }}
    net {{ timeout 60; connect-int 10; ping-int 10; after-sb-0pri discard-zero-changes; }}
    {more}
    on {here} {{ device /dev/drbd0; disk {disk}; address 127.0.0.1:7788; meta-disk internal; }}
    on there {{ device /dev/drbd0; disk /dev/sda1; address 127.0.0.2:7788; meta-disk internal; }}
}}
"""


def two_resources(here: str, directory: Path | str) -> str:
    """8.4 style: several volumes, all three places for metadata."""
    return f"""global {{ usage-count no; disable-ip-verification; minor-count 8; }}
common {{
    net {{ protocol C; allow-two-primaries; }}
    startup {{ become-primary-on both; wfc-timeout 3; degr-wfc-timeout 2; }}
}}
resource r1 {{
    net {{ verify-alg md5; }}
    on {here} {{
        address 127.0.0.1:7001;
        volume 0 {{ device /dev/drbd1; disk {directory}/a.img; meta-disk internal; }}
        volume 1 {{ device /dev/drbd2 minor 2; disk {directory}/b.img; meta-disk {directory}/m.img[1]; }}
    }}
    on there {{
        address 127.0.0.2:7001;
        volume 0 {{ device /dev/drbd1; disk /dev/sda1; meta-disk internal; }}
        volume 1 {{ device /dev/drbd2 minor 2; disk /dev/sda2; meta-disk internal; }}
    }}
}}
resource r2 {{
    on {here} {{
        address 127.0.0.1:7002;
        device /dev/drbd3;
        disk {directory}/c.img;
        flexible-meta-disk {directory}/f.img;
    }}
    on there {{ address 127.0.0.2:7002; device /dev/drbd3; disk /dev/sda3; meta-disk internal; }}
}}
"""
