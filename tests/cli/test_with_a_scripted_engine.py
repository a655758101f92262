# SPDX-License-Identifier: GPL-2.0-or-later
"""What replctl asks an engine, and what it makes of the answers. The engine is a script; the real one: test_live."""

from __future__ import annotations

import json
import shlex
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from replblock.status.model import example
from tests.cli.conftest import Node
from tests.cli.fake_engine import FakeEngine, answer
from tests.cli.test_metadata import on_a_terminal

SYNC = {
    "rs_total_blocks": 16384, "rs_left_blocks": 8192, "started_ms": 0, "now_ms": 8000, "want_kib_s": 4000,
    "marks": [[0, 16384], [4000, 12288]],
}  # fmt: skip


class Story:
    """Statuses to give one after the other; the last one stays."""

    def __init__(self, *statuses: Any) -> None:
        self.left = list(statuses)

    def __call__(self) -> Any:
        return self.left.pop(0) if len(self.left) > 1 else self.left[0]


@pytest.fixture
def engine(node: Node) -> Iterator[FakeEngine]:
    made = FakeEngine(node.directory / "run", "r0", Story(example()))
    yield made
    made.close()


def connecting(**given: Any) -> Any:
    return example(connected="Connecting", **given)


def test_the_words(node: Node, engine: FakeEngine) -> None:
    engine.status = Story(example(role="Primary", replication="SyncSource", peer_disk="Inconsistent", syncing=SYNC))
    assert node.run("role", "r0").out == "Primary/Secondary\n"
    assert node.run("cstate", "r0").out == "SyncSource\n"
    assert node.run("dstate", "all").out == "UpToDate/Inconsistent\n"
    assert node.run("role", "r0/0").out == "Primary/Secondary\n"
    assert node.run("status", "r0").out == (
        "r0 role:Primary\n  disk:UpToDate\n  peer role:Secondary\n"
        "    replication:SyncSource peer-disk:Inconsistent done:49.97\n\n"
    )
    assert json.loads(node.run("status", "--json").out)[0]["name"] == "r0"
    assert "write-ordering:flush" in node.run("status", "--verbose", "--statistics", "r0").out
    assert " 0: cs:SyncSource ro:Primary/Secondary ds:UpToDate/Inconsistent C r-----" in node.run("proc").out


def test_a_running_resource_is_asked_though_the_file_is_broken(node: Node, engine: FakeEngine) -> None:
    node.config.write_text("resource r0 {")
    assert node.run("role", "r0").out == "Secondary/Secondary\n"
    assert node.run("primary", "r0").code == 0
    assert node.run("role", "all").code == 10


def test_sh_status_for_a_shell(node: Node, engine: FakeEngine) -> None:
    """Judge: bash, and the reader drbd-utils ships for its own scripts."""
    engine.status = Story(example(role="Primary", peer_disk="Inconsistent", replication="PausedSyncS", syncing=SYNC))
    command = shlex.join(["python", "-m", "replblock.cli.main", "-c", str(node.config), "sh-status"])
    script = f"""
        _sh_status_process() {{ echo "$_conf_res_name/$_volume $_minor $_known $_cstate $_role $_peer $_disk $_pdsk"; }}
        eval "$({command})"
    """
    environment = node.environment | {"PATH": f"{node.environment['PYTHONPATH']}/.venv/bin:/usr/bin:/bin"}
    made = subprocess.run(["bash", "-euc", script], capture_output=True, text=True, env=environment)
    assert made.stdout == "r0/0 0 Configured PausedSyncS Primary Secondary UpToDate Inconsistent\n", made.stderr


