"""What a cluster has, and waiting for one that grows."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from darkroom.ray_cluster import resources
from darkroom.ray_cluster.resources import GPU_FLOPS, Gpu, Hardware, Room, Wanted, find_room, hardware_of, read_room

STAGES = (Wanted("stage 1"), Wanted("stage 2"), Wanted("stage 3"))


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict]:
    """A cluster that grows with each look at it: rooms, most, and what was asked of its autoscaler."""
    state: dict = {"rooms": [Room(0, 0, 0)], "most": {}, "asked": []}

    def look() -> Room:
        return state["rooms"].pop(0) if len(state["rooms"]) > 1 else state["rooms"][0]

    monkeypatch.setattr(resources, "read_room", look)
    monkeypatch.setattr(resources, "_most", lambda: state["most"])
    monkeypatch.setattr(resources, "_request", state["asked"].append)
    monkeypatch.setattr(resources, "POLL_SECONDS", 0.01)
    yield state


def test_a_cluster_that_grows_is_asked_and_waited_for(cluster: dict) -> None:
    cluster |= {"rooms": [Room(0, 0, 0), Room(1, 0, 1), Room(16, 2, 8)], "most": {"CPU": 64, "GPU": 2}}
    said: list[str] = []
    assert find_room(STAGES, 60, said.append) == Room(16, 2, 8)
    only_what_can_come = [{"GPU": 1.0}, {"GPU": 1.0}, {"CPU": 1.0}]
    assert cluster["asked"] == [only_what_can_come, []], "and the asking is taken back"
    assert "0 processors, 1 processors and 2 GPUs are wanted: waiting up to 60 s" in said[0]


def test_a_cluster_that_has_enough_or_is_not_to_be_waited_for_is_taken_at_once(cluster: dict) -> None:
    cluster["rooms"] = [Room(2, 0, 2)]
    assert find_room(STAGES, 60, pytest.fail) == Room(2, 0, 2)
    cluster["rooms"] = [Room(0.1, 0, 0.1)]
    assert find_room(STAGES, 0, pytest.fail) == Room(0.1, 0, 0.1)
    assert cluster["asked"] == []


def test_the_wait_ends(cluster: dict) -> None:
    assert find_room(STAGES, 0.05, lambda line: None) == Room(0, 0, 0)


def test_a_cluster_that_grows_is_asked_for_nodes_that_are_set_apart(cluster: dict) -> None:
    kinds = tuple((frozenset({mark}), Room(8, 1, 8)) for mark in ("stage1", "stage2"))
    cluster |= {"rooms": [Room(8, 1, 8, kinds[:1]), Room(24, 2, 8, kinds)]}
    cluster |= {"most": {"CPU": 64, "GPU": 4, "stage1": 2, "stage2": 2}}
    wanted = [Wanted("stage 1"), Wanted("stage 2", workers=2), Wanted("finish", judge=True)]
    assert find_room(wanted, 0.05, lambda line: None).marks == {"stage1", "stage2"}
    assert cluster["asked"][0] == [
        {"GPU": 1.0, "stage1": 0.001},
        {"GPU": 1.0, "stage2": 0.001},
        {"GPU": 1.0, "stage2": 0.001},
        {"CPU": 1.0},
        {"CPU": 1.0},
    ]


def test_what_gpus_are_is_known_of_all_nodes_and_of_those_set_apart() -> None:
    old, new = Gpu(15e9, 40, "Tesla T4", False), Gpu(80e9, 108, "NVIDIA A100", True)
    nodes = [{"memory": 2e9, "stage1": 1}, {"memory": 3e9, "stage2": 1}, {"memory": 9e9, "encoders": 1}, {}]
    assert hardware_of(nodes, [(nodes[0], old), (nodes[1], new)]) == Hardware(
        gpu=15e9,
        node=9e9,
        nodes=14e9,
        marked={"stage1": 15e9, "stage2": 80e9, "encoders": 0.0},
        gpu_flops=40 * GPU_FLOPS,
        no_bfloat16={"": "Tesla T4", "stage1": "Tesla T4"},
    )
    assert hardware_of([{"memory": 2e9}], []) == Hardware(node=2e9, nodes=2e9)


def test_nodes_are_told_apart_by_their_resources(monkeypatch: pytest.MonkeyPatch) -> None:
    has = [{}, {"CPU": 8.0}, {"CPU": 4.0, "GPU": 2.0, "stage1": 1.0, "stage9x": 1.0, "memory": 1e9}, {"CPU": 99.0}]
    nodes = [{"Alive": alive, "Resources": one} for alive, one in zip([True] * 3 + [False], has, strict=True)]
    monkeypatch.setattr("ray.nodes", lambda: nodes)
    assert read_room() == Room(12.0, 2.0, 8.0, ((frozenset({"stage1"}), Room(4.0, 2.0, 4.0)),), aside=8.0)
