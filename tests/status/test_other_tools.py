# SPDX-License-Identifier: GPL-2.0-or-later
"""The programs of drbd-utils that read such texts understand ours: shell functions as installed, and drbdmon."""

from __future__ import annotations

import os
import pty
import re
import select
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from replblock.status import events, model, proc, words

INIT_SCRIPT = Path("/lib/drbd/scripts/drbd")
FENCE_SCRIPT = Path("/usr/lib/drbd/crm-fence-peer.sh")
AGENT_FUNCTIONS = Path("/usr/lib/ocf/resource.d/linbit/drbd.shellfuncs.sh")
COMPLETION = Path("/usr/share/bash-completion/completions/drbdadm")

SYNCING = {"rs_total_blocks": 16374, "rs_left_blocks": 9167, "started_ms": 0, "now_ms": 7000}


def pair() -> list[dict[str, Any]]:
    """A Primary that is a sync source, and a resource of two volumes without its peer."""
    return [
        model.example("r0", role="Primary", peer_disk="Inconsistent", replication="SyncSource", syncing=SYNCING),
        model.example("r1", 2, 2, disk="Outdated", connected="Connecting", replblock_protocol="A"),
    ]


PLACES = [words.Place("r0", "/etc/drbd.conf", 3, ((0, 0),)), words.Place("r1", "/etc/drbd.conf", 9, ((0, 2), (1, 3))),
          words.Place("down", "/etc/drbd.conf", 20, ((0, 7),))]


def bash(script: str, **environment: str) -> str:
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, timeout=20, check=False,
                          env={"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8", **environment})
    assert done.returncode == 0, done.stderr
    return done.stdout


def shell_function(script: Path, name: str) -> str:
    """The text of one function of an installed script, without running the script."""
    found = re.search(rf"^{name}\(\)\n\{{\n.*?^\}}$", script.read_text(), re.M | re.S)
    assert found is not None, f"{script} has no function {name}"
    return found[0]


def test_status_table_of_the_init_script(tmp_path: Path) -> None:
    """`/etc/init.d/drbd status` makes its table of /proc/drbd and sh-status."""
    (tmp_path / "proc").write_text(proc.render(pair()))
    (tmp_path / "sh-status").write_text(words.sh_status(PLACES, pair()))
    out = bash(f"""
        {shell_function(INIT_SCRIPT, "drbd_pretty_status")}
        drbdadm() {{ [[ $1 != sh-status ]] || cat {tmp_path}/sh-status; }}
        drbd_pretty_status {tmp_path}/proc""")
    lines = out.splitlines()
    assert lines[:2] == [proc.VERSION_LINE, proc.SOURCE_LINE]
    assert lines[2].split() == ["m:res", "cs", "ro", "ds", "p", "mounted", "fstype"]
    assert sorted(line.split() for line in lines[3:]) == [
        ["...", "sync'ed:", "50.0%", "(36668/65496)K"],
        ["0:r0", "SyncSource", "Primary/Secondary", "UpToDate/Inconsistent", "C"],
        ["2:r1", "WFConnection", "Secondary/Unknown", "Outdated/DUnknown", "A"],
        ["3:r1", "WFConnection", "Secondary/Unknown", "Outdated/DUnknown", "A"],
    ]


def test_the_fence_handler_reads_proc_drbd(tmp_path: Path) -> None:
    (tmp_path / "proc").write_text(proc.render(pair()))
    function = shell_function(FENCE_SCRIPT, "set_states_from_proc_drbd").replace("/proc/drbd", f"{tmp_path}/proc")
    out = bash(f"""{function}
        for DRBD_MINOR in 0 "2 3"; do
            set_states_from_proc_drbd
            echo "${{DRBD_role[*]}} ${{DRBD_peer[*]}} ${{DRBD_disk[*]}} ${{DRBD_pdsk[*]}} $DRBD_disk_all_uptodate"
        done""")
    assert out.splitlines() == [
        "Primary Secondary UpToDate Inconsistent true",
        "Secondary Secondary Unknown Unknown Outdated Outdated DUnknown DUnknown false",
    ]


AGENT_VARIABLES = ("primary", "some_peer_primary", "disk_all_up_to_date", "disk_all_consistent", "pdsk_any_unknown",
                   "pdsk_all_up_to_date")


