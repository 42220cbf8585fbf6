"""The actor without its Ray: several units in flight in one event loop."""

from __future__ import annotations

import asyncio
import dataclasses
import functools
import json
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from darkroom.batch.engine_thread import EngineThread, Sample
from darkroom.batch.load_inputs import LoadOptions, load_unit
from darkroom.batch.row_state import RowState, Unit, to_block
from darkroom.batch.sampler_worker import SamplerWorker
from darkroom.models.catalog import open_model
from darkroom.models.compiled import compiled
from darkroom.models.embeddings import EmbeddingStore
from darkroom.models.errors import ModelError
from darkroom.ray_cluster import ClusterError
from darkroom.sampling.engine import Failed
from darkroom.sampling.plans import Inputs, Plan, Stage, condition_keys, make_plan
from darkroom.sampling.views import View
from darkroom.storage import StorageError, open_store
from runs import png
from toys import SHORTAGES, network_config, save_toy_network

TEXT = {"task": "text_to_image", "prompt": "a red one", "negative_prompt": "", "guidance": 7, "seed": 0, "steps": 3}
EDIT = {**TEXT, "task": "image_to_image", "image": "one.png", "start": 1}
VIEWS = [{"view": "identity", "prompt": "a one"}, {"view": "rotate_90", "prompt": "a two"}]
ANAGRAM = {**TEXT, "task": "anagram", "prompt": None, "views": VIEWS}
UPSCALE = {**TEXT, "task": "upscale", "image": "one.png", "size": 16}


class Darkroom:
    """A folder with a unit's rows, their inputs and embeddings, and workers to hand them to."""

    def __init__(self, folder: Path, model: str) -> None:
        self.folder, self.model, self.units = str(folder), model, 0
        self.store = open_store(self.folder)
        self.store.write("one.png", png(16))
        self.embeddings = EmbeddingStore(self.folder, "rev")
        self.encoder = open_model(model).text_encoder(torch.device("cpu"))

    def unit(self, *rows: dict[str, Any]) -> list[RowState]:
        number, self.units = self.units, self.units + 1
        lines = [{"id": f"{number}-{n}", "key": f"{n:032x}", "row": row} for n, row in enumerate(rows)]
        self.store.write(f"work/p/{number:06d}.jsonl", "\n".join(map(json.dumps, lines)).encode())
        prompts = self.embeddings.missing({key for row in rows for key in condition_keys(row)})
        if prompts:
            self.embeddings.put(prompts, self.encoder.encode(prompts))
            self.embeddings = EmbeddingStore(self.folder, "rev")
        return load_unit(Unit(number, number, 0, len(rows)), LoadOptions(self.folder, "p", self.folder, (8, 16), 3))

    def worker(self, number: int = 1, capacity: int = 8, dtype: str | None = None) -> SamplerWorker:
        return SamplerWorker(self.model, number, capacity, 1, self.embeddings, dtype)


@pytest.fixture
def darkroom(tmp_path: Path, toy_model: str) -> Darkroom:
    return Darkroom(tmp_path, toy_model)


def develop(worker: SamplerWorker, *units: list[RowState]) -> list[Any]:
    """All units at once; what each gave back, or its error."""

    async def all_of_them() -> list[Any]:
        return await asyncio.gather(*map(worker.process, units), return_exceptions=True)

    return asyncio.run(all_of_them())


def picture(state: RowState) -> np.ndarray:
    assert state.picture is not None, state.failure
    return state.picture


def error(state: RowState) -> str:
    return state.failure.text if state.failure else ""


def test_a_unit_comes_back_with_its_pictures_in_order(darkroom: Darkroom) -> None:
    unit = darkroom.unit(TEXT, EDIT, ANAGRAM)
    (made,) = develop(darkroom.worker(), unit)
    assert [state.id for state in made] == ["0-0", "0-1", "0-2"]
    assert [(one.evaluations, one.steps) for one in made] == [(6, 3), (4, 2), (12, 3)]
    assert {error(one) for one in made} == {""}
    assert all(picture(one).shape == (3, 8, 8) and picture(one).dtype == np.uint8 for one in made)
    assert made[0].worker.endswith(":cpu") and made[1].start_timestep < made[0].start_timestep
    assert to_block(made).num_rows == 1


