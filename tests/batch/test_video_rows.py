"""Rows that ask for videos, through the workers of a stage without their Ray."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from safetensors.torch import save

from batch.test_sampler_worker import Darkroom, develop, error, picture
from darkroom.batch.capacity import ON_CPU, usual
from darkroom.batch.kept_latents import keep_latents, kept_latents
from darkroom.batch.latents_thread import LatentsThread
from darkroom.batch.row_state import RowState, from_block, to_block
from darkroom.batch.sampler_worker import SamplerWorker
from darkroom.batch.stuck import Guard
from darkroom.models.catalog import open_model
from darkroom.models.video_latents import VideoLatents
from darkroom.runs import latents_key
from darkroom.sampling.stage import Stage
from darkroom.storage import open_store
from toy_video import save_toy_video

ROW = {"task": "text_to_video", "prompt": "a red one", "negative_prompt": "", "guidance": 6, "seed": 0, "steps": 3}
SMALL = {**ROW, "width": 32, "height": 48, "frames": 9}


@pytest.fixture(scope="module")
def cogvideox(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(save_toy_video(tmp_path_factory.mktemp("cogvideox"), "cogvideox-2b"))


@pytest.fixture(scope="module")
def wan22(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(save_toy_video(tmp_path_factory.mktemp("wan22"), "wan22"))


def worker(room: Darkroom, number: int = 1) -> SamplerWorker:
    return SamplerWorker(room.model, number, 2, 1, room.embeddings, run=room.folder)


def frames_of(state: RowState) -> int:
    assert state.clip is not None, state.failure
    return sum(1 for _ in av.open(io.BytesIO(state.clip.mp4)).decode(video=0))


def test_a_row_has_its_video_and_its_first_frame(tmp_path: Path, cogvideox: str) -> None:
    room = Darkroom(tmp_path, cogvideox)
    (made,) = develop(worker(room), room.unit(SMALL, {**ROW, "guidance": 1}))
    small, usual_one = from_block(to_block(made))
    assert (error(small), error(usual_one)) == ("", "")
    assert (small.evaluations, usual_one.evaluations, small.steps) == (6, 3, 3)
    assert picture(small).shape == (3, 48, 32) and picture(small).dtype == np.uint8
    assert [(frames_of(one), one.clip.frames, one.clip.fps) for one in (small, usual_one)] == [(9, 9, 8), (17, 17, 8)]


def test_what_was_sampled_is_decoded_again_where_decoding_failed(
    tmp_path: Path, cogvideox: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    room = Darkroom(tmp_path, cogvideox)
    ((whole,),) = develop(SamplerWorker(cogvideox, 1, 2, 1, room.embeddings), room.unit(SMALL))

    def broken(latents: VideoLatents, states: torch.Tensor, decode: Callable = VideoLatents.decode) -> torch.Tensor:
        if states.any():  # nothing is decoded to show that the VAE works
            raise RuntimeError("the decoder has had enough")
        return decode(latents, states)

    with monkeypatch.context() as patch:
        patch.setattr(VideoLatents, "decode", broken)
        ((failed,),) = develop(worker(room), room.unit(SMALL))
    assert "had enough" in error(failed) and failed.evaluations == 6
    assert room.store.exists(latents_key(failed.key))
    ((again,),) = develop(worker(room), room.unit(SMALL))
    assert (error(again), again.evaluations, again.flags) == ("", 0, ["decoded_again"])
    assert (again.clip.frames, again.clip.fps) == (whole.clip.frames, whole.clip.fps)
    assert np.array_equal(picture(again), picture(whole))


def test_latents_that_are_no_numbers_are_not_kept(tmp_path: Path) -> None:
    store, lost = open_store(str(tmp_path)), torch.full((4, 3, 4, 6), torch.nan)
    keep_latents(store, "key", lost)
    assert not store.exists(latents_key("key"))
    store.write(latents_key("key"), save({"latents": lost}))
    assert kept_latents(store, "key") is None
    keep_latents(store, "key", lost.nan_to_num())
    assert torch.equal(kept_latents(store, "key"), lost.nan_to_num())


def test_experts_hand_a_row_over(tmp_path: Path, wan22: str) -> None:
    room = Darkroom(tmp_path, wan22)
    (left,) = develop(worker(room, 1), room.unit({**SMALL, "guidance_2": 1}, {**SMALL, "steps": 1}))
    assert {error(state) for state in left} == {""} and all(state.picture is None for state in left)
    assert left[0].handed.keys() >= {"x", "1", "2"}
    (made,) = develop(worker(room, 2), from_block(to_block(left)))
    assert [error(state) for state in made] == ["", ""] and [frames_of(state) for state in made] == [9, 9]
    first, second = made
    assert [(record.stage, record.steps, record.guidance) for record in first.stages] == [(1, 1, 6.0), (2, 2, 1.0)]
    assert (first.evaluations, second.evaluations, first.handed) == (2 + 2, 2, {})


def test_a_decoder_out_of_memory_goes_on_piece_by_piece(cogvideox: str, monkeypatch: pytest.MonkeyPatch) -> None:
    latents: Any = open_model(cogvideox).predictor(1, torch.device("cpu")).latents
    state, decode, shapes = torch.randn(4, 3, 4, 6), VideoLatents.decode, []

    def short(own: VideoLatents, states: torch.Tensor) -> torch.Tensor:
        shapes.append(tuple(states.shape))
        if not own.vae.use_tiling:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return decode(own, states)

    monkeypatch.setattr(VideoLatents, "decode", short)
    thread = LatentsThread("stage 1", latents, None, lambda shortage: False, Guard(None))
    frames = thread.decode(state).result()
    thread.close()
    assert frames.shape == (3, 9, 32, 48) and shapes == [(1, 4, 3, 4, 6)] * 2


def test_passes_of_videos_hold_one_row_at_most(cogvideox: str) -> None:
    stage: Stage = open_model(cogvideox).stages[0]
    assert (usual(stage, on_gpu=True), usual(stage, on_gpu=False)) == (1, 2)
    assert usual(Stage(1, 8, 3, stage.process), on_gpu=False) == ON_CPU
