"""The actor that holds one stage of a model, and keeps its engine full from several units at once."""

from __future__ import annotations

import asyncio
import json
import platform
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from darkroom.batch import parcel
from darkroom.batch.embeddings import EmbeddingStore
from darkroom.models.catalog import open_model
from darkroom.sampling.engine import Engine, Finished
from darkroom.sampling.plans import Inputs, Plan, Stage, condition_keys, make_plan
from darkroom.storage import StorageError


class Developer:
    """Stage `number` of the model on this worker's device. `develop` may be awaited for many units at once.

    embeddings: of the prompts, for a text model; any other model says itself what a label is to it.
    """

    def __init__(
        self, model: str, number: int, capacity: int, threads: int, embeddings: EmbeddingStore | None = None
    ) -> None:
        torch.set_num_threads(threads)
        # Asked here and nowhere else: the machine that submits a job need not be like those that do it.
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        opened = open_model(model)
        self.stage: Stage = opened.stages[number - 1]
        self.first = number == 1
        self.default_size = opened.default_size
        self.engine = Engine(opened.predictor(number, device), capacity)
        self.condition: Callable[[str], torch.Tensor] = opened.condition if embeddings is None else embeddings.get
        name = torch.cuda.get_device_name() if device.type == "cuda" else "cpu"
        self.worker = f"{platform.node()}:{name}"
        self._driver: asyncio.Task[None] | None = None

    async def develop(self, parcels: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Brings every row of a unit through this stage; rows that failed or need no such stage pass through."""
        waiting = []
        for made in parcels:
            plan = self._guarded(self._plan, made)
            if plan is not None:
                future: asyncio.Future[Finished] = asyncio.get_running_loop().create_future()
                self.engine.add(plan, future)
                waiting.append((made, plan, future))
        if self._driver is None or self._driver.done():
            self._driver = asyncio.create_task(self._drive())
        for made, plan, future in waiting:
            await asyncio.wait((future, self._driver), return_when=asyncio.FIRST_COMPLETED)
            if not future.done():
                self._driver.result()  # the engine died: its error ends the job, a row cannot be blamed
            self._take(made, plan, future.result())
        return parcels

    async def _drive(self) -> None:
        """Passes, as long as there are rows; in a thread, so that new units can come in meanwhile."""
        while not self.engine.idle:
            for finished in await asyncio.to_thread(self.engine.advance):
                finished.tag.set_result(finished)

    def _plan(self, made: dict[str, Any]) -> Plan | None:
        row = json.loads(made["row"])["row"]
        wanted = row.get("size", self.default_size)
        if made["error"] or self.stage.size > wanted or (row["task"] == "upscale" and self.first):
            return None
        tensors = parcel.unpack(made["inputs"])
        conditions = {key: self.condition(key) for key in condition_keys(row)}
        low_res = None
        if not self.first:
            low_res = parcel.unpack(made["picture"]).get("picture")
            low_res = _picture(tensors, "image", min(_sizes(tensors))) if low_res is None else torch.from_numpy(low_res)
        mask = tensors.get(f"mask/{self.stage.size}")
        return make_plan(
            row,
            self.stage,
            Inputs(
                conditions=conditions,
                image=_picture(tensors, "image", self.stage.size),
                mask=None if mask is None else torch.from_numpy(mask) >= 128,
                given=_picture(tensors, "given", self.stage.size),
                low_res=low_res,
            ),
        )

    def _guarded(self, plan: Callable[[dict[str, Any]], Plan | None], made: dict[str, Any]) -> Plan | None:
        """The one broad `except` of the project: whatever is wrong with a row must cost only that row."""
        try:
            return plan(made)
        except StorageError:
            raise  # an outage is not the row's fault
        except Exception as error:
            made["error"] = str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
            return None

    def _take(self, made: dict[str, Any], plan: Plan, finished: Finished) -> None:
        if not torch.isfinite(finished.image).all():
            made["error"] = f"stage {self.stage.number} gave values that are not finite numbers"
            return
        if not made["worker"]:  # the first stage to touch it says where the walk began
            made["start_timestep"] = float(plan.moves[0].t) if plan.moves else None
            made["steps"] = sum(move.asks for move in plan.moves)
        made["picture"] = parcel.pack({"picture": finished.image.numpy()})
        made["evaluations"] += finished.evaluations
        made["seconds"] += finished.seconds
        made["worker"] = self.worker


def _picture(tensors: dict[str, np.ndarray], name: str, size: int) -> torch.Tensor | None:
    """uint8 [C, H, W] as float32 in [-1, 1]."""
    array = tensors.get(f"{name}/{size}")
    return None if array is None else torch.from_numpy(array).float() / 127.5 - 1


def _sizes(tensors: dict[str, np.ndarray]) -> list[int]:
    return [int(name.rpartition("/")[2]) for name in tensors]
