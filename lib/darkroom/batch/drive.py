"""An engine at work: driven in a thread while rows come in, and made smaller where the device's memory ends."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import torch
from torch import Tensor

from darkroom.models.compiled import Mode, mode_in_use
from darkroom.ray_cluster import ClusterError
from darkroom.sampling.engine import Engine, Finished, Predictor
from darkroom.sampling.plans import Plan


@dataclass(frozen=True, eq=False)
class Walked:
    """A row at the end of a stage: image float32 [C, H, W] on the host, decoded where the state is a latent; dtype,
    capacity and compile (see `mode_in_use`): of every pass it was in."""

    image: Tensor
    evaluations: int
    seconds: float
    dtype: str
    capacity: int
    compile: Mode = "off"

    @property
    def finite(self) -> bool:
        return bool(torch.isfinite(self.image).all())


class Drive:
    """Walks plans through one predictor. name: what it is called in errors; decodes: its states are latents."""

    def __init__(self, name: str, predictor: Predictor, dtype: str, capacity: int, decodes: bool = False) -> None:
        self.name, self.predictor, self.dtype, self.decodes = name, predictor, dtype, decodes
        self.engine = Engine(predictor, capacity)
        self._plans: dict[asyncio.Future[Walked], Plan] = {}
        self._undecoded: list[Finished] = []
        self._ready: list[tuple[asyncio.Future[Walked], Walked]] = []
        self._driver: asyncio.Task[None] | None = None

    async def walk(self, plan: Plan) -> Walked:
        """The plan's picture. Whatever ends the engine is raised for all that wait. ClusterError where not even passes
        of one evaluation fit the device."""
        future: asyncio.Future[Walked] = asyncio.get_running_loop().create_future()
        self._plans[future] = plan
        self.engine.add(plan, future)
        if self._driver is None or self._driver.done():
            self._driver = asyncio.create_task(self._drive())
        await asyncio.wait((future, self._driver), return_when=asyncio.FIRST_COMPLETED)
        if not future.done():
            self._driver.result()
        return future.result()

    async def _drive(self) -> None:
        """Passes, as long as there are rows; in a thread, so that new rows can come in meanwhile."""
        while not self.engine.idle or self._undecoded or self._ready:
            shortage = ""
            try:
                for future, walked in await asyncio.to_thread(self._pass):
                    del self._plans[future]
                    future.set_result(walked)
            except torch.OutOfMemoryError as error:
                shortage = str(error)
            if shortage:  # out here, where the error's frames no longer hold what they allocated
                self._shrink(shortage)

    def _pass(self) -> list[tuple[asyncio.Future[Walked], Walked]]:
        """One pass of the engine; what is finished is decoded. Nothing is lost where memory ends on the way."""
        self._undecoded += self.engine.advance()
        while self._undecoded:
            finished = self._undecoded[0]
            image = self.predictor.decode(finished.image).cpu() if self.decodes else finished.image
            how = (self.dtype, self.engine.capacity, mode_in_use(self.predictor))
            walked = Walked(image, finished.evaluations, finished.seconds, *how)
            self._ready.append((finished.tag, walked))
            del self._undecoded[0]
        ready, self._ready = self._ready, []
        return ready

    def _shrink(self, shortage: str) -> None:
        """Half the capacity. Rows under way begin anew, so that each picture is the one of a single capacity; as every
        pass has one shape, memory mostly ends in the first."""
        if self.engine.capacity == 1:
            raise ClusterError(f"{self.name} does not fit its device, not even with one evaluation a pass: {shortage}")
        smaller = Engine(self.predictor, self.engine.capacity // 2)
        smaller.statistics = self.engine.statistics
        walked = {finished.tag for finished in self._undecoded} | {future for future, _ in self._ready}
        for future, plan in self._plans.items():
            if future not in walked:
                smaller.add(plan, future)
        self.engine = smaller
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
