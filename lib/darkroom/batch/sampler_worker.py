"""The actor that holds one stage of a model, and keeps its engine full from several units at once."""

from __future__ import annotations

import asyncio
import platform
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import numpy as np
import torch

from darkroom.batch.capacity import empty_pass, find_capacity
from darkroom.batch.engine_thread import EngineThread, Sample
from darkroom.batch.kept_latents import keep_latents, kept_latents
from darkroom.batch.latents_thread import Keep
from darkroom.batch.load_inputs import hint_name
from darkroom.batch.options import default_dtype
from darkroom.batch.row_state import Clip, RowState, StageRecord, guarded
from darkroom.batch.scoring import seeds
from darkroom.batch.stuck import Guard
from darkroom.models import MOST_ADAPTERS
from darkroom.models.adapter_files import StoredAdapter
from darkroom.models.catalog import open_revision
from darkroom.models.compiled import Mode, compiled, notes_of, warm_up
from darkroom.models.control import StoredNet
from darkroom.models.embeddings import EmbeddingStore
from darkroom.models.memory import size_text
from darkroom.ray_cluster import ClusterError
from darkroom.sampling.engine import Failed, Predictor, Statistics
from darkroom.sampling.latent_inputs import to_latents
from darkroom.sampling.out_of_memory import naming_out_of_memory
from darkroom.sampling.plans import Plan, as_asked, condition_keys, goes_through, make_plan
from darkroom.sampling.solvers import REMEMBERED
from darkroom.sampling.stage import Fields, Handed, Inputs, Stage, at_size
from darkroom.storage import encode_mp4, open_store, size_name, to_uint8

if TYPE_CHECKING:
    from darkroom.models.catalog import Model

ROWS_AHEAD = 2  # times the capacity: planned, so that the engine need not wait for one; the rest wait unread
ORDER_SECONDS = 0.5  # that a row waits for those before it, whose embeddings may take long to read
PLANNERS = 4  # threads: they wait on storage, for embeddings, more than they compute

T = TypeVar("T")


@dataclass(frozen=True)
class Precise:
    """The stage in full precision, for rows that half precision cannot hold; or why it cannot be had."""

    engine: EngineThread | None = None
    shortage: str = ""  # what the device said