@pytest.mark.parametrize(("conditioning", "evaluations"), [("class", [6, 3, 9]), ("time", [3, 3, 3])])
def test_a_network_knows_itself_what_labels_are(tmp_path: Path, conditioning: str, evaluations: list[int]) -> None:
    """By label; or unconditional, where all questions of a step are one and guidance has no say."""
    classes = 10 if conditioning == "class" else 0
    model = save_toy_network(str(tmp_path), network_config(conditioning=conditioning, num_classes=classes))
    label = (lambda n: {"label": n}) if classes else (lambda n: {})
    plain = {key: value for key, value in TEXT.items() if key != "prompt"}
    views = [{"view": "identity", **label(6)}, {"view": "identity", **label(9)}]
    rows = [plain | label(7), plain | label(7) | {"guidance": 1}, plain | {"task": "anagram", "views": views}]
    unit = [RowState.of_line(0, {"id": str(n), "key": "0", "row": row}) for n, row in enumerate(rows)]
    (made,) = develop(SamplerWorker(model, 1, 8, 1), unit)
    assert [error(one) for one in made] == ["", "", ""]
    assert [one.evaluations for one in made] == evaluations
    assert picture(made[0]).shape == (1, 28, 28)
    assert np.array_equal(picture(made[0]), picture(made[1])) is not bool(classes)


def test_several_units_in_flight_keep_every_pass_full(darkroom: Darkroom) -> None:
    units = [darkroom.unit(*({**TEXT, "seed": 4 * n + k} for k in range(4))) for n in range(6)]
    worker = darkroom.worker(capacity=8)
    develop(worker, *units)
    statistics = worker.statistics
    assert statistics.evaluations == 24 * 6 and statistics.passes == 18
    assert statistics.slot_use == 1.0


def test_a_picture_does_not_depend_on_its_company(darkroom: Darkroom) -> None:
    (alone,) = develop(darkroom.worker(), darkroom.unit(ANAGRAM))
    together = develop(darkroom.worker(), darkroom.unit(TEXT, EDIT), darkroom.unit({**TEXT, "seed": 3}, ANAGRAM))
    assert np.array_equal(picture(alone[0]), picture(together[1][1]))


def test_passes_go_on_while_an_embedding_is_waited_for(darkroom: Darkroom, monkeypatch: pytest.MonkeyPatch) -> None:
    quick, slow = darkroom.unit(TEXT), darkroom.unit({**TEXT, "prompt": "a blue one"})
    worker, arrived = darkroom.worker(), threading.Event()
    read = worker.condition

    def wait_for_blue(key: str) -> torch.Tensor:
        assert key != "a blue one" or arrived.wait(60)
        return read(key)

    monkeypatch.setattr(worker, "condition", wait_for_blue)

    async def both() -> tuple[list[RowState], list[RowState]]:
        second = asyncio.ensure_future(worker.process(slow))
        first = await asyncio.wait_for(worker.process(quick), 60) if not second.done() else []
        assert not second.done()
        arrived.set()
        return first, await second

    first, second = asyncio.run(both())
    assert [error(state) for state in (*first, *second)] == ["", ""]


def test_units_one_after_the_other(darkroom: Darkroom) -> None:
    worker = darkroom.worker()

    async def in_turn() -> list[Any]:
        return [await worker.process(darkroom.unit(TEXT)) for _ in range(3)]

    made = asyncio.run(in_turn())
    assert len({picture(unit[0]).tobytes() for unit in made}) == 1


