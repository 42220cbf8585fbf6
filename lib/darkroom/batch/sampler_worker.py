"""The actor that holds one stage of a model, and keeps its engine full from several units at once."""

from __future__ import annotations

import asyncio
import json
import platform
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch

from darkroom.batch import row_state
from darkroom.batch.capacity import any_condition_of, empty_pass, find_capacity
from darkroom.batch.drive import Drive, Walked
from darkroom.batch.embeddings import EmbeddingStore
from darkroom.batch.options import default_dtype
from darkroom.batch.selection import seeds
from darkroom.models.catalog import open_model
from darkroom.models.compiled import Mode, compiled, notes_of, warm_up
from darkroom.models.memory import size_text
from darkroom.ray_cluster import ClusterError
from darkroom.sampling.engine import Statistics
from darkroom.sampling.plans import Inputs, Plan, Stage, as_asked, condition_keys, goes_through, make_plan
from darkroom.storage import StorageError

ROWS_AHEAD = 2  # times the capacity: planned, so that the engine need not wait for one; the rest wait unread


@dataclass(frozen=True)
class Planned:
    """A row on its way through a stage: a plan, or one for each candidate."""

    row: dict[str, Any]
    plans: list[Plan]


class Developer:
    """Stage `number` of the model on this worker's device. `develop` may be awaited for many units at once.

    embeddings: of the prompts, for a text model; any other model says itself what a label is to it.
    capacity: "auto" for the largest that fits the device; dtype: None for the model's own, float32 on a processor.
    share: of the device's memory that this actor may take; compile: see `compiled`. run: whose workers agree on a
    capacity; begin: told what loading is at.
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
    ) -> None:
        torch.set_num_threads(threads)
        # Asked here and nowhere else: the machine that submits a job need not be like those that do it.
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        if self.device.type == "cuda" and share < 1:
            torch.cuda.set_per_process_memory_fraction(share)  # else one stage would starve those it shares a GPU with
        self.model = open_model(model)
        self.number, self.dtype = number, dtype or default_dtype(self.model, on_gpu=self.device.type == "cuda")
        self.stages: tuple[Stage, ...] = self.model.stages
        self.stage = self.stages[number - 1]
        self.default_size = self.model.default_size
        self.condition: Callable[[str], torch.Tensor] = self.model.condition if embeddings is None else embeddings.get
        begin(f"loading the weights, {size_text(self.model.memory(number, self.dtype, 1).weights)} in {self.dtype}")
        predictor = self.model.predictor(number, self.device, self.dtype)
        any_condition = any_condition_of(self.model, number)
        if capacity == "auto":
            begin("finding the largest pass that fits the device")
            capacity = find_capacity(predictor, self.stage, any_condition, self.model.revision, self.dtype, share, run)
        self.drive = self._drive(compiled(predictor, compile), self.dtype, capacity)
        if compile != "off":
            begin(f"compiling ({compile})")
            self._compile(any_condition, begin)
        name = torch.cuda.get_device_name() if self.device.type == "cuda" else "cpu"
        self.worker = f"{platform.node()}:{name}"
        self.waiting = 0  # rows of the units that came in, not yet planned
        self._precise: Drive | None = None
        self._too_large = ""  # what the device said when float32 did not fit beside the stage
        self._loading = asyncio.Lock()
        self._room = asyncio.Semaphore(max(ROWS_AHEAD * capacity, 2))

    def _compile(self, condition: torch.Tensor, begin: Callable[[str], None]) -> None:
        """Before the first row, so that none waits for it and what cannot be had is known for all of them."""
        predictor = self.drive.predictor
        inputs = empty_pass(self.stage, condition, self.drive.engine.capacity)
        try:
            warm_up(predictor, tuple(part.to(self.device) for part in inputs))
        except torch.OutOfMemoryError:
            return  # the engine will meet it too, and halve
        for note in notes_of(predictor):
            begin(note)

    @property
    def statistics(self) -> Statistics:
        """What the engines have done since they began."""
        both = [self.drive.engine.statistics] + ([self._precise.engine.statistics] if self._precise else [])
        return Statistics(**{name: sum(getattr(one, name) for one in both) for name in vars(both[0])})

    async def develop(self, parcels: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Brings every row of a unit through this stage; rows that failed or need no such stage pass through."""
        self.waiting += len(parcels)
        rows = [asyncio.ensure_future(self._develop_row(made)) for made in parcels]
        try:
            await asyncio.gather(*rows)
        finally:
            for row in rows:  # where one met an outage, the others are not waited for
                row.cancel()
        return parcels

    async def _develop_row(self, made: dict[str, Any]) -> None:
        async with self._room:
            self.waiting -= 1
            planned = self._guarded(self._plan, made)
            if planned is None:
                return
            walked = await asyncio.gather(*(self._walk(plan, made) for plan in planned.plans))
            self._guarded(lambda made: self._take(made, planned, walked), made)

    async def _walk(self, plan: Plan, made: dict[str, Any]) -> Walked:
        walked = await self.drive.walk(plan)
        if walked.finite or self.dtype == "float32":
            return walked
        precise = await self._in_float32()
        if precise is not None:
            try:
                again = await precise.walk(plan)
            except ClusterError as error:  # not even passes of one evaluation fit: that is these rows' failure alone
                self._give_up_float32(str(error))
            else:
                row_state.flag(made, "retried_float32")
                made["evaluations"] += walked.evaluations
                return again
        row_state.flag(made, "float32_does_not_fit")
        return walked

    async def _in_float32(self) -> Drive | None:
        """The same stage in full precision, loaded when a row first needs it: half the capacity, twice the bytes. None
        where the device has no room for it beside the stage, as when `auto` has filled it."""
        async with self._loading:
            if self._precise is None and not self._too_large:
                try:
                    predictor = await asyncio.to_thread(self.model.predictor, self.number, self.device, "float32")
                    self._precise = self._drive(predictor, "float32", max(1, self.drive.engine.capacity // 2))
                except torch.OutOfMemoryError as error:
                    shortage = str(error)
                else:
                    return self._precise
                self._give_up_float32(shortage)  # out here, where the error's frames hold no weights any more
        return self._precise

    def _give_up_float32(self, shortage: str) -> None:
        self._precise, self._too_large = None, shortage
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def _drive(self, predictor: Any, dtype: str, capacity: int) -> Drive:
        return Drive(f"stage {self.number}", predictor, dtype, capacity, decodes=self.stage.factor > 1)

    def _plan(self, made: dict[str, Any]) -> Planned | None:
        row = json.loads(made["row"])["row"]
        if made["error"] or not goes_through(row, self.stage, self.default_size):
            return None
        inputs = self._inputs(row, made)
        if made["chosen_seed"] is not None:
            row["seed"] = made["chosen_seed"]
        drawn = seeds(row) if self.number == 1 else [row["seed"]]
        return Planned(row, [make_plan(row | {"seed": seed}, self.stage, inputs) for seed in drawn])

    def _inputs(self, row: dict[str, Any], made: dict[str, Any]) -> Inputs:
        tensors = row_state.unpack(made["inputs"])
        low_res = None
        if self.number > 1:
            low_res = row_state.unpack(made["picture"]).get("picture")
            low_res = _picture(tensors, "image", min(_sizes(tensors))) if low_res is None else torch.from_numpy(low_res)
        mask = tensors.get(f"mask/{self.stage.size}")
        return Inputs(
            conditions={key: self.condition(key) for key in condition_keys(row, self.stage)},
            image=_picture(tensors, "image", self.stage.size),
            mask=None if mask is None else torch.from_numpy(mask) >= 128,
            given=_picture(tensors, "given", self.stage.size),
            low_res=low_res,
        )

    def _guarded(self, act: Callable[[dict[str, Any]], Any], made: dict[str, Any]) -> Any:
        """The one broad `except` of the project: whatever is wrong with a row must cost only that row."""
        try:
            return act(made)
        except StorageError:
            raise  # an outage is not the row's fault
        except Exception as error:
            row_state.fail(made, error)
            return None

    def _take(self, made: dict[str, Any], planned: Planned, walked: list[Walked]) -> None:
        made["evaluations"] += sum(one.evaluations for one in walked)
        made["seconds"] += sum(one.seconds for one in walked)
        plan = planned.plans[0]
        if not made["worker"]:  # the first stage to touch it says where the walk began
            made["start_timestep"] = float(plan.moves[0].t) if plan.moves else None
            made["steps"] = sum(move.asks for move in plan.moves)
        made["worker"] = self.worker
        made["stages"] = json.dumps([*json.loads(made["stages"]), self._record(planned, walked)])
        if not all(one.finite for one in walked):
            beside = "" if not self._too_large else f" in {self.dtype}, and float32 does not fit the device beside it"
            raise FloatingPointError(f"stage {self.number} gave values that are not finite numbers{beside}")
        made["picture"] = row_state.pack({"picture": self._handed_on(planned.row, walked)})

    def _record(self, planned: Planned, walked: list[Walked]) -> dict[str, Any]:
        plan = planned.plans[0]
        return {
            "stage": self.number,
            "steps": sum(move.asks for move in plan.moves),
            "guidance": plan.guidance,
            "noise_level": as_asked(planned.row, self.stage).noise_level,
            "dtype": "float32" if any(one.dtype == "float32" for one in walked) else self.dtype,
            "capacity": min(one.capacity for one in walked),
        } | self._compile_record(walked)

    def _compile_record(self, walked: list[Walked]) -> dict[str, str]:
        """The mode that ran, and why it is not the one that was asked for."""
        ran = sorted({one.compile for one in walked} - {"off"})
        notes = notes_of(self.drive.predictor)
        return ({"compile": ran[0]} if ran else {}) | ({"compile_note": "; ".join(notes)} if notes else {})

    def _handed_on(self, row: dict[str, Any], walked: list[Walked]) -> np.ndarray:
        """Candidates and what another stage goes on from as they are; else pixels, rounded here and not again."""
        if len(walked) > 1:
            return np.stack([one.image.numpy() for one in walked])
        image = walked[0].image.numpy()
        ended = not any(goes_through(row, stage, self.default_size) for stage in self.stages[self.number :])
        return row_state.to_uint8(image) if ended else image


def _picture(tensors: dict[str, np.ndarray], name: str, size: int) -> torch.Tensor | None:
    """uint8 [C, H, W] as float32 in [-1, 1]."""
    array = tensors.get(f"{name}/{size}")
    return None if array is None else torch.from_numpy(array).float() / 127.5 - 1


def _sizes(tensors: dict[str, np.ndarray]) -> list[int]:
    return [int(name.rpartition("/")[2]) for name in tensors]
