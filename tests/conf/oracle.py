# SPDX-License-Identifier: GPL-2.0-or-later
"""drbdadm of Debian's drbd-utils as the other opinion, and the files on which both are asked.

drbdadm takes its host name from __DRBD_NODE__ if that is set. `disable-ip-verification` keeps it from asking
whether this machine has the address of the host it pretends to be.
"""

from __future__ import annotations

import gzip
import os
import re
import subprocess
from pathlib import Path
from typing import NamedTuple

CORPUS = Path(__file__).parent / "corpus"
EXAMPLES_84 = Path("/usr/share/doc/drbd-utils/examples/drbd.conf.example")
GLOBAL_COMMON = Path("/etc/drbd.d/global_common.conf")
TOOLS = {"8.3": "/lib/drbd/drbdadm-83", "8.4": "/lib/drbd/drbdadm-84"}
GLOBAL = "global { disable-ip-verification; usage-count no; }\n"


class Answer(NamedTuple):
    code: int
    out: str
    err: str


def drbdadm(dialect: str, path: Path, host: str, *verb: str) -> Answer:
    """Run `drbdadm -c PATH VERB` of that dialect as if on that host."""
    run = subprocess.run([TOOLS[dialect], "-c", str(path), *(verb or ("dump",))], capture_output=True, timeout=60,
                         env={**os.environ, "__DRBD_NODE__": host}, check=False)
    return Answer(run.returncode, run.stdout.decode("utf-8", "surrogateescape"),
                  run.stderr.decode("utf-8", "surrogateescape"))


def accepts(dialect: str, path: Path, host: str) -> bool:
    """Whether drbdadm takes the file. 8.3's also leaves with 1 if it has nothing to do on this host."""
    answer = drbdadm(dialect, path, host)
    return answer.code == 0 or (answer.code == 1 and "no normal resources defined" in answer.err)


def unchecked_addresses(text: str) -> str:
    """The same configuration, with drbdadm told not to look for its addresses on this machine."""
    if re.search(r"^\s*global\s*\{", text, re.MULTILINE):
        return re.sub(r"global\s*\{", "global { disable-ip-verification;", text, count=1)
    return GLOBAL + text


def manual_examples(dialect: str) -> list[str]:
    """The resources shown in drbd.conf(5) of that dialect."""
    with gzip.open(f"/usr/share/man/man5/drbd.conf-{dialect}.5.gz", "rt", encoding="utf-8") as page:
        text = page.read()
    blocks = re.findall(r"^\.nf\n(.*?)^\.fi$", text, re.MULTILINE | re.DOTALL)
    blocks += re.findall(r" \.nf (global .*?) \.fi ", text)
    plain = [block.replace("\\&", "").replace("\\-", "-").replace("\\e", "\\") for block in blocks]
    return [block for block in plain if re.match(r"\s*(resource|global|common) ", block)]


def example_resources() -> list[str]:
    """The resources of drbd-utils' example file, each alone, as (8.4's or 9's) text."""
    text = EXAMPLES_84.read_text()
    return ["resource " + part for part in re.split(r"^resource ", text, flags=re.MULTILINE)[1:]]
