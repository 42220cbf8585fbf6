"""The thread that decodes beside an engine: nobody who waits for it is forgotten."""

from __future__ import annotations

import threading

import pytest
import torch

from darkroom.batch.engine_thread import EngineThread
from darkroom.batch.latents_thread import LatentsThread
from darkroom.batch.row_state import is_device_lost
from darkroom.batch.stuck import Guard
from darkroom.ray_cluster import ClusterError
from darkroom.sampling.flow import Flow
from darkroom.sampling.plans import make_plan
from darkroom.sampling.stage import Inputs, Stage
from toys import SHORTAGES, CountingPredictor, make_row

SHAPE = (4, 8, 8)


class Tripling:
    """In the place of a VAE, four at once: triples states. room: numbers that its device has memory for at a time;
    said: what it says where that ends."""

    device, is_whole, at_once = torch.device("cpu"), True, 4

    def __init__(self, room: int, said: Exception = SHORTAGES[0]) -> None:
        self.room, self.said = room, said
        self.decoded: list[int] = []
        self.pieces = 0  # that a state can be decoded in, if need be

    def tile(self) -> bool:
        self.room, could = self.room * max(1, self.pieces), self.pieces > 0
        self.pieces = 0
        return could

    def encode(self, picture: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        return self.decode(noise[None])[0]

    def decode(self, states: torch.Tensor) -> torch.Tensor:
        if states.numel() > self.room:
            raise self.said
        self.decoded.append(len(states))
        return 3 * states


class Room:
    """Counts how often room was asked for, and makes none."""

    def __init__(self) -> None:
        self.asked = 0

    def __call__(self, shortage: str) -> bool:
        self.asked += 1
        return False


def start(latents: Tripling, room: Room | None = None) -> LatentsThread:
    return LatentsThread("stage 1", latents, SHAPE, room or Room(), Guard(None))


def decode_together(thread: LatentsThread, states: list[torch.Tensor]) -> list[torch.Tensor]:
    """States that all wait when the thread looks for more: it is held up by one before them."""
    go = threading.Event()
    thread.decode(torch.zeros(SHAPE), keep=lambda state: go.wait(20))
    waiting = [thread.decode(state) for state in states]
    go.set()
    return [future.result(20) for future in waiting]


@pytest.mark.parametrize("said", SHORTAGES, ids=str)
def test_memory_that_ends_twice_forgets_no_state(said: Exception) -> None:
    states = [torch.full(SHAPE, float(number)) for number in range(8)]
    latents = Tripling(torch.zeros(SHAPE).numel(), said)
    found = decode_together(start(latents), states)
    assert all(torch.equal(picture, 3 * state) for picture, state in zip(found, states, strict=True))
    assert latents.decoded == [1] * (1 + len(states)), "the second four know what the first have found"


@pytest.mark.parametrize("said", SHORTAGES, ids=str)
@pytest.mark.parametrize("how", ["decode", "encode"])
def test_a_state_that_is_too_large_fails_alone(how: str, said: Exception) -> None:
    usual, large = torch.ones(SHAPE), torch.ones(4, 24, 24)
    latents, room = Tripling(4 * usual.numel(), said), Room()
    thread = start(latents, room)
    with pytest.raises(torch.OutOfMemoryError, match=r"a state of shape \[4, 24, 24\] does not fit") as raised:
        thread.decode(large).result(20) if how == "decode" else thread.encode(large, large)
    assert not is_device_lost(raised.value)
    assert torch.equal(thread.decode(usual).result(20), 3 * usual)
    assert (latents.decoded, thread.at_once, room.asked) == ([4], 4, 0), "others are decoded as before"


def test_a_state_that_is_too_large_is_decoded_piece_by_piece_where_that_can_be() -> None:
    large = torch.ones(4, 24, 24)
    latents, room = Tripling(room=large.numel() // 2), Room()
    latents.pieces = 2
    thread = start(latents, room)
    assert torch.equal(thread.decode(large).result(20), 3 * large)
    assert (thread.at_once, room.asked) == (4, 0)


def test_nobody_waits_for_the_latents_of_an_engine_that_has_ended() -> None:
    def lost(*_: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    predictor = CountingPredictor(Flow(), lost)
    predictor.latents = Tripling(10**6)
    engine = EngineThread("stage 1", predictor, "float32", 8, decodes=True)
    row = make_row("text_to_image", prompt="a", steps=1, guidance=1.0)
    plan = make_plan(row, Stage(1, 8, 3, Flow()), Inputs({"a": torch.zeros(4)}))
    latents = engine.latents
    assert latents is not None
    with pytest.raises(ClusterError, match="no row is to blame: RuntimeError: CUDA error: an illegal memory access"):
        engine.submit(plan).result(20)
    with pytest.raises(ClusterError, match="no row is to blame: RuntimeError: CUDA error: an illegal memory access"):
        latents.decode(torch.ones(SHAPE)).result(20)


def test_what_is_asked_for_before_the_end_is_done() -> None:
    thread = start(Tripling(10**6))
    before = thread.decode(torch.ones(SHAPE))
    thread.close()
    assert torch.equal(before.result(20), 3 * torch.ones(SHAPE))
    with pytest.raises(ClusterError, match="stage 1 was closed"):
        thread.decode(torch.ones(SHAPE)).result(20)


def test_an_error_beside_the_pictures_is_told_to_all_who_wait() -> None:
    def broken(state: torch.Tensor) -> None:
        raise KeyError("latents")

    thread = start(Tripling(10**6))
    futures = [thread.decode(torch.ones(SHAPE), broken), thread.decode(torch.ones(SHAPE))]
    for future in futures:
        with pytest.raises(ClusterError, match="stage 1 ended, and no row is to blame: KeyError: 'latents'"):
            future.result(20)
