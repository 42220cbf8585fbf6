"""What is said and refused before anything starts."""

from __future__ import annotations

from dataclasses import replace

import pytest

from darkroom.batch.options import encoder_dtype, stage_dtypes
from darkroom.batch.placement import (
    GB,
    THREAD_FLOPS,
    DoesNotFit,
    Need,
    Pool,
    beside_the_stages,
    check,
    needs,
    refuse_dtypes,
    size_pools,
    table,
)
from darkroom.models.catalog import open_model
from darkroom.ray_cluster.resources import ENCODERS, Hardware, Room, Wanted

XL = Need("stage 1", "bfloat16", 32, int(8.6 * GB), int(3.2 * GB))
LARGE = Need("stage 2", "bfloat16", 8, int(2.5 * GB), int(4 * GB))
T5 = Need("text_encoder", "bfloat16", 1, int(9.5 * GB), int(0.2 * GB), alone=True)
SHARED = {"stage 1": Pool(1, 0.25, 0.6), "stage 2": Pool(1, 0.25, 0.4)}


def test_all_that_fits_is_let_through() -> None:
    check([T5, XL, LARGE], SHARED, Hardware(gpu=80 * GB, node=10 * GB, nodes=10 * GB))
    check([XL, LARGE], {name: Pool(1, 1.0, 0) for name in SHARED}, Hardware(node=16 * GB, nodes=32 * GB))


def test_a_stage_whose_share_of_a_gpu_is_too_small_is_refused_with_numbers() -> None:
    with pytest.raises(DoesNotFit) as caught:
        check([T5, XL, LARGE], SHARED, Hardware(gpu=16 * GB))
    lines = str(caught.value).splitlines()
    assert "stage 1 wants 13.5 GB and gets 9.6 GB of a GPU of 16.0 GB, as its share is 0.6" in lines[1]
    assert "stage 2 wants 7.7 GB and gets 6.4 GB" in lines[2]
    assert not any(line.startswith("  text_encoder wants") for line in lines), "it has the GPU to itself, and leaves it"
    assert any("8.6 GB" in line and "3.2 GB" in line and "32" in line for line in lines)


def test_a_text_encoder_that_fits_no_gpu_is_refused() -> None:
    with pytest.raises(DoesNotFit, match="text_encoder wants 11.2 GB and gets 8.0 GB of a GPU"):
        check([T5], {}, Hardware(gpu=8 * GB))


def test_a_stage_is_held_against_the_gpus_that_are_set_apart_for_it() -> None:
    pools = {"stage 1": Pool(1, 0.25, 1.0, "stage1"), "stage 2": Pool(1, 0.25, 1.0, "stage2")}
    apart = Hardware(gpu=8 * GB, marked={"stage1": 80 * GB, "stage2": 8 * GB, "encoders": 24 * GB})
    check([T5, XL, LARGE], pools, apart)
    with pytest.raises(DoesNotFit, match="stage 1 wants 13.5 GB and gets 8.0 GB of a GPU"):
        check([XL], pools, Hardware(gpu=8 * GB, marked={"stage1": 8 * GB}))


def test_what_is_set_apart_on_nodes_without_gpus_is_held_against_their_memory() -> None:
    """A text encoder on nodes of processors was refused for the size of the stages' GPUs."""
    pools = {"stage 1": Pool(1, 3.0, 0.0, "stage1"), "stage 2": Pool(1, 0.25, 1.0, "stage2")}
    there = Hardware(8 * GB, 64 * GB, 128 * GB, {"stage1": 0.0, "stage2": 8 * GB, "encoders": 0.0})
    check([T5, XL, LARGE], pools, there)
    with pytest.raises(DoesNotFit, match="text_encoder wants 9.7 GB, the largest node has 9.0 GB"):
        check([T5], pools, replace(there, node=9 * GB))


OLD = Hardware(gpu=80 * GB, nodes=64 * GB, no_bfloat16={"": "Tesla T4"})


