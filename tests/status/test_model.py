# SPDX-License-Identifier: GPL-2.0-or-later
"""The model says what is wrong with a status, and every rendering takes every status that it accepts."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replblock.status import events, json_out, metrics, model, proc, text, words


def syncs() -> st.SearchStrategy[dict[str, Any]]:
    number = st.integers(0, 1 << 34)
    return st.builds(model.sync, rs_total_blocks=number, rs_left_blocks=number, rs_failed_blocks=number,
                     want_kib_s=number, started_ms=number, paused_ms=number, now_ms=number,
                     marks=st.lists(st.tuples(number, number).map(list), max_size=9))


def resources() -> st.SearchStrategy[dict[str, Any]]:
    item = st.builds(model.peer_device, replication_state=st.sampled_from(model.REPLICATIONS),
                     peer_disk_state=st.sampled_from(model.DISKS), out_of_sync=st.integers(0, 1 << 40),
                     resync_suspended=st.sampled_from(["no", "user", "peer,dependency", "user,peer,dependency"]),
                     replblock_sync=st.none() | syncs())
    link = st.builds(model.connection, connection_state=st.sampled_from(model.CONNECTIONS),
                     peer_role=st.sampled_from(model.ROLES), peer_devices=st.lists(item, max_size=1))
    here = st.builds(model.device, minor=st.integers(0, 255), disk_state=st.sampled_from(model.DISKS),
                     size=st.integers(0, 1 << 40), replblock_in_sync_since_ms=st.none() | st.integers(0, 1 << 40))
    return st.builds(model.resource, name=st.sampled_from(["r0", "r1"]), role=st.sampled_from(model.ROLES),
                     devices=st.lists(here, max_size=1), connections=st.lists(link, max_size=1),
                     write_ordering=st.sampled_from(model.ORDERINGS), suspended_no_data=st.booleans())


@given(resources(), resources())
def test_every_status_can_be_shown(one: dict[str, Any], other: dict[str, Any]) -> None:
    """No rendering fails, changes its input, or leaves JSON."""
    assert model.validate(one) == []
    before = copy.deepcopy(one)
    for render in (proc.render, text.render, json_out.render, metrics.render):
        assert render([one])
    assert text.render([one], verbose=True, statistics=True)
    assert len(words.roles(one)) == len(words.cstates(one)) == len(words.dstates(one)) == len(one["devices"])
    assert [e.text() for e in events.dump([one])][-1] == "exists -"
    assert events.diff([one], [one], statistics=True) == []
    for event in events.diff([one], [other], statistics=True):
        assert json.loads(event.json())["object"] == event.object
    assert one == before
    assert json.loads(json.dumps(one)) == one


def test_an_example_is_valid() -> None:
    for status in (model.example(), model.example(volumes=3, connected=""), model.example(connected="Connecting")):
        assert model.validate(status) == []


@pytest.mark.parametrize(("key", "value", "complaint"), [
    ("role", "primary", "r0: role: a role was expected, not 'primary'"),
    ("suspended", 1, "r0: suspended: true or false was expected, not 1"),
    ("colour", "red", "r0: colour: not a key of the status"),
    ("devices", [7], "r0: a table was expected, not 7"),
    ("replblock-why", [{"rule": "x"}], "r0 replblock-why: text is missing"),
])
def test_what_is_wrong_is_said(key: str, value: Any, complaint: str) -> None:
    assert complaint in model.validate({**model.example(), key: value})


def test_a_missing_key_is_named() -> None:
    status = model.example()
    del status["devices"][0]["replblock-counters"]["oos"]
    assert model.validate(status) == ["r0/0 replblock-counters: oos is missing"]
    assert model.validate(None) == ["the status of a resource must be a table"]


def test_the_builder_refuses_unknown_keys() -> None:
    with pytest.raises(KeyError, match="disk_colour"):
        model.device(disk_colour="red")


def test_suspended_follows_from_its_reasons() -> None:
    assert model.resource(name="r0", suspended_fencing=True)["suspended"]
    assert not model.resource(name="r0")["suspended"]


def test_json_has_the_schema_and_the_details_of_a_resync() -> None:
    shown = json.loads(json_out.render([model.example(
        replication="SyncTarget", disk="Inconsistent",
        syncing={"rs_total_blocks": 16374, "rs_left_blocks": 9167, "started_ms": 0, "now_ms": 7000})]))
    assert shown[0]["schema"] == model.SCHEMA
    item = shown[0]["connections"][0]["peer_devices"][0]
    assert item["has-sync-details"] and not item["has-online-verify-details"]
    assert (item["percent-in-sync"], item["percent-resync-done"], item["db/dt [MiB/s]"]) == (44.01, 44.01, 4.02)
    assert item["estimated-seconds-to-finish"] == 8


def test_why_stands_only_in_the_verbose_text() -> None:
    status = model.example(connected="Connecting", replblock_why=[model.why("both-moved-on", "split brain")],
                           replblock_unused_options=["net: sndbuf-size"])
    assert "why" not in text.render([status])
    verbose = text.render([status], verbose=True)
    assert "  why: split brain (rule both-moved-on)\n" in verbose
    assert "  without effect here: net: sndbuf-size\n" in verbose


def test_a_long_line_is_wrapped_where_the_terminal_ends() -> None:
    shown = text.render([model.example(volumes=2)], verbose=True, statistics=True, columns=40)
    drbds_own = [line for line in shown.splitlines() if line.startswith("      ")]
    assert drbds_own and all(len(line) <= 40 for line in drbds_own if "uuids" not in line and "disk:" not in line)


def test_metrics_are_the_text_format() -> None:
    shown = metrics.render([model.example(name='r"0', volumes=2)]).splitlines()
    assert 'drbd_device_size_bytes{name="r\\"0",volume="1",minor="1"} 67067904' in shown
    assert 'drbd_resource_role{name="r\\"0",drbd_resource_role="Secondary"} 1' in shown
    helped = [line.split()[2] for line in shown if line.startswith("# HELP")]
    assert len(helped) == len(set(helped))
    assert {line.split("{")[0] for line in shown if not line.startswith("#")} == set(helped)
