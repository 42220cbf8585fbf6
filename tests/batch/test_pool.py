"""How a cluster's GPUs and processors are shared out."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from darkroom.batch import pool
from darkroom.batch.pool import Room, Wanted, find_room, size_pools
from darkroom.cluster import ClusterError

STAGES = (
    Wanted("stage 1", cost=1, memory=10),
    Wanted("stage 2", cost=2, memory=20),
    Wanted("stage 3", cost=4, memory=10),
)
JUDGE = Wanted("finish", judge=True)


def shared(gpus: float, *wanted: Wanted) -> dict[str, tuple[int, float]]:
    return {name: (one.workers, one.gpus) for name, one in size_pools(wanted, Room(64, gpus, 32)).items()}


@pytest.mark.parametrize(("gpus", "workers"), [(3, (1, 1, 1)), (4, (1, 1, 2)), (7, (1, 2, 4)), (14, (2, 4, 8))])
def test_whole_gpus_go_where_the_work_is(gpus: int, workers: tuple[int, ...]) -> None:
    assert list(shared(gpus, *STAGES).values()) == [(count, 1.0) for count in workers]


def test_what_the_user_says_holds_and_the_rest_share_what_is_left() -> None:
    first = Wanted("stage 1", workers=5)
    assert [workers for workers, _ in shared(8, first, *STAGES[1:]).values()] == [5, 1, 2]
    said = [Wanted("stage 1", 2), Wanted("stage 2", 6)]
    assert shared(8, *said) == {"stage 1": (2, 1.0), "stage 2": (6, 1.0)}


def test_one_gpu_is_shared_by_memory() -> None:
    assert shared(1, *STAGES) == {"stage 1": (1, 0.25), "stage 2": (1, 0.5), "stage 3": (1, 0.25)}


def test_too_few_gpus_hold_equal_parts_that_can_be_packed() -> None:
    found = shared(2, *STAGES)
    assert {gpus for _, gpus in found.values()} == {0.5}, "three actors of two thirds would not fit on two GPUs"
    assert {gpus for _, gpus in shared(2, Wanted("stage 1", 3), Wanted("stage 2", 3)).values()} == {0.33}


def test_judges_take_a_little_of_every_gpu() -> None:
    found = shared(2, *STAGES[:2], JUDGE)
    assert found == {"stage 1": (1, 0.95), "stage 2": (1, 0.95), "finish": (2, 0.05)}


def test_processors_are_shared_and_some_are_left() -> None:
    found = size_pools(STAGES[:2], Room(cpus=16, gpus=0, largest=4))
    assert {(one.workers, one.cpus, one.threads, one.gpus) for one in found.values()} == {(1, 3.0, 3, 0.0)}
    with pytest.raises(ClusterError, match=r"50 for stage 1\) .* the cluster has 2: ask for fewer --workers"):
        size_pools([Wanted("stage 1", 50)], Room(2, 0, 2))


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict]:
    """A cluster that grows with each look at it: rooms, most, and what was asked of its autoscaler."""
    state: dict = {"rooms": [Room(0, 0, 0)], "most": Room(0, 0, 0), "asked": []}

    def look() -> Room:
        return state["rooms"].pop(0) if len(state["rooms"]) > 1 else state["rooms"][0]

    monkeypatch.setattr(pool, "read_room", look)
    monkeypatch.setattr(pool, "_limit", lambda: state["most"])
    monkeypatch.setattr(pool, "_request", state["asked"].append)
    monkeypatch.setattr(pool, "POLL_SECONDS", 0.01)
    yield state


def test_a_cluster_that_grows_is_asked_and_waited_for(cluster: dict) -> None:
    cluster |= {"rooms": [Room(0, 0, 0), Room(1, 0, 1), Room(16, 2, 8)], "most": Room(64, 2, 0)}
    said: list[str] = []
    assert find_room(STAGES, 60, said.append) == Room(16, 2, 8)
    assert cluster["asked"] == [Room(1.0, 2, 0.0), None], (
        "only the two GPUs that can come; and the asking is taken back"
    )
    assert "0 processors, 1 processors and 2 GPUs are wanted: waiting up to 60 s" in said[0]


def test_a_cluster_that_has_enough_or_is_not_to_be_waited_for_is_taken_at_once(cluster: dict) -> None:
    cluster["rooms"] = [Room(2, 0, 2)]
    assert find_room(STAGES, 60, pytest.fail) == Room(2, 0, 2)
    cluster["rooms"] = [Room(0.1, 0, 0.1)]
    assert find_room(STAGES, 0, pytest.fail) == Room(0.1, 0, 0.1)
    assert cluster["asked"] == []


def test_the_wait_ends(cluster: dict) -> None:
    assert find_room(STAGES, 0.05, lambda line: None) == Room(0, 0, 0)
