"""How a cluster's GPUs and processors are shared out."""

from __future__ import annotations

import random
from typing import Any

import pytest

from darkroom.batch.placement import all_apart, encoder_pool, size_pools
from darkroom.ray_cluster import ClusterError
from darkroom.ray_cluster.resources import Room, Wanted

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


@pytest.mark.parametrize("gpus", [1, 2, 3, 4, 5, 8, 13])
@pytest.mark.parametrize("stages", [STAGES[:1], STAGES[:2], STAGES, (Wanted("stage 1", 1), Wanted("stage 2", 6))])
@pytest.mark.parametrize("judges", [(), ("choose",), ("finish",), ("choose", "finish")])
@pytest.mark.parametrize("pick", [max, min, *(random.Random(seed).choice for seed in range(5))])
def test_all_that_is_asked_for_is_there(gpus: int, stages: tuple, judges: tuple, pick: Any) -> None:
    """Each actor finds its share on some GPU, on whichever Ray puts those before it; else it would wait for ever. Ray
    goes from stage to stage, and likes a GPU that has just enough left: a Ray that was told of five left the last
    actor of a stage without one, as five judges had come before it and shared one GPU."""
    wanted = [*stages, *(Wanted(name, judge=True, early=name == "choose" and len(stages) > 1) for name in judges)]
    found = size_pools(wanted, Room(64, gpus, 32))
    order = [one.name for one in stages]
    order[1:1] = ["choose"] * ("choose" in judges)
    free = [1.0] * gpus
    for one in (
        found[name] for name in [*order, *["finish"] * ("finish" in judges)] for _ in range(found[name].workers)
    ):
        fits = [(left, n) for n, left in enumerate(free) if left > one.gpus - 1e-9]
        assert fits, f"{found} do not fit {gpus} GPUs"
        free[pick(fits)[1]] -= one.gpus


def test_judges_take_a_little_of_every_gpu() -> None:
    found = shared(2, *STAGES[:2], JUDGE)
    assert found == {"stage 1": (1, 0.95), "stage 2": (1, 0.95), "finish": (2, 0.05)}


def test_processors_are_shared_and_some_are_left() -> None:
    found = size_pools(STAGES[:2], Room(cpus=16, gpus=0, largest=4))
    assert {(one.workers, one.cpus, one.threads, one.gpus) for one in found.values()} == {(1, 3.0, 3, 0.0)}
    with pytest.raises(ClusterError, match=r"50 for stage 1\) .* the cluster has 2: ask for fewer --workers"):
        size_pools([Wanted("stage 1", 50)], Room(2, 0, 2))


@pytest.mark.parametrize(
    ("room", "stages", "said"),
    [
        (Room(2, 8, 2), [Wanted("stage 1")], r"8 workers \(8 for stage 1\) .* the cluster has 2: ask for fewer"),
        (Room(1, 1, 1), [*STAGES, JUDGE], r"4 workers .* \+ 1 for finish\) .* the cluster has 1: ask"),
        (Room(2, 16, 2), [Wanted("stage 1", 8), Wanted("stage 2", 8)], "the nodes with GPUs have 2: ask"),
        (Room(64, 2, 64, aside=64), STAGES[:1], "the nodes with GPUs have 0: ask"),
    ],
)
def test_workers_on_gpus_that_find_no_processors_are_refused(room: Room, stages: list[Wanted], said: str) -> None:
    """Ray would let the last of them, or the tasks that read and store, wait for ever."""
    with pytest.raises(ClusterError, match=said):
        size_pools(stages, room)


@pytest.mark.parametrize(
    ("room", "stages", "workers"),
    [
        (Room(2, 8, 2), [Wanted("stage 1", 7)], [7]),
        (Room(2, 1, 2), [*STAGES, JUDGE], [1, 1, 1, 1]),
        (Room(5, 1, 4, aside=4), [*STAGES, JUDGE], [1, 1, 1, 1]),  # a head reads and stores
        (Room(2, 8, 2), [Wanted("stage 1", 4), JUDGE], [4, 3]),  # as many judges as there is room for
        (Room(9, 8, 8, aside=8), [Wanted("stage 1")], [8]),  # four of them find a place, and do the work of all
    ],
)
def test_workers_on_gpus_that_can_do_the_work_are_not(room: Room, stages: list[Wanted], workers: list[int]) -> None:
    assert [pool.workers for pool in size_pools(stages, room).values()] == workers