@pytest.mark.parametrize(
    ("words", "verb", "args"),
    [
        ("primary r0", "primary", {"force": False}),
        ("-- --overwrite-data-of-peer primary r0", "primary", {"force": True}),
        ("secondary all", "secondary", {}),
        ("detach r0/0", "detach", {"force": False, "volume": 0}),
        ("-- --discard-my-data connect r0", "connect", {"discard_my_data": True, "tentative": False}),
        ("disconnect --force r0", "disconnect", {"force": True}),
        ("invalidate r0", "invalidate", {}),
        ("invalidate-remote r0", "invalidate_remote", {}),
        ("outdate r0", "outdate", {}),
        ("pause-sync r0", "pause_sync", {}),
        ("resume-sync r0", "resume_sync", {}),
        ("new-current-uuid --clear-bitmap r0/0", "new_current_uuid", {"clear_bitmap": True, "volume": 0}),
        ("verify --start=1M r0", "verify", {"start": 2048}),
        ("resize r0", "resize", {"assume_clean": False, "assume_peer_has_space": False, "size_sectors": 0}),
        ("-- --assume-clean --size=1G resize r0/0", "resize",
         {"assume_clean": True, "assume_peer_has_space": False, "size_sectors": 2 << 20, "volume": 0}),
        ("resize --assume-peer-has-space r0", "resize",
         {"assume_clean": False, "assume_peer_has_space": True, "size_sectors": 0}),
        ("down r0", "stop", {}),
    ],
)
def test_what_is_asked(node: Node, engine: FakeEngine, words: str, verb: str, args: dict[str, Any]) -> None:
    made = node.run(*words.split())
    assert (made.code, made.out, made.errors) == (0, "", [])
    assert engine.asked == [(verb, args)]


@pytest.mark.parametrize(
    ("words", "code", "line", "step"),
    [
        ("primary r0", 17, "0: State change failed: (-2) Need access to UpToDate data", "replctl primary --force r0"),
        ("primary r0", 11, "0: State change failed: (-1) Multiple primaries not allowed by config", "secondary r0"),
        ("secondary r0", 11, "0: State change failed: (-12) Device is held open by someone", "fuser -vm /dev/drbd0"),
        ("outdate r0", 5, "0: State change failed: (-16) Disk state is lower than outdated", ""),
        ("attach r0", 10, "0: Failure: (119) No valid meta-data signature found.", "replctl create-md r0"),
    ],
)
def test_a_refusal_is_drbds_sentence_then_the_next_command(
    node: Node, engine: FakeEngine, words: str, code: int, line: str, step: str
) -> None:
    engine.answers[words.split()[0]] = lambda args: answer(code, line)
    made = node.run(*words.split())
    assert (made.code, made.out, made.errors[0]) == (code, "", line)
    assert step in "".join(made.errors[1:])
    assert len(made.errors) == (2 if step else 1)


def test_an_engine_with_advice_of_its_own_has_the_last_word(node: Node, engine: FakeEngine) -> None:
    engine.answers["primary"] = lambda args: answer(17, "0: State change failed: (-2) …", "run: replctl explain r0")
    assert node.run("primary", "r0").errors == ["0: State change failed: (-2) …", "run: replctl explain r0"]


def test_an_engine_that_dies_is_no_traceback(node: Node, engine: FakeEngine) -> None:
    engine.answers["primary"] = lambda args: None
    made = node.run("primary", "r0")
    assert made.code == 20
    assert "the engine ended before it answered" in made.errors[0]


def test_create_md_is_refused_while_the_disk_is_attached(node: Node, engine: FakeEngine) -> None:
    for verb in ("create-md", "wipe-md", "apply-al", "dump-md"):
        made = node.run(verb, "--force", "r0") if verb != "apply-al" else node.run(verb, "r0")
        assert made.code == 20
        assert made.errors[0] == "Device '0' is configured!"
        assert made.errors[1].endswith("first: replctl down r0")
    engine.status = Story(example(disk="Diskless"))
    assert node.run("create-md", "r0").code == 0


# ---- what is missing


def adjust_lines(node: Node, *words: str) -> list[str]:
    made = node.run("-d", "-n", "res", *words)
    assert made.code == 0, made
    lines = made.out.splitlines()
    return [line if "=" in line else line.partition(f"-c {node.config} ")[2] for line in lines]


def test_dry_run_of_adjust_lists_what_is_missing(node: Node, engine: FakeEngine) -> None:
    """Init scripts carry these lines out one by one."""
    assert adjust_lines(node, "adjust", "all") == []
    engine.status = Story(example(disk="Diskless", connected="StandAlone"))
    assert adjust_lines(node, "adjust", "all") == ["res=r0", "attach r0", "connect r0"]
    engine.status = Story(example(connected=""))
    assert adjust_lines(node, "up", "r0") == ["res=r0", "connect r0"]
    engine.status = Story(example())
    engine.answers["adjust"] = lambda args: answer(changed=args.get("dry_run"))
    assert adjust_lines(node, "adjust", "r0") == ["res=r0", "net-options r0"]
    engine.close()
    assert adjust_lines(node, "adjust", "r0") == ["res=r0", "new-resource r0", "attach r0", "connect r0"]


