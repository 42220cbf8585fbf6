"""Every job on a Ray that is told it has GPUs, on a machine that has none: a process of its own, as a process can be in
one Ray only.

    python tests/told_gpus.py one|apart|tick FOLDER CASCADE NETWORK

All that asks Ray for a GPU is walked so; the workers' torch finds no CUDA and works on the processor. `one`: a node
with one GPU. `apart`: three nodes with one each, set apart for stage I, stage II and text encoders. `tick`: a tick of a
pipeline on one node.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import ray
from ray.cluster_utils import Cluster

from darkroom.batch import generate, prompts
from darkroom.batch.prompts import EmbedOptions, embed
from darkroom.ray_cluster import resources
from darkroom.ray_cluster.connection import start_ray
from darkroom.retrain.tick import run_tick
from darkroom.retrain.times import read_tick
from darkroom.training import job
from darkroom.training.data import sample_uri
from runs import write_manifest
from small_world import World

RED = {"task": "text_to_image", "prompt": "a red one", "steps": 2}
VIEWS = [{"view": "identity", "prompt": "a red one"}, {"view": "flip_vertical", "prompt": "a blue two"}]
# Of a cascade: both stages, several tasks, more rows than one unit.
ROWS: list[dict[str, Any]] = [
    *({**RED, "id": f"text-{n}", "seed": n, "size": 16 if n % 2 else 8} for n in range(6)),
    {"id": "anagram", "task": "anagram", "views": VIEWS, "steps": 2, "size": 16},
]
SEVEN = {"task": "text_to_image", "label": 7, "steps": 2}
BEST = [{**SEVEN, "id": "best", "best_of": 3}, {**SEVEN, "id": "plain", "seed": 5}]
TINY = ("width=8", "epochs=1", "batch=500", "validation_images=8", "dropout=0", "bf16=off")
LARGE_GPU = resources.Hardware(gpu=80e9, gpu_flops=1e14)  # with room for text encoders beside the stages
STORE = 150 * 2**20  # bytes of objects on a node


def pictures_of(folder: Path, name: str, rows: list[dict[str, Any]], model: str, **more: Any) -> None:
    """A run of the rows in FOLDER/NAME."""
    options = {"capacity": 8, "unit_rows": 2, **more}
    manifest = write_manifest(folder / f"manifest-{name}", rows)
    outcome = generate.run(generate.Options(manifest, str(folder / name), model, **options))
    assert (outcome.rows, outcome.failed) == (len(rows), 0), name


def trained(folder: Path, name: str, workers: str) -> None:
    options = job.TrainOptions("mnist-ddpm", sample_uri(), str(folder / name), TINY, workers)
    job.train(options, lambda line: print(line, file=sys.stderr))


def on_one(folder: Path, cascade: str, network: str) -> None:
    prompts.SMALL_ENCODER = 0  # an encoder is not too small for actors of its own
    pictures_of(folder, "shared", ROWS, cascade)
    unknown, resources.read_hardware = resources.read_hardware, lambda asked, say: LARGE_GPU
    pictures_of(folder, "beside", ROWS, cascade)
    resources.read_hardware = unknown
    asked = EmbedOptions(str(folder / "embeddings"), cascade, manifest=str(folder / "manifest-shared/jobs.jsonl"))
    assert embed(asked) == 3
    prompts.SMALL_ENCODER = 2**26
    pictures_of(folder, "best", BEST, network, scorer="digits")
    trained(folder, "model-1", "1")


def tick_on_one(folder: Path, *_: str) -> None:
    world = World(str(folder / "world"), folder)
    world.arrive("2026-11-01", 0, 64)
    record = run_tick(world.pipeline(), read_tick("2026-11-01T00:00:00Z"), print)
    assert record.outcome == "promoted", record.data


def on_nodes_apart(folder: Path, cascade: str, network: str) -> None:
    prompts.SMALL_ENCODER = 0
    pictures_of(folder, "apart", ROWS, cascade)
    trained(folder, "model-2", "2")


def main(kind: str, folder: str, cascade: str, network: str) -> None:
    if kind in ("one", "tick"):
        start_ray(num_cpus=2, num_gpus=1, object_store_memory=STORE, logging_level="error", log_to_driver=False)
        {"one": on_one, "tick": tick_on_one}[kind](Path(folder), cascade, network)
    else:
        cluster = Cluster(
            initialize_head=True,
            head_node_args={"num_cpus": 0, "include_dashboard": False, "object_store_memory": STORE},
        )
        for stage in ("stage1", "stage2", "encoders"):
            cluster.add_node(num_cpus=1, num_gpus=1, resources={stage: 1}, object_store_memory=STORE)
        ray.init(cluster.address, logging_level="error", log_to_driver=False)
        on_nodes_apart(Path(folder), cascade, network)
        ray.shutdown()
        cluster.shutdown()


if __name__ == "__main__":
    main(*sys.argv[1:])
