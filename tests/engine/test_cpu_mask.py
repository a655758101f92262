# SPDX-License-Identifier: GPL-2.0-or-later
"""options { cpu-mask }: as in DRBD, which processors work for a resource."""

from __future__ import annotations

import os
from pathlib import Path

from replblock.engine.boot import obey_cpu_mask
from replblock.engine.log import Log


def obey(mask: str, log: Path) -> tuple[set[int], str]:
    """In a process of its own: the processors it may use afterwards, and what was logged."""
    reader, writer = os.pipe()
    pid = os.fork()
    if not pid:
        obey_cpu_mask(mask, Log("r0", log))
        os.write(writer, ",".join(map(str, sorted(os.sched_getaffinity(0)))).encode())
        os._exit(0)
    os.waitpid(pid, 0)
    os.close(writer)
    found = {int(word) for word in os.read(reader, 4096).decode().split(",")}
    os.close(reader)
    return found, log.read_text() if log.exists() else ""


def test_the_mask_is_obeyed_where_it_names_a_processor(tmp_path: Path) -> None:
    """One bit, no mask, and a mask of processors that are not there."""
    here = os.sched_getaffinity(0)
    first = min(here)
    assert obey(f"{1 << first:x}", tmp_path / "a")[0] == {first}
    assert obey("", tmp_path / "b")[0] == here
    found, said = obey(f"{1 << 900:x}", tmp_path / "c")
    assert found == here and "names no processor" in said