def apart(**rooms: Room) -> Room:
    """A cluster of 64 processors and 32 GPUs, with nodes that are set apart."""
    kinds = tuple((frozenset(name.split("_")), room) for name, room in rooms.items())
    return Room(64, 32, 32, kinds)


def test_stages_stay_on_the_nodes_that_are_set_apart_for_them() -> None:
    room = apart(stage1=Room(16, 2, 8), stage2_stage3=Room(32, 5, 8), encoders=Room(8, 1, 8))
    found = size_pools([*STAGES, JUDGE], room)
    assert {name: (one.workers, one.gpus, one.mark) for name, one in found.items()} == {
        "stage 1": (2, 1.0, "stage1"),
        "stage 2": (2, 0.95, "stage2"),
        "stage 3": (3, 0.95, "stage2"),
        "finish": (5, 0.05, "stage2"),
    }
    assert found["stage 3"].resources == {"stage2": 0.001}
    prompts = encoder_pool(room, 9)
    assert (prompts.workers, prompts.gpus, prompts.resources) == (1, 1.0, {"encoders": 0.001})


def test_encoders_go_beside_the_stages_where_neither_takes_what_the_other_waits_for() -> None:
    stages = {"stage1": Room(16, 2, 8), "stage2": Room(16, 2, 8)}
    own = apart(**stages, encoders=Room(8, 1, 8))
    assert all_apart(own, size_pools(STAGES[:2], own))
    for shared in (apart(**stages), apart(stage1_encoders=Room(16, 2, 8), stage2=Room(16, 2, 8))):
        assert not all_apart(shared, size_pools(STAGES[:2], shared))
    some = apart(encoders=Room(8, 1, 8))
    assert not all_apart(some, size_pools(STAGES[:2], some)), "stages go anywhere"


def test_nodes_for_stages_that_a_job_has_not_are_no_concern_of_it() -> None:
    found = size_pools(STAGES[:1], apart(stage2=Room(16, 2, 8)))
    assert (found["stage 1"].workers, found["stage 1"].resources) == (32, {})
    prompts = encoder_pool(apart(stage2=Room(16, 2, 8)), 9)
    assert (prompts.workers, prompts.resources) == (9, {})


@pytest.mark.parametrize("nodes", [2, 3, 4, 9])
def test_all_find_room_when_a_node_is_lost(nodes: int) -> None:
    wanted = [Wanted("stage 1", workers=nodes), Wanted("stage 2", workers=nodes)]
    found = size_pools(wanted, Room(2 * nodes, 0, 2))
    kept = max(one.cpus for one in found.values())
    assert (nodes - 1) * int(1.8 / kept) >= 2 * nodes, "beside a task or two"
    assert found["stage 1"].threads == 1


def test_processors_are_set_apart_alike() -> None:
    room = Room(8, 0, 4, ((frozenset({"stage1"}), Room(4, 0, 4)), (frozenset({"stage2"}), Room(2, 0, 2))))
    found = size_pools(STAGES[:2], room)
    assert {name: (one.cpus, one.mark) for name, one in found.items()} == {
        "stage 1": (3.0, "stage1"),
        "stage 2": (1.5, "stage2"),
    }


@pytest.mark.parametrize(
    ("room", "said"),
    [
        (apart(stage1=Room(16, 2, 8)), "stage 2 has no node: nodes are set apart for stage1, and none has .* stage2"),
        (
            apart(stage1=Room(16, 2, 8), stage2=Room(16, 2, 8), stage1_stage2=Room(16, 2, 8)),
            r"resource stage1 are set apart in two ways, stage1 and stage1\+stage2: make them alike",
        ),
    ],
)
def test_nodes_that_are_set_apart_for_some_stages_only_are_refused(room: Room, said: str) -> None:
    with pytest.raises(ClusterError, match=said):
        size_pools(STAGES[:2], room)