def test_the_printed_commands_can_be_executed(node: Node, engine: FakeEngine) -> None:
    """As rc.drbd of DRBD 8.3 does it: a variable assignment is evaluated, anything else is split into words and run."""
    engine.status = Story(example(disk="Diskless", connected="StandAlone"))
    script = """
        IFS=$'\\n'
        for line in $("$@" -d -n res adjust all); do
            IFS=$' \\t\\n'
            case $line in res=*) eval "$line" ;; *) $line && echo "$res done" ;; esac
        done
    """
    replctl = f"{node.environment['PYTHONPATH']}/.venv/bin/replctl"
    made = subprocess.run(["bash", "-uc", script, "rc.drbd", replctl, "-c", str(node.config)],
                          capture_output=True, text=True, env=node.environment)  # fmt: skip
    assert made.stdout == "r0 done\nr0 done\n", made.stderr
    assert [verb for verb, _ in engine.asked if verb != "adjust"] == ["attach", "connect"]


def test_up_does_only_what_is_missing(node: Node, engine: FakeEngine) -> None:
    assert node.run("up", "r0").code == 0
    assert engine.asked == []
    engine.status = Story(example(disk="Diskless", connected="StandAlone"))
    engine.answers["attach"] = lambda args: answer(10, "0: Failure: (119) No valid meta-data signature found.")
    made = node.run("up", "r0")
    assert made.code == 10
    assert made.errors[-1] == "write metadata: replctl create-md r0"
    assert [verb for verb, _ in engine.asked] == ["attach"]  # it ran before: it is not stopped


# ---- waiting


def test_wait_connect(node: Node, engine: FakeEngine) -> None:
    engine.status = Story(connecting(), connecting(), example())
    assert node.run("wait-connect", "r0").code == 0
    engine.status = Story(connecting())
    made = node.run("wait-connect", "--wfc-timeout=1", "r0")
    assert made.code == 5
    assert made.errors == ["r0: no peer within 1 seconds (wfc-timeout)", "look at: replctl status r0"]
    engine.status = Story(connecting(), example(connected="StandAlone"))
    assert node.run("wait-connect", "r0").code == 5


def test_wait_sync(node: Node, engine: FakeEngine) -> None:
    syncing = example(replication="SyncTarget", disk="Inconsistent", syncing=SYNC)
    engine.status = Story(syncing, syncing, example())
    made = node.run("wait-sync", "r0")
    assert (made.code, made.out) == (0, "")
    engine.status = Story(syncing)
    assert node.run("wait-sync", "--wfc-timeout=1", "r0").code == 5


def test_wait_sync_draws_a_bar_on_a_terminal(node: Node, engine: FakeEngine) -> None:
    syncing = example(replication="SyncTarget", disk="Inconsistent", syncing=SYNC)
    engine.status = Story(syncing, syncing, example())
    code, screen = on_a_terminal(node, b"", "wait-sync", "r0")
    assert code == 0
    assert "r0 SyncTarget [=" in screen and " 53.0%" in screen and screen.endswith("in sync\r\n")


def test_primary_force_follows_the_sync_on_a_terminal(node: Node, engine: FakeEngine) -> None:
    syncing = example(replication="SyncSource", peer_disk="Inconsistent", syncing=SYNC)
    engine.status = Story(syncing, example())
    code, screen = on_a_terminal(node, b"", "primary", "--force", "r0")
    assert code == 0
    assert "r0 SyncSource [=" in screen and "r0: in sync" in screen


def test_wait_con_int_can_be_ended(node: Node, engine: FakeEngine) -> None:
    engine.status = Story(connecting())
    code, screen = on_a_terminal(node, b"perhaps\nyes\n", "wait-con-int", after="type: yes")
    assert code == 0, screen
    assert "r0: waiting for the peer for as long as it takes [wfc-timeout]" in screen
    assert "not waiting any longer" in screen
    code, screen = on_a_terminal(node, b"\x03", "wait-con-int", after="type: yes")
    assert code == 0, screen