class SamplerWorker:
    """Stage `number` of the model on this worker's device. `process` may be awaited for many units at once.

    embeddings: of the prompts, for a text model; any other model says itself what a label is to it.
    capacity: "auto" for the largest that fits the device; dtype: None for the model's own, float32 on a processor.
    share: of the device's memory that this actor may take; compile: see `compiled`. run: whose workers agree on a
    capacity; begin: told what loading is at. revision: what the model must be, now and whenever more of it is loaded.
    guard: of the engine's passes; adapters, nets: that rows may ask for.
    """

    def __init__(
        self,
        model: str,
        number: int,
        capacity: int | Literal["auto"],
        threads: int,
        embeddings: EmbeddingStore | None = None,
        dtype: str | None = None,
        share: float = 1.0,
        compile: Mode = "off",
        run: str | None = None,
        begin: Callable[[str], None] = lambda what: None,
        revision: str | None = None,
        guard: Guard | None = None,
        adapters: Sequence[StoredAdapter] = (),
        nets: Sequence[StoredNet] = (),
    ) -> None:
        torch.set_num_threads(threads)
        # Asked here and nowhere else: the machine that submits a job need not be like those that do it.
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        if self.device.type == "cuda" and share < 1:
            torch.cuda.set_per_process_memory_fraction(share)  # else one stage would starve those it shares a GPU with
        self.open = partial(open_revision, model, revision, adapters, nets)
        self.model = self.open()
        self.number, self.dtype = number, dtype or default_dtype(self.model, on_gpu=self.device.type == "cuda")
        self.stages: tuple[Stage, ...] = self.model.stages
        self.stage = self.stages[number - 1]
        self.default_size = self.model.default_size
        self.embeddings = embeddings
        self.run = None if run is None else open_store(run)
        begin(f"loading the weights, {size_text(self.model.memory(number, self.dtype, 1).weights)} in {self.dtype}")
        predictor = self.model.predictor(number, self.device, self.dtype)
        self.open()  # once more: it may have been replaced while its weights were read
        fields, beside = self.model.empty_fields(number), self.model.control_fields(number)
        names = tuple(net.name for net in self.model.nets) if beside else ()
        if capacity == "auto":
            begin("finding the largest pass that fits the device")
            more = [one.digest[:16] for one in (*self.model.adapters, *(self.model.nets if beside else ()))]
            what = "+".join([self.model.revision, *more, *([] if compile == "off" else [compile])])
            largest = predictor.controlled(names) if names else predictor
            most = self.model.empty_fields(number, MOST_ADAPTERS)
            capacity = find_capacity(largest, self.stage, (*most, *beside), what, self.dtype, share, run)
        self.predictor = compiled(predictor, compile)
        if compile != "off":
            begin(f"compiling ({compile})")
            self._compile(self.predictor, fields, capacity, begin)
            if names:
                self._compile(self.predictor.controlled(names), (*fields, *beside), capacity, begin)
        self.guard = guard or Guard(None)
        self.engine = self._start_engine(self.predictor, self.dtype, capacity, self.guard)
        name = torch.cuda.get_device_name() if self.device.type == "cuda" else "cpu"
        self.worker = f"{platform.node()}:{name}"
        self.waiting = 0  # rows of the units that came in, not yet planned
        self._begun: dict[str, list[tuple[Plan, Future[Sample | Failed]]]] = {}  # by the ids of the rows at this stage
        self._precise = Precise()
        self._loading = asyncio.Lock()
        self._room = asyncio.Semaphore(max(ROWS_AHEAD * capacity, 2))
        self._last = asyncio.Event()  # set when the row that came last is with the engine
        self._last.set()
        self._planners = ThreadPoolExecutor(PLANNERS, thread_name_prefix="planner")

    def _compile(
        self, predictor: Predictor, fields: Sequence[torch.Tensor], capacity: int, begin: Callable[[str], None]
    ) -> None:
        """Before the first row, so that none waits for it and what cannot be had is known for all of them."""
        inputs = empty_pass(self.stage, fields, capacity)
        try:
            with naming_out_of_memory():
                warm_up(predictor, tuple(part.to(self.device) for part in inputs))
        except torch.OutOfMemoryError:
            return  # the engine will meet it too, and halve
        for note in notes_of(predictor):
            begin(note)

    def _start_engine(self, predictor: Any, dtype: str, capacity: int, guard: Guard | None = None) -> EngineThread:
        name, stage = f"stage {self.number}", self.stage
        return EngineThread(name, predictor, dtype, capacity, stage.decodes, guard, stage.shape)

    @property
    def statistics(self) -> Statistics:
        """What the engines have done since they began."""
        threads = [self.engine] + ([self._precise.engine] if self._precise.engine else [])
        counts = [thread.statistics for thread in threads]
        return Statistics(**{name: sum(getattr(count, name) for count in counts) for name in vars(counts[0])})

    async def process(self, rows: list[RowState]) -> list[RowState]:
        """Brings every row of a unit through this stage; rows that failed or need no such stage pass through."""
        self.waiting += len(rows)
        under_way = [asyncio.ensure_future(self._process_row(state)) for state in rows]
        try:
            await asyncio.gather(*under_way)
        finally:
            for row in under_way:  # where one met an outage, the others are not waited for
                row.cancel()
        return rows

    def moves(self, row_id: str) -> tuple[int, int] | None:
        """Made, and all, of a row that is at this stage; None of any other."""
        if not (begun := self._begun.get(row_id)):
            return None
        counts = [(self.engine.moves_made(future) or 0, len(plan.moves)) for plan, future in begun]
        return sum(made for made, _ in counts), sum(all_moves for _, all_moves in counts)

    async def _process_row(self, state: RowState) -> None:
        async with self._room:
            self.waiting -= 1
            begun = self._begun[state.id] = await self._begin(state)
            try:
                if begun:
                    samples = await asyncio.gather(*(self._sample(plan, first, state) for plan, first in begun))
                    await self._beside(lambda: self._take(state, begun[0][0], samples))
            finally:
                del self._begun[state.id]
                for _, future in begun:
                    if not future.done():  # the row is no longer waited for
                        self.engine.withdraw(future)

    async def _begin(self, state: RowState) -> list[tuple[Plan, Future[Sample | Failed]]]:
        """The row's plans, handed to the engine in the order in which rows came, if that takes no time."""
        before, mine = self._last, asyncio.Event()
        self._last = mine
        try:
            with self.engine.expecting():
                plans = await self._beside(lambda: self._plans(state))
                with suppress(TimeoutError):
                    await asyncio.wait_for(before.wait(), ORDER_SECONDS)
                keep = self._keeper(state)
                return [(plan, self.engine.submit(plan, keep)) for plan in plans]
        finally:
            mine.set()

    async def _beside(self, work: Callable[[], T]) -> T:
        """In a thread of its own, so that the loop stays free to hand rows on."""
        return await asyncio.get_running_loop().run_in_executor(self._planners, work)

    async def _sample(self, plan: Plan, first: Future[Sample | Failed], state: RowState) -> Sample | Failed:
        """What comes of a plan that was submitted, `first`, or of trying it again in full precision."""
        sample = await asyncio.wrap_future(first)
        if isinstance(sample, Failed) or self.dtype == "float32" or sample.finite:
            return sample
        engine = await self._in_float32()
        if engine is not None:
            try:
                again = await asyncio.wrap_future(engine.submit(plan))
            except ClusterError as error:  # not even passes of one evaluation fit: that is these rows' failure alone
                self._give_up_float32(str(error))
            else:
                state.flag("retried_float32")
                state.evaluations += sample.evaluations
                return again
        state.flag("float32_does_not_fit")
        return sample

    async def _in_float32(self) -> EngineThread | None:
        """The same stage in full precision, loaded when a row first needs it: half the capacity, twice the bytes. None
        where the device has no room for it beside the stage, as when `auto` has filled it."""
        async with self._loading:
            if self._precise == Precise():
                try:
                    predictor = await asyncio.to_thread(self._load_float32)
                    half = max(1, self.engine.capacity // 2)
                    self._precise = Precise(self._start_engine(predictor, "float32", half))
                except torch.OutOfMemoryError as error:
                    shortage = str(error)
                else:
                    return self._precise.engine
                self._give_up_float32(shortage)  # out here, where the error's frames hold no weights any more
        return self._precise.engine

    def _load_float32(self) -> Any:
        """From the model as it lies there now, hours later maybe, which must be the same."""
        with naming_out_of_memory():
            predictor = self.open().predictor(self.number, self.device, "float32")
        self.open()
        return predictor

    def _give_up_float32(self, shortage: str) -> None:
        self._precise = Precise(shortage=shortage)
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def _plans(self, state: RowState) -> list[Plan]:
        """A plan, or one for each candidate; none where the row has nothing to do here."""
        with guarded(state):
            if state.failure is None and goes_through(state.row, self.stage, self.default_size):
                row = state.row if state.chosen_seed is None else state.row | {"seed": state.chosen_seed}
                inputs = stage_inputs(state, self.model, self.stage, self.condition)
                drawn = seeds(row) if self.number == 1 else [row["seed"]]
                return [self._sampled_before(state, self._plan(row | {"seed": seed}, inputs)) for seed in drawn]
        return []

    def _keeper(self, state: RowState) -> Keep | None:
        """Keeps the last latents of a row's video in the run."""
        if self.run is None or self.stage.video is None or not self.stage.decodes:
            return None
        return partial(keep_latents, self.run, state.key)

    def _sampled_before(self, state: RowState, plan: Plan) -> Plan:
        """A plan that makes no move, where the row's video was sampled by an earlier try and only not decoded."""
        if self.run is None or self.stage.video is None or (kept := kept_latents(self.run, state.key)) is None:
            return plan
        state.flag("decoded_again")
        end = plan.span.stop
        return replace(plan, part=(end, end), handed=Handed(kept, ()))

    def _plan(self, row: dict[str, Any], inputs: Inputs) -> Plan:
        if self.engine.latents is not None:
            inputs = to_latents(inputs, row, at_size(row, self.stage), self.engine.latents.encode)
        return make_plan(row, self.stage, inputs)

    def condition(self, key: str) -> torch.Tensor | Fields:
        """What the stage's model is told for a prompt or label."""
        if self.embeddings is None:
            return self.model.condition(key)
        return self.model.fields_of(self.number, self.embeddings.get(key))

    def _take(self, state: RowState, plan: Plan, samples: list[Sample | Failed]) -> None:
        """What came of the row's plans, of which `plan` is the first, is written into it."""
        state.evaluations += sum(sample.evaluations for sample in samples)
        state.seconds += sum(sample.seconds for sample in samples)
        if not state.worker:  # the first stage to touch it says where the walk began
            state.start_timestep = float(plan.moves[0].model_time) if plan.moves else None
            state.steps = sum(move.asks for move in plan.moves)
        state.worker = self.worker
        with guarded(state):
            made = [sample for sample in samples if isinstance(sample, Sample)]
            if made:
                state.stages.append(self._record(state.row, plan, made))
            if failed := [sample for sample in samples if isinstance(sample, Failed)]:
                raise failed[0].error
            if not all(sample.finite for sample in made):
                lacks = f" in {self.dtype}, and float32 does not fit the device beside it"
                why = lacks if self._precise.shortage else ""
                raise FloatingPointError(f"stage {self.number} gave values that are not finite numbers{why}")
            if self.stage.hands_over:
                state.handed = _to_arrays(Handed(made[0].image, made[0].memory))
            else:
                state.picture, state.handed = self._handed_on(state, made), {}

    def _record(self, row: dict[str, Any], plan: Plan, samples: list[Sample]) -> StageRecord:
        """What the stage was: the mode that ran, and why it is not the one that was asked for, among it."""
        ran = sorted({sample.compile for sample in samples} - {"off"})
        return StageRecord(
            stage=self.number,
            steps=sum(plan.moves[move].asks for move in plan.span),
            guidance=plan.guidance,
            noise_level=as_asked(row, self.stage).noise_level,
            dtype="float32" if any(sample.dtype == "float32" for sample in samples) else self.dtype,
            capacity=min(sample.capacity for sample in samples),
            compile=ran[0] if ran else None,
            compile_note="; ".join(notes_of(self.predictor)) or None,
        )

    def _handed_on(self, state: RowState, samples: list[Sample]) -> np.ndarray:
        """Candidates and what another stage goes on from as they are; else pixels, rounded here and not again."""
        if self.stage.video is not None:
            return self._filmed(state, samples[0].image)
        images = [pasted(sample.image, state, self.stage).numpy() for sample in samples]
        if len(images) > 1:
            return np.stack(images)
        ended = not any(goes_through(state.row, stage, self.default_size) for stage in self.stages[self.number :])
        return to_uint8(images[0]) if ended else images[0]

    def _filmed(self, state: RowState, frames: torch.Tensor) -> np.ndarray:
        """The first of a video's frames, float32 [3, F, H, W], as pixels; the row gets the video. It is encoded here,
        as what travels on is then a hundredth of the bytes."""
        pixels, video = to_uint8(frames).numpy(), at_size(state.row, self.stage).video
        assert video is not None and len(pixels[0]) == video.frames, f"{pixels.shape} are not the frames of {video}"
        state.clip = Clip(encode_mp4(pixels.transpose(1, 2, 3, 0), video.fps), video.frames, video.fps)
        return np.ascontiguousarray(pixels[:, 0])


def pasted(image: torch.Tensor, state: RowState, stage: Stage) -> torch.Tensor:
    """A picture of a stage with the original where a mask keeps it: of latents that were held, a VAE makes others."""
    size = size_name(at_size(state.row, stage).pixels)
    if not stage.encodes or f"mask/{size}" not in state.inputs:
        return image
    original = _picture(state, "image", size)
    assert original is not None, "a mask comes with its picture"
    return torch.where(torch.from_numpy(state.inputs[f"mask/{size}"]) >= 128, image, original)


def stage_inputs(
    state: RowState, model: Model, stage: Stage, condition: Callable[[str], torch.Tensor | Fields]
) -> Inputs:
    """What a row's plan at a stage is made from. condition: what a prompt or label is to the stage's model."""
    low_res = None
    if stage.video is not None:
        pass  # an expert goes on from what it is handed
    elif stage.number > 1 and state.picture is not None:
        low_res = torch.from_numpy(state.picture)
    elif stage.number > 1:
        low_res = _picture(state, "image", str(min(int(name.rpartition("/")[2]) for name in state.inputs)))
    size = size_name(at_size(state.row, stage).pixels)
    mask = state.inputs.get(f"mask/{size}")
    return Inputs(
        conditions={key: condition(key) for key in condition_keys(state.row, stage)},
        image=_picture(state, "image", size),
        mask=None if mask is None else torch.from_numpy(mask) >= 128,
        given=_picture(state, "given", size),
        low_res=low_res,
        fields=model.row_fields(stage.number, state.row),
        handed=_from_arrays(state.handed),
        hints=_hints(state, model, size) if stage.number == 1 else {},
    )


def _to_arrays(handed: Handed) -> dict[str, np.ndarray]:
    own = {str(number): tensor.numpy() for number, tensor in enumerate(handed.memory, 1) if tensor is not None}
    return {"x": handed.x.numpy(), **own}


def _from_arrays(arrays: dict[str, np.ndarray]) -> Handed | None:
    """What `_to_arrays` made arrays of; None where there are none."""
    if not arrays:
        return None
    tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
    return Handed(tensors["x"], tuple(tensors.get(str(number)) for number in range(1, REMEMBERED + 1)))


def _hints(state: RowState, model: Model, size: str) -> dict[str, torch.Tensor]:
    """What the row's control networks see, in the model's order of them."""
    places = {use["net"]: place for place, use in enumerate(state.row.get("control", ()))}
    own = {net.name: f"{hint_name(places[net.name])}/{size}" for net in model.nets if net.name in places}
    return {name: torch.from_numpy(state.inputs[key]).float() / 255 for name, key in own.items()}


def _picture(state: RowState, name: str, size: str) -> torch.Tensor | None:
    """uint8 [C, H, W] as float32 in [-1, 1]. size: see `size_name`."""
    array = state.inputs.get(f"{name}/{size}")
    return None if array is None else torch.from_numpy(array).float() / 127.5 - 1
