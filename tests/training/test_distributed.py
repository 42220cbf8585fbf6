"""Workers of a real Ray Train: what one of them meets ends all of them soon, and is told as what it was."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
import torch
import torch.distributed

from darkroom.ray_cluster import ClusterError
from darkroom.storage import StorageError, open_store
from darkroom.training import distributed
from darkroom.training.data import load_images, read_record, sample_uri, write_dataset
from darkroom.training.distributed import Workers, cpu_share, train_distributed
from darkroom.training.feeds import Worker
from darkroom.training.recipes.flow import FlowClass
from darkroom.training.recipes.lora import Lora
from darkroom.training.recipes.recipe import Recipe
from small_world import ENDED
from toys import SHORTAGES

SMALL = {"hidden": 4, "epochs": 2, "batch": 500, "validation_images": 8, "bf16": "off"}
SOON = 900.0  # a worker that waits for one that is gone waits for 1,800 seconds; a busy machine needs a few hundred


@pytest.mark.parametrize(
    ("processors", "workers", "share"),
    [
        ([8, 8, 0], 1, 6),  # the shipped nightly: a head that takes no work
        ([8, 8, 0], 2, 6),
        ([8, 8, 0], 3, 3),
        ([1, 1], 1, 0.75),
        ([2], 1, 1.5),
        ([2], 2, 0.75),
        ([2], 6, 0.25),
        ([64, 2], 2, 24),
        ([2], 8, 0.25),  # more than fit: as little as can be
        ([0], 1, 0.25),  # a cluster that has yet to grow
        ([], 1, 0.25),
    ],
)
def test_the_share_of_a_worker_is_one_that_some_node_has(processors: list[float], workers: int, share: float) -> None:
    assert cpu_share(processors, workers) == share


@pytest.mark.parametrize(
    ("processors", "gpus", "workers", "share"),
    [
        ([16], [1], 1, 1),
        ([1], [1], 1, 0.75),  # a small pod: what reads streamed data finds room beside the worker
        ([8], [8], 8, 0.75),
        ([4], [8], 8, 0.25),
        ([1, 32], [1, 1], 2, 0.75),
        ([32, 8, 8], [0, 2, 2], 4, 1),  # no worker goes where no GPU is
        ([0], [0], 1, 0.25),
    ],
)
def test_workers_on_gpus_leave_processors_to_what_reads(
    processors: list[float], gpus: list[float], workers: int, share: float
) -> None:
    assert cpu_share(processors, workers, gpus) == share


def train(recipe: Recipe, out: Path, workers: int = 2, data: str | None = None) -> list[str]:
    lines: list[str] = []
    train_distributed(recipe, data or sample_uri(), str(out), Workers(workers, workers), lines.append)
    return lines


@pytest.mark.usefixtures("shared_ray")
def test_a_full_disk_that_one_worker_sees_ends_all(tmp_path: Path) -> None:
    class Full(FlowClass):  # in the test: a worker gets it by value, as it cannot import this file
        def validation_loss(self, *given) -> float:  # asked for on rank 0, while the other trains on
            raise StorageError("could not write checkpoints/epoch-0001: the disk is full")

    began = time.monotonic()
    with pytest.raises(StorageError, match="the disk is full"):
        train(Full(**SMALL), tmp_path)
    assert time.monotonic() - began < SOON


@pytest.mark.slow  # as a full disk, before the first step instead of after the last
@pytest.mark.usefixtures("shared_ray")
def test_a_damaged_split_that_one_worker_reads_ends_all(tmp_path: Path) -> None:
    data = str(tmp_path / "data")
    splits = {split: load_images(sample_uri(), split) for split in ("train", "test")}
    write_dataset(data, {name: (s.images, s.labels) for name, s in splits.items()},
                  {"name": "few", "source": "sample", "classes": [str(digit) for digit in range(10)]})  # fmt: skip
    open_store(data).write(read_record(data)["splits"]["test"]["files"][0], b"no parquet")
    began = time.monotonic()
    with pytest.raises((ValueError, StorageError), match="test"):
        train(FlowClass(**SMALL), tmp_path / "out", data=data)
    assert time.monotonic() - began < SOON


@pytest.mark.usefixtures("shared_ray")
def test_a_death_that_is_recovered_from_is_no_failure_whatever_the_others_met(tmp_path: Path) -> None:
    """Ray takes the group from the worker that is left, to which torch then says so by a ValueError."""
    died = tmp_path / "died"

    class Mortal(FlowClass):
        def train(self, data, store, worker, say) -> None:
            if worker.rank == 1 and not died.exists():
                time.sleep(5)  # Ray does not try again where a worker dies while its group is still starting
                died.touch()
                os._exit(1)
            while worker.rank == 0 and not died.exists():
                time.sleep(0.01)
            if (tmp_path / "again").exists():
                return super().train(data, store, worker, say)
            (tmp_path / "again").touch()
            while torch.distributed.is_initialized():
                time.sleep(0.001)
            torch.distributed.barrier()

    lines = train(Mortal(**SMALL), tmp_path / "out")
    assert len([line for line in lines if ENDED.match(line)]) == 2 and (tmp_path / "out" / "config.json").exists()


@pytest.mark.parametrize("said", SHORTAGES, ids=str)
def test_a_batch_that_does_not_fit_is_the_users_part_in_a_sentence(tmp_path: Path, said: Exception) -> None:
    class Large(Lora):
        def train(self, data, store, worker, say) -> None:
            raise said

    with pytest.raises(ValueError) as caught:
        distributed._train(Large(batch=6), "data", str(tmp_path), Worker(0, 2, torch.device("cuda", 1)), print)
    first, *_ = str(said).splitlines()
    assert str(caught.value) == (
        "the training of lora with batch=6, shared by 2 workers, does not fit cuda:1: wanted --set checkpointing=true, "
        f"or a smaller batch or resolution ({first})"
    )


@pytest.mark.usefixtures("shared_ray")
def test_what_nobody_foresaw_is_the_clusters_error_in_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Unlucky(FlowClass):
        def train(self, data, store, worker, say) -> None:
            raise RuntimeError("CUDA error: device-side assert triggered\nCompile with TORCH_USE_CUDA_DSA.\n")

    monkeypatch.setattr(distributed, "RESTARTS", 0)
    with pytest.raises(ClusterError) as caught:
        train(Unlucky(**SMALL), tmp_path, workers=1)
    told = "the last time: worker 0: RuntimeError: CUDA error: device-side assert triggered"
    assert str(caught.value) == f"the training's workers failed more than 0 times; {told}"