def test_wait_con_int_without_a_terminal_waits_for_all(node: Node, engine: FakeEngine) -> None:
    engine.status = Story(connecting(), example())
    assert node.run("wait-con-int").code == 0


# ---- events


def test_events2(node: Node, engine: FakeEngine) -> None:
    lines = node.run("events2", "--now", "all").out.splitlines()
    assert lines[0] == "exists resource name:r0 role:Secondary suspended:no"
    assert lines[-1] == "exists -"
    assert len(lines) == 5
    assert all(json.loads(line) for line in node.run("events2", "--now", "--json").out.splitlines())


# ---- our own views


def test_metrics_watch_and_explain(node: Node, engine: FakeEngine) -> None:
    why = [{"rule": "peer-just-created", "text": "everything is copied"}]
    engine.status = Story(
        example(role="Primary", peer_disk="Inconsistent", replication="SyncSource", syncing=SYNC, replblock_why=why)
    )
    assert 'drbd_resource_role{name="r0",drbd_resource_role="Primary"} 1' in node.run("metrics").out
    picture = node.run("watch").out
    assert "r0 role:Primary" in picture and "53.0%" in picture
    assert "peer-just-created: everything is copied" in node.run("explain", "r0").out
    assert json.loads(node.run("explain", "--json", "r0").out)[0]["decisions"][0]["rule"] == "peer-just-created"


def test_what_the_engine_does_not_know_yet(node: Node, engine: FakeEngine) -> None:
    engine.answers["verify"] = lambda args: answer(20, "r0: unknown command 'verify'")
    made = node.run("verify", "r0")
    assert (made.code, made.errors[0]) == (20, "r0: the engine does not support 'verify' yet")


def test_the_configured_size_counts(node: Node, engine: FakeEngine) -> None:
    """As drbdadm hands it to the kernel, from the file as it is now."""
    node.config.write_text(node.config.read_text().replace("disk { ", "disk { size 100M; "))
    assert node.run("resize", "r0").code == 0
    assert engine.asked[-1][1]["size_sectors"] == 100 * 2048
    node.config.write_text("this is no configuration")
    assert node.run("resize", "r0").code == 0
    assert "size_sectors" not in engine.asked[-1][1]


# ---- heartbeat's resource script


@pytest.fixture
def drbddisk(node: Node, tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """drbd-utils' resource script for Heartbeat as shipped, with its two paths pointed at this test."""
    link = tmp_path / "drbdadm"
    link.write_text(f'#!/bin/sh\nexec {node.environment["PYTHONPATH"]}/.venv/bin/replctl -c {node.config} "$@"\n')
    link.chmod(0o755)
    text = Path("/etc/ha.d/resource.d/drbddisk").read_text()
    defaults = tmp_path / "defaults"
    defaults.write_text(f'DRBDADM="{link}"\n')
    assert 'DEFAULTFILE="/etc/default/drbd"' in text
    script = tmp_path / "drbddisk"
    script.write_text(text.replace('DEFAULTFILE="/etc/default/drbd"', f'DEFAULTFILE="{defaults}"'))

    def call(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(["bash", str(script), *words], capture_output=True, text=True, env=node.environment)

    return call


def test_drbddisk(node: Node, engine: FakeEngine, drbddisk: Callable[..., Any]) -> None:
    stopped = drbddisk("r0", "status")
    assert (stopped.returncode, stopped.stdout) == (3, "stopped (Secondary)\n"), stopped
    assert drbddisk("r0", "start").returncode == 0
    engine.status = Story(example(role="Primary"))
    running = drbddisk("r0", "status")
    assert (running.returncode, running.stdout) == (0, "running (Primary)\n")
    assert drbddisk("r0", "stop").returncode == 0
    assert [verb for verb, _ in engine.asked] == ["primary", "secondary"]
    engine.close()
    if not Path("/proc/drbd").exists():
        assert drbddisk("r0", "status").stdout == "stopped (Unconfigured)\n"