def test_the_second_stage_goes_on_from_the_firsts_picture(darkroom: Darkroom) -> None:
    large = {**TEXT, "size": 16}
    (small,) = develop(darkroom.worker(1), darkroom.unit(large, TEXT, UPSCALE))
    first = picture(small[1])
    assert (picture(small[0]).dtype, first.dtype) == (np.float32, np.uint8), "pixels where no stage goes on from it"
    assert small[2].picture is None and small[2].evaluations == 0, "stage I has no part in upscaling"
    (made,) = develop(darkroom.worker(2), small)
    assert [picture(one).shape[-1] for one in made] == [16, 8, 16]
    assert np.array_equal(picture(made[1]), first), "a row of 8 pixels passes stage II by"
    assert [one.evaluations for one in made] == [6 + 8, 6, 8]
    assert [one.steps for one in made] == [3, 3, 4]
    assert [[record.stage for record in one.stages] for one in made] == [[1, 2], [1], [2]]
    upper = {"stage": 2, "steps": 4, "guidance": 4.0, "noise_level": 100, "dtype": "float32", "capacity": 8}
    assert made[0].stages[1].to_json() == upper


def test_a_compiled_stage_says_so_in_its_record(toy_network: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the backend that runs a traced graph as it is: no compiler is wanted for that."""
    monkeypatch.setattr("darkroom.batch.sampler_worker.compiled", functools.partial(compiled, backend="eager"))
    row = {key: value for key, value in TEXT.items() if key != "prompt"} | {"label": 7}
    found = {}
    for mode in ("off", "default"):
        unit = [RowState.of_line(0, {"id": "0", "key": "0", "row": row})]
        ((made,),) = develop(SamplerWorker(toy_network, 1, 8, 1, compile=mode), unit)
        (record,) = made.stages
        found[mode] = picture(made)
        assert (record.compile or "off", error(made)) == (mode, "")
    assert np.allclose(found["off"], found["default"], atol=1e-5)


def test_a_row_that_cannot_be_planned_costs_only_itself(darkroom: Darkroom) -> None:
    beyond = {**EDIT, "start": 9}
    unit = darkroom.unit(TEXT, beyond, {**TEXT, "seed": 2})
    (made,) = develop(darkroom.worker(), unit)
    assert error(made[1]) == "start 9 lies beyond the schedule, which has 3 steps" and made[1].picture is None
    assert [error(one) for one in (made[0], made[2])] == ["", ""] and made[2].picture is not None


def test_a_bug_in_planning_is_named_and_costs_only_its_row(darkroom: Darkroom) -> None:
    unit = darkroom.unit({**TEXT, "seed": 1}, TEXT)
    unit[0].row = {"task": "text_to_image", "prompt": "a red one"}
    (made,) = develop(darkroom.worker(), unit)
    assert error(made[0]) == "KeyError: 'seed'" and made[1].picture is not None


def test_a_row_that_failed_before_passes_through(darkroom: Darkroom) -> None:
    unit = darkroom.unit({**EDIT, "image": "none.png"}, TEXT)
    before = error(unit[0])
    (made,) = develop(darkroom.worker(), unit)
    assert before.startswith("there is no file") and error(made[0]) == before
    assert made[0].evaluations == 0 and made[1].evaluations == 6


def test_a_storage_outage_is_no_failed_row(darkroom: Darkroom) -> None:
    unit = darkroom.unit(TEXT)
    worker = darkroom.worker()
    darkroom.store.delete(*darkroom.store.list("embeddings/"))
    (raised,) = develop(worker, unit)
    assert isinstance(raised, StorageError), raised


def break_predictor(worker: SamplerWorker, monkeypatch: pytest.MonkeyPatch, answer: Any) -> None:
    original = worker.engine.predictor

    class Broken:
        process, device = original.process, original.device

        def __call__(self, *inputs: torch.Tensor) -> torch.Tensor:
            return answer(original(*inputs))

    for holder in (worker.engine, worker.engine.engine):
        monkeypatch.setattr(holder, "predictor", Broken())


def test_values_that_are_not_numbers_fail_their_row(darkroom: Darkroom, monkeypatch: pytest.MonkeyPatch) -> None:
    worker = darkroom.worker(capacity=2)  # one row a pass

    def spoil_first(output: torch.Tensor, seen: list[int] = []) -> torch.Tensor:  # noqa: B006 (it counts the calls)
        seen.append(1)
        return output * float("nan") if len(seen) <= 3 else output

    break_predictor(worker, monkeypatch, spoil_first)
    (made,) = develop(worker, darkroom.unit(TEXT, {**TEXT, "seed": 1}))
    assert error(made[0]) == "stage 1 gave values that are not finite numbers" and made[0].picture is None
    assert made[0].failure.kind == "numeric" and "retried_float32" not in made[0].flags
    assert error(made[1]) == "" and made[1].picture is not None


def test_values_beyond_half_precision_are_made_again_in_float32(
    darkroom: Darkroom, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = darkroom.worker(capacity=4, dtype="bfloat16")

    def spoil_large(output: torch.Tensor) -> torch.Tensor:
        output[0] *= float("nan")  # of the row that is alone in the engine first
        return output

    break_predictor(worker, monkeypatch, spoil_large)
    (made,) = develop(worker, darkroom.unit(TEXT))
    assert error(made[0]) == "" and made[0].flags == ["retried_float32"]
    assert made[0].evaluations == 12, "both walks were paid for"
    (precise,) = develop(darkroom.worker(capacity=2), darkroom.unit(TEXT))
    assert np.array_equal(picture(made[0]), picture(precise[0]))
    (stage,) = made[0].stages
    assert (stage.dtype, stage.capacity, stage.steps, stage.guidance) == ("float32", 2, 3, 7)
    assert worker.statistics.evaluations == 12


@pytest.mark.parametrize("when", ["its weights are loaded", "it makes its first pass"])
def test_float32_that_does_not_fit_beside_costs_the_row_alone(
    darkroom: Darkroom, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    worker = darkroom.worker(capacity=4, dtype="bfloat16")

    def spoil_first(output: torch.Tensor, seen: list[int] = []) -> torch.Tensor:  # noqa: B006 (it counts the calls)
        seen.append(1)
        output[0] *= float("nan") if len(seen) == 1 else 1
        return output

    def no_room(*_: Any) -> Any:
        if when == "its weights are loaded":
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB.")
        return type("NoRoom", (), {"process": worker.stage.process, "device": worker.device, "__call__": no_pass})()

    def no_pass(*_: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB.")

    break_predictor(worker, monkeypatch, spoil_first)
    monkeypatch.setattr(type(worker.model), "predictor", no_room)
    (made,) = develop(worker, darkroom.unit(TEXT, {**TEXT, "seed": 1}, {**TEXT, "seed": 2}))
    complaint = "stage 1 gave values that are not finite numbers in bfloat16, and float32 does not fit the device"
    assert error(made[0]).startswith(complaint) and made[0].failure.kind == "numeric"
    assert made[0].flags == ["float32_does_not_fit"]
    assert [error(one) for one in made[1:]] == ["", ""] and all(one.picture is not None for one in made[1:])


def test_the_mode_that_ran_is_recorded_and_not_the_one_that_was_asked_for(
    darkroom: Darkroom, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_compiler(*_: Any) -> Any:
        raise RuntimeError("Failed to find C compiler")

    said: list[str] = []
    works = functools.partial(compiled, backend="eager")
    fails = functools.partial(compiled, backend=no_compiler)
    for chosen, wanted in (
        (works, {"compile": "default", "compile_note": "CUDA graphs are not used: they need a GPU, and this is a cpu"}),
        (fails, None),
    ):
        monkeypatch.setattr("darkroom.batch.sampler_worker.compiled", chosen)
        told = (darkroom.model, 1, 4, 1, darkroom.embeddings, None, 1.0, "graphs")
        worker = SamplerWorker(*told, begin=said.append)
        (made,) = develop(worker, darkroom.unit(TEXT))
        (stage,) = (record.to_json() for record in made[0].stages)
        if wanted is not None:
            assert {key: stage[key] for key in wanted} == wanted
        else:
            assert "compile" not in stage and "torch.compile failed" in stage["compile_note"]
    assert "compiling (graphs)" in said and any("the model runs as it is" in line for line in said)


@pytest.mark.parametrize("said", SHORTAGES, ids=str)
def test_memory_that_ends_while_a_model_is_compiled_is_left_to_the_engine(
    toy_network: str, monkeypatch: pytest.MonkeyPatch, said: Exception
) -> None:
    def no_room(*_: Any) -> None:
        raise said

    monkeypatch.setattr("darkroom.batch.sampler_worker.warm_up", no_room)
    assert SamplerWorker(toy_network, 1, 8, 1, compile="default").engine.capacity == 8


def test_memory_that_ends_halves_the_capacity_and_costs_no_row(
    darkroom: Darkroom, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unit() -> list[RowState]:
        return darkroom.unit(*({**TEXT, "seed": seed, "steps": 2 + seed} for seed in range(5)), ANAGRAM)

    def refuse_eight(output: torch.Tensor) -> torch.Tensor:
        passes.append(len(output))
        if len(output) > 3 or len(passes) == 6:  # and once on the way, when rows are half developed
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return output

    passes: list[int] = []
    worker = darkroom.worker(capacity=8)
    break_predictor(worker, monkeypatch, refuse_eight)
    made, also = develop(worker, unit(), unit())
    assert passes[:3] == [8, 4, 2] and set(passes[6:]) == {1}
    small = {capacity: develop(darkroom.worker(capacity=capacity), unit())[0] for capacity in (1, 2)}
    capacities = [one.stages[0].capacity for one in (*made, *also)]
    assert set(capacities) == {1, 2}
    for place, (one, capacity) in enumerate(zip((*made, *also), capacities, strict=True)):
        wanted = small[capacity][place % len(made)]
        assert error(one) == "" and np.array_equal(picture(one), picture(wanted))
        assert one.evaluations == wanted.evaluations


def test_a_model_that_does_not_fit_at_all_is_the_clusters_fault(
    darkroom: Darkroom, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(output: torch.Tensor) -> torch.Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB.")

    worker = darkroom.worker(capacity=4)
    break_predictor(worker, monkeypatch, refuse)
    (raised,) = develop(worker, darkroom.unit(TEXT))
    assert isinstance(raised, ClusterError) and "stage 1 does not fit its device" in str(raised)


def test_candidates_are_one_row_and_the_chosen_seed_goes_on(darkroom: Darkroom) -> None:
    best = {**TEXT, "size": 16, "best_of": 3, "seed": 7}
    singles = [{**TEXT, "size": 16, "seed": seed} for seed in (7, 8, 9)]
    (first,) = develop(darkroom.worker(1), darkroom.unit(best, *singles))
    candidates = picture(first[0])
    assert candidates.shape == (3, 3, 8, 8) and first[0].evaluations == 18
    assert all(np.array_equal(candidates[n], picture(first[n + 1])) for n in range(3))
    chosen = dataclasses.replace(first[0], picture=first[3].picture, chosen_seed=9)
    (made,) = develop(darkroom.worker(2), [chosen, first[3]])
    assert np.array_equal(picture(made[0]), picture(made[1]))


def test_only_so_many_rows_are_planned_at_once(darkroom: Darkroom, monkeypatch: pytest.MonkeyPatch) -> None:
    worker, most = darkroom.worker(capacity=2), 0
    advance = worker.engine.engine.advance

    def watch() -> list[Any]:
        nonlocal most
        most = max(most, len(worker.engine._under_way))
        return advance()

    monkeypatch.setattr(worker.engine.engine, "advance", watch)
    (made,) = develop(worker, darkroom.unit(*({**TEXT, "seed": seed} for seed in range(12))))
    assert most == 4 and all(one.picture is not None for one in made) and worker.waiting == 0


def test_an_engine_that_dies_ends_the_wait_of_all(darkroom: Darkroom, monkeypatch: pytest.MonkeyPatch) -> None:
    worker = darkroom.worker()

    def die(output: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("out of memory")

    break_predictor(worker, monkeypatch, die)
    units = [darkroom.unit(TEXT), darkroom.unit(EDIT), darkroom.unit(ANAGRAM)]

    async def with_limit() -> list[Any]:
        waiting = asyncio.gather(*map(worker.process, units), return_exceptions=True)
        return await asyncio.wait_for(waiting, timeout=60)

    errors = asyncio.run(with_limit())
    assert all(isinstance(raised, ClusterError) for raised in errors)
    (said,) = {str(raised) for raised in errors}
    assert said == "stage 1 ended, and no row is to blame: ModelBroken: RuntimeError: out of memory"


def test_a_row_that_cannot_be_packed_fails_alone_though_nobody_refused_it(
    darkroom: Darkroom, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A view in more pieces than the stage has pixels, which the manifest's check refuses: here it is asked all the
    same."""
    odd = {**ANAGRAM, "views": [VIEWS[0], {"view": "identity", "prompt": "a two"}]}
    unit = darkroom.unit(TEXT, odd, EDIT)
    worker = darkroom.worker()

    def with_odd_view(row: dict[str, Any], stage: Stage, inputs: Inputs) -> Plan:
        plan = make_plan(row, stage, inputs)
        view = View("patch_permute", (("pieces", 100), ("seed", 0)))
        if "views" not in row:
            return plan
        return dataclasses.replace(plan, branches=(plan.branches[0], dataclasses.replace(plan.branches[1], view=view)))

    monkeypatch.setattr("darkroom.batch.sampler_worker.make_plan", with_odd_view)
    (made,) = develop(worker, unit)
    (without,) = develop(darkroom.worker(), darkroom.unit(TEXT, EDIT))
    assert made[1].failure is not None and made[1].failure.kind == "input" and "100" in error(made[1])
    assert np.array_equal(picture(made[0]), picture(without[0]))
    assert np.array_equal(picture(made[2]), picture(without[1]))


class Doubling:
    """In the place of a VAE: doubles states of no value beyond 50, two at once. broken: it does nothing at all; room:
    states that its device has memory for."""

    device, is_whole, at_once = torch.device("cpu"), True, 2

    def __init__(self, broken: bool = False, room: int = 2) -> None:
        self.broken, self.room = broken, room
        self.shapes: list[tuple[int, ...]] = []

    def tile(self) -> bool:
        return False

    def decode(self, states: torch.Tensor) -> torch.Tensor:
        if len(states) > self.room:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        if self.broken or states.abs().max() > 50:
            raise RuntimeError("a value is too large")
        self.shapes.append(tuple(states.shape))
        return 2 * states


class Latent:
    """A predictor whose states are latents."""

    def __init__(self, predictor: Any, latents: Doubling) -> None:
        self.predictor, self.latents = predictor, latents
        self.process, self.device = predictor.process, predictor.device

    def __call__(self, *inputs: torch.Tensor) -> torch.Tensor:
        return self.predictor(*inputs)


def plain_plans(darkroom: Darkroom, predictor: Any, count: int) -> list[Plan]:
    conditions = {key: darkroom.encoder.encode([key])[0] for key in ("a red one", "")}
    stage = Stage(1, 8, 3, predictor.process)
    return [make_plan({**TEXT, "seed": seed}, stage, Inputs(conditions)) for seed in range(count)]


def test_latents_that_cannot_be_decoded_fail_their_row_and_a_broken_decoder_ends_the_worker(
    darkroom: Darkroom,
) -> None:
    predictor = open_model(darkroom.model).predictor(1, torch.device("cpu"))
    plans = plain_plans(darkroom, predictor, 3)
    plans[1] = dataclasses.replace(plans[1], moves=(), reference=torch.full((3, 8, 8), 99.0))
    latents = Doubling()
    engine = EngineThread("stage 1", Latent(predictor, latents), "float32", 8, decodes=True)
    first, bad, last = (future.result(60) for future in [engine.submit(plan) for plan in plans])
    plain = EngineThread("stage 1", predictor, "float32", 8)
    assert isinstance(bad, Failed) and str(bad.error) == "a value is too large"
    for sample, plan in ((first, plans[0]), (last, plans[2])):
        assert torch.equal(sample.image, 2 * plain.submit(plan).result(60).image)
    assert {shape for shape in latents.shapes if shape[0] > 1} == {(2, 3, 8, 8)}, "always as many at once"
    broken = EngineThread("stage 1", Latent(predictor, Doubling(broken=True)), "float32", 8, decodes=True)
    with pytest.raises(ClusterError, match="no row is to blame: RuntimeError: a value is too large"):
        broken.submit(plans[0]).result(60)
    with pytest.raises(ClusterError, match="no row is to blame"):
        broken.submit(plans[2])


def test_decoding_for_which_memory_is_short_takes_fewer_and_then_smaller_passes(darkroom: Darkroom) -> None:
    predictor = open_model(darkroom.model).predictor(1, torch.device("cpu"))
    plans = plain_plans(darkroom, predictor, 3)
    one = EngineThread("stage 1", Latent(predictor, Doubling(room=1)), "float32", 8, decodes=True)
    found = [future.result(60) for future in [one.submit(plan) for plan in plans]]
    assert [sample.capacity for sample in found] == [8, 8, 8]

    latents = Doubling(room=0)
    engine = EngineThread("stage 1", Latent(predictor, latents), "float32", 8, decodes=True)
    shrink = engine._shrink

    def make_room(shortage: str) -> None:
        shrink(shortage)
        latents.room = 1 if engine.capacity == 2 else 0

    engine._shrink = make_room
    found = [future.result(60) for future in [engine.submit(plan) for plan in plans]]
    assert engine.capacity == 2 and all(isinstance(sample, Sample) for sample in found)

    none = EngineThread("stage 1", Latent(predictor, Doubling(room=0)), "float32", 2, decodes=True)
    with pytest.raises(ClusterError, match="does not fit its device, not even one picture of its latents"):
        none.submit(plans[0]).result(60)


def test_the_engine_does_not_wait_for_decoding(darkroom: Darkroom) -> None:
    predictor, opened = open_model(darkroom.model).predictor(1, torch.device("cpu")), threading.Event()

    class Slow(Doubling):
        def decode(self, states: torch.Tensor) -> torch.Tensor:
            assert opened.wait(60)
            return super().decode(states)

    plans = plain_plans(darkroom, predictor, 3)
    engine = EngineThread("stage 1", Latent(predictor, Slow()), "float32", 2, decodes=True)
    futures = [engine.submit(plan) for plan in plans]
    deadline = time.monotonic() + 60
    while engine.statistics.evaluations < 18 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert engine.statistics.evaluations == 18 and not any(future.done() for future in futures)
    opened.set()
    assert all(isinstance(future.result(60), Sample) for future in futures)


def test_a_worker_takes_no_other_model_than_the_runs_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Replaced in place before the worker starts, or before it loads the same weights in full precision."""
    uri = save_toy_network(str(tmp_path))
    wanted = open_model(uri).revision
    row = {key: value for key, value in TEXT.items() if key != "prompt"} | {"label": 7}
    worker = SamplerWorker(uri, 1, 4, 1, dtype="bfloat16", revision=wanted)
    found = open_model(save_toy_network(uri, seed=1)).revision
    said = f"begun with the revision {wanted} of the model 'toy-network', and at {uri} lies {found} now"
    with pytest.raises(ModelError, match=said):
        SamplerWorker(uri, 1, 4, 1, revision=wanted)
    break_predictor(worker, monkeypatch, lambda output: output * float("nan"))
    (raised,) = develop(worker, [RowState.of_line(0, {"id": "0", "key": "0", "row": row})])
    assert isinstance(raised, ModelError) and said in str(raised)


def test_a_unit_of_nothing_but_failures_returns_at_once(darkroom: Darkroom) -> None:
    (made,) = develop(darkroom.worker(), darkroom.unit({**EDIT, "image": "none.png"}))
    assert error(made[0]).startswith("there is no file")
