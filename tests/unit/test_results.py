"""What a launch gives back."""

from __future__ import annotations

import pytest

from trx import LaunchResult

RESULT = LaunchResult(("a0", "a1", "b0", "a2"), ("node1", "node1", "node2", "node1"))
"""Of three agents: two workers on node1, one on node2, and one on node1 again."""


def test_its_length_is_the_world_size() -> None:
    assert len(RESULT) == 4


def test_it_goes_through_the_ranks_in_order_and_more_than_once() -> None:
    assert list(RESULT) == ["a0", "a1", "b0", "a2"]
    assert list(RESULT) == RESULT.by_ranks()


def test_each_rank_has_its_value() -> None:
    assert [RESULT.rank(rank) for rank in range(4)] == RESULT.by_ranks()


def test_hosts_have_their_values_and_nothing_of_a_host_named_twice_is_lost() -> None:
    assert RESULT.by_hostnames() == {"node1": ["a0", "a1", "a2"], "node2": ["b0"]}
    assert list(RESULT.by_hostnames()) == ["node1", "node2"]


def test_a_worker_is_found_by_host_and_local_rank() -> None:
    assert RESULT.index("node1", 0) == "a0"
    assert RESULT.index("node1", 2) == "a2"
    assert RESULT.index("node2", 0) == "b0"


def test_what_it_gives_out_is_the_callers_own() -> None:
    RESULT.by_ranks().clear()
    RESULT.by_hostnames().clear()
    RESULT.by_hostnames()["node1"].clear()
    assert RESULT.by_hostnames()["node1"] == ["a0", "a1", "a2"]


def test_values_are_not_looked_at() -> None:
    value = [None]
    result = LaunchResult((None, value), ("a", "a"))
    assert result.rank(0) is None
    assert result.rank(1) is value
    assert result.by_hostnames()["a"][1] is value


@pytest.mark.parametrize("rank", [-1, 4, 100])
def test_a_rank_that_is_not_there_is_an_index_error_that_says_which_are(rank: int) -> None:
    with pytest.raises(IndexError, match=f"no rank {rank}: they go from 0 to 3"):
        RESULT.rank(rank)


@pytest.mark.parametrize("local_rank", [-1, 1])
def test_so_is_a_local_rank(local_rank: int) -> None:
    with pytest.raises(IndexError, match=f"no local rank on node2 {local_rank}: they go from 0 to 0"):
        RESULT.index("node2", local_rank)


def test_a_host_that_was_not_named_is_a_key_error() -> None:
    with pytest.raises(KeyError, match="there is no host 'node3': there are node1, node2"):
        RESULT.index("node3", 0)