@pytest.mark.parametrize("has_events2", ["true", "false"])
@pytest.mark.parametrize(("status", "expected"), [
    (model.example("r0", 2, role="Primary"), "true false true true false true"),
    (model.example("r0", 2, peer_role="Primary", disk="Inconsistent", replication="SyncTarget", syncing=SYNCING),
     "false true false false false true"),
    (model.example("r0", connected="Connecting", disk="Consistent"), "false false false true true false"),
    (model.example("r0", role="Primary", connected=""), "true false true true true false"),
], ids=["primary", "target", "alone", "no-network"])
def test_the_cluster_agent_knows_our_state(tmp_path: Path, status: dict[str, Any], expected: str,
                                           has_events2: str) -> None:
    """ocf:linbit:drbd decides from events2, or from sh-status where the module has no events2."""
    (tmp_path / "events2").write_text("".join(event.text() + "\n" for event in events.dump([status])))
    (tmp_path / "sh-status").write_text(words.sh_status(
        [words.Place("r0", "/etc/drbd.conf", 1, tuple((d["volume"], d["minor"]) for d in status["devices"]))],
        [status]))
    shown = " ".join(f"$status_{name}" for name in AGENT_VARIABLES)
    out = bash(f"""
        drbdsetup() {{ cat {tmp_path}/$1; }}
        DRBDSETUP=drbdsetup DRBD_RESOURCE=r0 DRBD_HAS_MULTI_VOLUME=true DRBD_HAS_EVENTS2={has_events2}
        DRBD_MY_NODE_ID=1
        . {AGENT_FUNCTIONS}
        drbd_set_status_variables
        echo {shown}""")
    assert out.split() == expected.split()


def test_completion_offers_what_makes_sense(tmp_path: Path) -> None:
    """The completion of `drbdadm primary` asks for the roles, that of `connect` for the connection states."""
    table = {"role": words.roles, "cstate": words.cstates, "dstate": words.dstates}
    for status in pair():
        for verb, render in table.items():
            (tmp_path / f"{verb}.{status['name']}").write_text("".join(line + "\n" for line in render(status)))
    tool = tmp_path / "tool"
    tool.write_text(f"#!/bin/bash\n[ $1 = sh-resources ] && echo r0 r1 || cat {tmp_path}/$1.$2\n")
    tool.chmod(0o755)

    def offered(verb: str) -> str:
        return bash(f"""
            complete() {{ :; }}; . {COMPLETION}
            COMP_WORDS=({tool} {verb} '') COMP_CWORD=2 COMP_LINE='drbdadm {verb} '
            _drbdadm; echo ${{COMPREPLY[*]}}""").strip()

    assert offered("primary") == "r1"
    assert offered("secondary") == "r0"
    assert offered("pause-sync") == "r0"
    assert offered("disconnect") == "r1"


def test_drbdmon_shows_our_events(tmp_path: Path) -> None:
    """drbdmon starts `drbdsetup events2`; it stops with a message on a line that it does not understand."""
    before, after = pair(), pair()
    after[0]["connections"][0]["peer_devices"][0] |= {"replication-state": "Established",
                                                      "peer-disk-state": "UpToDate"}
    gone = after[:1]
    lines = [*events.dump(before), events.helper("call", "r0", 0, 0, "after-resync-target"),
             events.helper("response", "r0", 0, 0, "after-resync-target", 0),
             *events.diff(before, after), *events.diff(after, gone), *events.diff(gone, after)]
    (tmp_path / "events").write_text("".join(event.text() + "\n" for event in lines))
    fake = tmp_path / "drbdsetup"
    fake.write_text(f"#!/bin/sh\ncat {tmp_path}/events\nexec sleep 30\n")
    fake.chmod(0o755)
    screen = drbdmon_screen(tmp_path, until=(b"Resources:      2",))
    assert b"r0" in screen and b"r1" in screen
    for complaint in (b"nparsable", b"out-of-sync '", b"Non-existent", b"duplicate", b"rror"):
        assert complaint not in screen


def drbdmon_screen(directory: Path, until: tuple[bytes, ...]) -> bytes:
    """What drbdmon drew until all of these were there; it is asked to quit then."""
    child, terminal = pty.fork()
    if child == 0:
        os.environ.update(PATH=f"{directory}:{os.environ['PATH']}", TERM="xterm", LINES="40", COLUMNS="120")
        os.execlp("drbdmon", "drbdmon", "--ascii")
    screen, deadline = b"", time.monotonic() + 20
    try:
        while time.monotonic() < deadline and not all(text in screen for text in until):
            if select.select([terminal], [], [], 0.5)[0]:
                screen += os.read(terminal, 65536)
        os.write(terminal, b"q")
        while select.select([terminal], [], [], 2)[0]:
            try:
                screen += os.read(terminal, 65536)
            except OSError:         # the terminal of a process that ended
                break
    finally:
        os.close(terminal)
        os.kill(child, 9)
        os.waitpid(child, 0)
    return screen