@pytest.mark.parametrize(
    ("need", "given", "said"),
    [
        (XL, None, r"stage 1, text_encoder would .* bfloat16 \(the model's own on GPUs, as no --dtype is given\)"),
        (XL, "bfloat16", r"bfloat16 \(--dtype bfloat16\), which a Tesla T4 lacks: give --dtype float16 or float32"),
        (replace(XL, dtype="fp8"), "fp8", r"stage 1, text_encoder would compute in bfloat16 \(--dtype fp8\)"),
    ],
)
def test_a_dtype_that_a_gpu_lacks_is_refused_with_whose_it_is(need: Need, given: str | None, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        refuse_dtypes([need, T5], SHARED, OLD, given)


def test_a_dtype_is_refused_where_it_would_be_computed_in_and_nowhere_else() -> None:
    pools = {"stage 1": Pool(1, 0.25, 1.0, "stage1"), "stage 2": Pool(1, 0.25, 1.0, "stage2")}
    marked = {"stage1": 80 * GB, "stage2": 15 * GB, "encoders": 0.0}
    there = replace(OLD, marked=marked, no_bfloat16={"": "Tesla T4", "stage2": "Tesla T4"})
    refuse_dtypes([T5, XL, replace(LARGE, dtype="float16")], pools, there, "bfloat16,float16")
    with pytest.raises(ValueError, match="^stage 2 would"):
        refuse_dtypes([T5, XL, LARGE], pools, there, None)
    halved = [replace(need, dtype="float16") for need in (T5, XL, LARGE)]
    with pytest.raises(ValueError, match="^text_encoder would .* which a processor lacks: give --dtype bfloat16 or"):
        refuse_dtypes(halved, pools, there, "float16")
    refuse_dtypes(halved, pools, Hardware(), "float16")  # what is not known is left to the workers


def test_processors_memory_is_added_up_over_workers() -> None:
    with pytest.raises(DoesNotFit, match="all stages want 47.2 GB, all nodes have 40.0 GB"):
        check([XL], {"stage 1": Pool(4, 1.0, 0)}, Hardware(node=20 * GB, nodes=40 * GB))


def test_needs_are_measured_and_grow_with_the_capacity(toy_deepfloyd: str) -> None:
    model = open_model(toy_deepfloyd)
    dtypes = stage_dtypes(model, "bfloat16,float32,float32", on_gpu=True)
    small, large = (needs(model, (1, 2, 3), dtypes, capacity, True, model.encoders) for capacity in (2, 8))
    assert [need.name for need in small] == ["text_encoder", "stage3", "stage 1", "stage 2", "stage 3"]
    assert [need.dtype for need in small] == ["bfloat16", "float32", "bfloat16", "float32", "float32"]
    assert [need.alone for need in small] == [True, True, False, False, False]
    for before, after in list(zip(small, large, strict=True))[2:]:
        assert before.weights == after.weights > 0 and before.activations < after.activations
    unasked = needs(model, (1,), dtypes, "auto", True, ())
    assert [(need.capacity, need.tries) for need in unasked] == [(8, True)] and "8+" in table(unasked)


def test_weights_in_eight_bits_are_foretold(toy_deepfloyd: str) -> None:
    model = open_model(toy_deepfloyd)
    halved, held = (
        needs(model, (1, 2), stage_dtypes(model, dtype, on_gpu=True), 2, True, model.encoders[:1])
        for dtype in ("bfloat16", "fp8")
    )
    assert [need.dtype for need in held] == ["bfloat16", "fp8", "fp8"], "an encoder is as in bfloat16"
    assert held[0] == halved[0]
    for ours, half in list(zip(held, halved, strict=True))[1:]:
        assert half.weights / 2 < ours.weights < 0.75 * half.weights
    assert "stage 1       fp8" in table(held)


def test_an_encoder_stays_beside_the_stages_where_the_gpu_has_room_to_spare() -> None:
    one = Room(cpus=16, gpus=1, largest=16)
    beside = beside_the_stages([T5, XL, LARGE], one, Hardware(gpu=80 * GB))
    assert beside is not None and beside.name == ENCODERS and beside.memory == T5.on_gpu()
    pools = size_pools([Wanted("stage 1", memory=XL.on_gpu()), Wanted("stage 2", memory=LARGE.on_gpu()), beside], one)
    assert sum(pool.gpus for pool in pools.values()) <= 1
    check([XL, LARGE], pools, Hardware(gpu=80 * GB))
    assert pools[ENCODERS].gpus * 80 * GB >= T5.on_gpu(), "each gets what it needs"
    for room, gpu in ((one, 40), (Room(16, 2, 16), 80), (Room(16, 0, 16), 0)):
        assert beside_the_stages([T5, XL, LARGE], room, Hardware(gpu=gpu * GB)) is None
    assert beside_the_stages([XL, LARGE], one, Hardware(gpu=80 * GB)) is None


def test_an_actors_speed_is_its_share_of_a_gpu_or_its_threads() -> None:
    found = Hardware(gpu=80 * GB, gpu_flops=120e12)
    assert Pool(1, 0.25, 0.5).speed(found) == 60e12
    assert Pool(1, 2.0, 0.0, threads=2).speed(Hardware()) == 2 * THREAD_FLOPS
    assert Pool(1, 0.25, 1.0).speed(Hardware()) == THREAD_FLOPS, "a GPU that says nothing of itself"


def test_dtypes_are_one_or_one_each(toy_deepfloyd: str) -> None:
    model = open_model(toy_deepfloyd)
    assert stage_dtypes(model, None, on_gpu=True) == dict.fromkeys((1, 2, 3), "bfloat16")
    assert stage_dtypes(model, None, on_gpu=False) == dict.fromkeys((1, 2, 3), "float32")
    mixed = stage_dtypes(model, "bfloat16, float16, float32", on_gpu=True)
    assert [encoder_dtype(model, name, mixed) for name in ("text_encoder", "stage3")] == ["bfloat16", "float32"]
    with pytest.raises(ValueError, match="names 'half', wanted float32, bfloat16, float16"):
        stage_dtypes(model, "half", on_gpu=True)
    with pytest.raises(ValueError, match="names 2, .* has 3 stages"):
        stage_dtypes(model, "bfloat16,float32", on_gpu=True)
