# SPDX-License-Identifier: GPL-2.0-or-later
"""What two nodes must agree on, and that a disagreement names its option, mirror-wise on both nodes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replblock.wire import agreement as a
from replblock.wire.errors import NotAgreed
from replblock.wire.flags import FEATURE_ORDERED
from replblock.wire.packets import CF_DISCARD_MY_DATA, CF_DRY_RUN, Features, Protocol, SyncParam

LOCAL, REMOTE = a.AFTER_SB["discard-local"], a.AFTER_SB["discard-remote"]


@pytest.mark.parametrize(
    ("peers", "agreed"),
    [
        (Features(86, 0xF, 101), (101, 0xD)),
        (Features(86, 0, 97), (97, 0)),
        (Features(86, 5, 118), (101, 5)),
        (Features(101, 0xFF, 122), (101, 0xD)),
        (Features(86, FEATURE_ORDERED | 1, 101), (101, FEATURE_ORDERED | 1)),
    ],
)
def test_the_highest_common_protocol(peers: Features, agreed: tuple[int, int]) -> None:
    assert a.agree(Features(86, 0xD | FEATURE_ORDERED, 101), peers) == agreed


@pytest.mark.parametrize("peers", [Features(110, 0, 121), Features(80, 0, 85)])
def test_no_common_protocol(peers: Features) -> None:
    with pytest.raises(NotAgreed, match=f"P_CONNECTION_FEATURES: .* the peer speaks {peers.protocol_min} to"):
        a.agree(Features(), peers)


def test_equal_nodes_agree() -> None:
    mine = Protocol(3, 3, 8, 0, CF_DRY_RUN, 1, "crc32c")
    assert a.disagreements(mine, mine) == []


@pytest.mark.parametrize(
    ("change", "option", "sentence"),
    [
        ({"protocol": 1}, "protocol", "protocol differs: C here, the peer has A"),
        ({"after_sb_0p": 4}, "after-sb-0pri",
         "after-sb-0pri differs: disconnect here, the peer has discard-least-changes"),
        ({"after_sb_1p": 7}, "after-sb-1pri", "after-sb-1pri differs: disconnect here, the peer has consensus"),
        ({"after_sb_2p": 99}, "after-sb-2pri", "after-sb-2pri differs: disconnect here, the peer has unknown (99)"),
        ({"two_primaries": 1}, "allow-two-primaries", "allow-two-primaries differs: no here, the peer has yes"),
        ({"integrity_alg": "md5"}, "data-integrity-alg", "data-integrity-alg differs: none here, the peer has md5"),
    ],
)
def test_each_option_is_named(change: dict[str, object], option: str, sentence: str) -> None:
    mine = Protocol(3)
    (found,) = a.disagreements(mine, mine._replace(**change))    # type: ignore[arg-type]
    assert (found.option, found.sentence) == (option, sentence)


@pytest.mark.parametrize("field", ["after_sb_0p", "after_sb_1p", "after_sb_2p"])
def test_local_and_remote_are_a_matter_of_view(field: str) -> None:
    mine = Protocol(3)._replace(**{field: LOCAL})    # type: ignore[arg-type]
    assert a.disagreements(mine, mine._replace(**{field: REMOTE})) == []    # type: ignore[arg-type]
    (found,) = a.disagreements(mine, mine)
    assert found.sentence.endswith("discard-local here, the peer has discard-local where it must have discard-remote")


def test_not_both_may_discard() -> None:
    mine = Protocol(3, conn_flags=CF_DISCARD_MY_DATA)
    assert a.disagreements(mine, Protocol(3)) == [] == a.disagreements(Protocol(3), mine)
    assert [found.option for found in a.disagreements(mine, mine)] == ["discard-my-data"]


def test_the_integrity_algorithm_is_not_said_before_87() -> None:
    mine, peers = Protocol(3, integrity_alg="md5"), Protocol(3)
    assert a.disagreements(mine, peers, 86) == []
    assert [found.option for found in a.disagreements(mine, peers, 87)] == ["data-integrity-alg"]


PROTOCOLS = st.builds(
    Protocol, st.integers(1, 3), *[st.sampled_from([0, 3, LOCAL, REMOTE])] * 3, st.integers(0, 3), st.integers(0, 1),
    st.sampled_from(["", "md5"]))


@given(PROTOCOLS, PROTOCOLS)
def test_both_nodes_find_the_same_options(mine, peers) -> None:
    here, there = a.disagreements(mine, peers), a.disagreements(peers, mine)
    assert [found.option for found in here] == [found.option for found in there]


def test_sync_params() -> None:
    mine, peers = SyncParam(250, "sha1", "md5"), SyncParam(40960, "", "sha256", 0)
    options = {version: [found.option for found in a.sync_param_disagreements(mine, peers, version)]
               for version in (87, 88, 89, 101)}
    assert options == {87: [], 88: ["verify-alg"], 89: ["verify-alg", "csums-alg"], 101: ["verify-alg", "csums-alg"]}
    assert a.sync_param_disagreements(mine, mine._replace(resync_rate_kib=1)) == []
    assert a.sync_param_disagreements(mine, peers)[0].sentence == "verify-alg differs: sha1 here, the peer has none"
