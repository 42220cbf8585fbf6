"""What a GPU is needed for, checked and timed in one call that wants torch, numpy and this repository only.

    python benchmarks/train_gpu.py --json gpu.json --mnist FOLDER_OF_THE_FOUR_IDX_FILES --out models/flow-gpu
    python benchmarks/train_gpu.py --only course cifar
    python benchmarks/train_gpu.py --tiny            # on any processor, in seconds: that it works, not how fast

course: images per second of training the course UNet (class-conditional flow) by batch and setting, against the limits
computed for an H200 from its FLOPs and memory traffic; then darkroom's own loop, against the best of those. cifar: the
16.7 M DDPM UNet in darkroom's own loop on synthetic pictures (its loss is therefore not claimed). mnist:
mnist-flow-class at its full defaults, sampled and judged. engine: the sampling engine.
"""

from __future__ import annotations

import argparse
import functools
import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "lib"))

from gpu_model_file import read_safetensors, write_model  # noqa: E402

from darkroom.models.course_unet import CourseUNet  # noqa: E402
from darkroom.models.ddpm_unet import CIFAR10, DDPMUNet  # noqa: E402
from darkroom.sampling.diffusion import Diffusion  # noqa: E402
from darkroom.sampling.engine import Engine  # noqa: E402
from darkroom.sampling.flow import Flow  # noqa: E402
from darkroom.sampling.plans import Plan, condition_keys, make_plan  # noqa: E402
from darkroom.sampling.run import walk_plans  # noqa: E402
from darkroom.sampling.stage import Inputs, Stage  # noqa: E402
from darkroom.training.draws import Draw  # noqa: E402
from darkroom.training.epochs import Epochs  # noqa: E402
from darkroom.training.feeds import Batch, Resident, Worker, to_network  # noqa: E402
from darkroom.training.idx import parse_idx  # noqa: E402
from darkroom.training.objectives import DenoisingDiffusion, FlowMatching, Objective  # noqa: E402
from darkroom.training.steps import Optimization, Steps  # noqa: E402

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
LIMITS = {64: (217_000, 459_000), 128: (76_000, 120_000)}  # images/s on an H200: unfused, convolutions only
CIFAR_EPOCH, CIFAR_MEMORY, CIFAR_SAMPLES = 43.5, 0.43, 1.0  # seconds, GB (both on an RTX 3060), seconds
SETTINGS: dict[str, dict[str, Any]] = {
    "fp32": {},
    "bf16": {"bf16": True},
    "bf16, channels_last": {"bf16": True, "channels_last": True},
    "bf16, channels_last, compiled": {"bf16": True, "channels_last": True, "compile": "default"},
    "the same with CUDA graphs": {"bf16": True, "channels_last": True, "compile": "reduce-overhead"},
}
OWN_SIZES = (64, 1024)  # batches at which darkroom's own loop is held against the best of SETTINGS
ON = DEVICE.type == "cuda"
OWN = {"bf16": ON, "compile": ON, "channels_last": True, "fused": True, "graphs": ON}  # a recipe's "auto"


def synchronized() -> float:
    """Now, when all that was asked of the device is done."""
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


class Trainer:
    """Steps of an objective under a setting."""

    def __init__(self, objective: Objective, setting: str, rate: float) -> None:
        how = SETTINGS[setting]
        self.objective = objective.to(DEVICE).train()
        if how.get("channels_last"):
            self.objective.network.to(memory_format=torch.channels_last)
        if "compile" in how:
            self.objective.network.compile(mode=how["compile"])
        self.autocast = (
            functools.partial(torch.autocast, DEVICE.type, torch.bfloat16) if how.get("bf16") else nullcontext
        )
        self.optimizer = torch.optim.AdamW(self.objective.network.parameters(), lr=rate, weight_decay=0, fused=True)

    def step(self, batch: Batch) -> torch.Tensor:
        self.optimizer.zero_grad(set_to_none=True)
        with self.autocast():
            loss = self.objective(*self.objective.inputs(batch))
        loss.backward()
        self.optimizer.step()
        return loss.detach()


def batches(images: torch.Tensor, labels: torch.Tensor, size: int, seed: int) -> Iterator[Batch]:
    """One epoch of a data set that lies on the device; images uint8 [N, C, H, W]."""
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed)).to(DEVICE)
    for step in range(len(labels) // size):
        chosen = order[step * size : (step + 1) * size]
        draw = Draw((seed, step), size, slice(0, size), DEVICE)
        yield Batch(to_network(images[chosen]), labels[chosen], draw)


def noise_images(count: int, channels: int, size: int) -> tuple[torch.Tensor, torch.Tensor]:
    images = torch.randint(256, (count, channels, size, size), dtype=torch.uint8, device=DEVICE)
    return images, torch.randint(10, (count,), device=DEVICE)


def rate_of(trainer: Trainer, size: int, data: tuple[torch.Tensor, torch.Tensor], steps: int) -> float:
    """Images per second after a few steps that warm up (and compile)."""
    done, began = 0, 0.0
    while done < steps + 4:
        for batch in batches(*data, size, done):
            if done == 4:
                began = synchronized()
            if done == steps + 4:
                break
            trainer.step(batch)
            done += 1
    return steps * size / (synchronized() - began)


def own_loop(objective: Objective, batch: int, images: np.ndarray, labels: np.ndarray, **how: Any) -> tuple:
    """Darkroom's own loop, and its feed of uint8 [N, H, W, C] on the device."""
    worker = Worker(0, 1, DEVICE)
    how = {"epochs": 2, "rate": lambda step: 1e-3, **OWN, **how}
    feed = Resident(SimpleNamespace(images=images, labels=labels), batch, 0, worker)
    return Epochs(Steps(objective, Optimization(**how), worker, lambda line: print(f"  {line}", flush=True))), feed


def own_rate(objective: Objective, batch: int, shape: tuple[int, ...], **how: Any) -> float:
    """Images per second of an epoch of noise uint8 `shape` in darkroom's own loop, after one that compiles."""
    rng = np.random.default_rng(0)
    images, labels = rng.integers(256, size=shape, dtype=np.uint8), rng.integers(10, size=shape[0])
    epochs, feed = own_loop(objective, batch, images, labels, **how)
    epochs.run(feed, lambda line: None)
    began = synchronized()
    epochs.run(feed, lambda line: None)
    return feed.steps * feed.batch / (synchronized() - began)


def course(given: argparse.Namespace) -> list[dict[str, Any]]:
    """Images per second by width, batch and setting, and of darkroom's own loop."""
    widths = (8,) if given.tiny else (64, 128)
    rows = [row for hidden in widths for row in best_loops(given, hidden)]
    for hidden in widths:
        for size in (16,) if given.tiny else OWN_SIZES:
            objective = FlowMatching(CourseUNet(hidden=hidden, conditioning="class", num_classes=10), 0.1)
            rate = own_rate(objective, size, (64 if given.tiny else 60_000, 28, 28, 1))
            torch._dynamo.reset()
            same = (row for row in rows if (row["hidden"], row["batch"]) == (hidden, size))
            best = max(same, key=lambda row: row["images_per_second"])
            ratio = rate / best["images_per_second"]
            print(f"  D {hidden:<4} {'darkroom':32} batch {size:<6}{rate:>12,.0f}  {ratio:.2f} of {best['setting']}")
            rows.append({"hidden": hidden, "setting": "darkroom", "batch": size, "images_per_second": rate,
                         "share": ratio})  # fmt: skip
    return rows


def best_loops(given: argparse.Namespace, hidden: int) -> list[dict[str, Any]]:
    """Images per second of one width by batch and setting, in a loop as short as can be."""
    sizes, settings, rows = (16,) if given.tiny else (64, 256, 1024, 4096), list(SETTINGS), []
    for setting in ["fp32"] if given.tiny else settings:
        for size in sizes:
            network = CourseUNet(hidden=hidden, conditioning="class", num_classes=10)
            data = noise_images(max(size * 4, 60_000 if not given.tiny else 64), 1, 28)
            trainer = Trainer(FlowMatching(network, 0.1), setting, 1e-3)
            rate = rate_of(trainer, size, data, 2 if given.tiny else max(20, 20_000 // size))
            rows.append({"hidden": hidden, "setting": setting, "batch": size, "images_per_second": rate})
            limits = LIMITS.get(hidden)
            told = f"{rate / limits[0]:8.2f}{rate / limits[1]:8.2f}" if limits else ""
            print(f"  D {hidden:<4} {setting:32} batch {size:<6}{rate:>12,.0f}{told}", flush=True)
            torch._dynamo.reset()
    return rows


def cifar(given: argparse.Namespace) -> dict[str, float]:
    """Seconds per epoch of 50,000 pictures (from some steps), peak memory, and 8 samples in 50 steps."""
    shape = {**CIFAR10, "width": 8, "multipliers": (1, 2)} if given.tiny else CIFAR10
    process = Diffusion.linear(clip=1.0)
    network = DDPMUNet(**shape)
    size = 4 if given.tiny else 128
    if DEVICE.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    objective, count = DenoisingDiffusion(network, process, 0.0), size * (2 if given.tiny else 100)
    rate = own_rate(objective, size, (count, 32, 32, 3), rate=lambda step: 2e-4, average=0.9999, clip=1.0)
    memory = torch.cuda.max_memory_allocated() / 2**30 if DEVICE.type == "cuda" else float("nan")
    network.eval()
    if DEVICE.type == "cuda":
        network.compile()
    steps = 2 if given.tiny else 50
    rows = [{"task": "text_to_image", "seed": n, "guidance": 1.0, "steps": steps, "sampler": "ddim"} for n in range(8)]
    sample(network, process, rows, Stage(1, 32, 3, process), 8)  # compiles
    began = synchronized()
    sample(network, process, rows, Stage(1, 32, 3, process), 8)
    found = {"images_per_second": rate, "epoch_seconds": 50_000 / rate, "sample_seconds": synchronized() - began}
    print(f"  an epoch of 50,000: {found['epoch_seconds']:.1f} s (RTX 3060: {CIFAR_EPOCH} s), scaled from some steps")
    print(f"  peak memory {memory:.2f} GB (RTX 3060: {CIFAR_MEMORY} GB); 8 images in {steps} steps: "
          f"{found['sample_seconds']:.2f} s (goal {CIFAR_SAMPLES} s)")  # fmt: skip
    return found if memory != memory else {**found, "peak_gb": memory}


class Predictor:
    """A network as the engine asks it."""

    def __init__(self, network: torch.nn.Module, process: Diffusion | Flow) -> None:
        self.network, self.process, self.device = network, process, DEVICE

    @torch.no_grad()
    def __call__(self, x: torch.Tensor, timestep: torch.Tensor, condition: torch.Tensor, _: Any) -> torch.Tensor:
        with torch.autocast(DEVICE.type, torch.bfloat16, enabled=DEVICE.type == "cuda"):
            return self.network(x, timestep, condition).float()


def sample(network: torch.nn.Module, process: Any, rows: list[dict], stage: Stage, capacity: int) -> torch.Tensor:
    """Pictures [N, C, S, S] of the rows, in their order."""
    plans = make_plans(rows, stage, network.num_classes)
    return torch.stack([finished.image for finished in walk_plans(Predictor(network, process), plans, capacity)])


def make_plans(rows: list[dict], stage: Stage, classes: int) -> list[Plan]:
    def label(key: str) -> torch.Tensor:
        return torch.tensor(int(key.removeprefix("label ")) if key else classes)

    return [make_plan(row, stage, Inputs({key: label(key) for key in condition_keys(row)})) for row in rows]


def engine(given: argparse.Namespace) -> list[dict[str, Any]]:
    """Evaluations per second of the DDPM UNet in the engine."""
    shape = {**CIFAR10, "width": 8, "multipliers": (1, 2)} if given.tiny else CIFAR10
    process, found = Diffusion.cosine(clip=1.0), []
    for compiled in (False,) if given.tiny else (False, True):
        for capacity in (4,) if given.tiny else (16, 32, 64):
            network = DDPMUNet(**shape).to(DEVICE, memory_format=torch.channels_last).eval()
            if compiled:
                network.compile()
            predictor = Predictor(network, process)
            steps = 2 if given.tiny else 34
            rows = [{"task": "text_to_image", "seed": n, "guidance": 1.0, "steps": steps} for n in range(4 * capacity)]
            plans = make_plans(rows, Stage(1, 32, 3, process), 0)
            walk_plans(predictor, plans[:capacity], capacity)  # warms up
            worked = Engine(predictor, capacity)
            for plan in plans:
                worked.add(plan)
            worked.run()
            counted = worked.statistics
            outside = 1 - counted.model_seconds / counted.total_seconds
            rate = counted.evaluations / counted.total_seconds
            found.append({"compiled": compiled, "capacity": capacity, "evaluations_per_second": rate,
                          "slot_use": counted.slot_use, "outside_model": outside})  # fmt: skip
            print(f"  capacity {capacity:<4}{'compiled' if compiled else 'eager':10}{rate:>10,.0f} evaluations/s, "
                  f"slots {counted.slot_use:.3f}, outside the model {outside:.1%}", flush=True)  # fmt: skip
            torch._dynamo.reset()
    return found


def mnist(given: argparse.Namespace) -> dict[str, float] | None:
    """mnist-flow-class at its full defaults, judged by the embedded classifier."""
    if given.mnist is None:
        print("  skipped: no --mnist")
        return None
    images, labels = (_idx(given.mnist, name) for name in ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"))
    count, hidden, epochs, drawn = (128, 8, 2, 20) if given.tiny else (len(labels), 64, 10, 1000)
    pixels, kinds = images[:count, :, :, None], labels[:count].astype(np.int64)
    shape = {"channels": 1, "size": 28, "hidden": hidden, "conditioning": "class", "num_classes": 10}
    torch.manual_seed(0)
    objective, steps = FlowMatching(CourseUNet(**shape), 0.1), count // 64
    how = {"epochs": epochs, "rate": lambda step: 1e-2 * 0.1 ** (step // steps / epochs)}
    began = synchronized()
    own, feed = own_loop(objective, 64, pixels, kinds, **how)
    for epoch in range(epochs):
        own.run(feed, lambda line: None)
        loss = sum(own.losses[-steps:]) / steps
        print(f"  epoch {epoch + 1}/{epochs}  loss {loss:.4f}  {synchronized() - began:.0f} s", flush=True)
    seconds = synchronized() - began
    network = objective.network.eval()
    rows = [{"task": "text_to_image", "label": n % 10, "seed": n, "guidance": 5.0, "steps": 50} for n in range(drawn)]
    made = sample(network, Flow(), rows, Stage(1, 28, 1, Flow()), 256).cpu()
    accuracy = sum(found == n % 10 for n, found in enumerate(_judged(made))) / drawn
    print(
        f"  class accuracy {accuracy:.1%} of {drawn} at guidance 5 in 50 steps (goal 99 %); {seconds:.0f} s (goal 45 s)"
    )
    found = {"accuracy": accuracy, "minutes": seconds / 60, "loss": loss}
    training = {"recipe": {"name": "mnist-flow-class", "by": "benchmarks/train_gpu.py"}, "epochs": epochs}
    weights = network.state_dict()
    write_model(Path(given.out), "mnist-flow-class", {"architecture": "course-unet", **shape}, Flow().to_config(),
                training, found, weights)  # fmt: skip
    return found


def _idx(folder: str, name: str) -> np.ndarray:
    path = Path(folder, name)
    path = path if path.exists() else path.with_name(f"{name}.gz")
    return parse_idx(path.read_bytes(), str(path))


def _judged(pictures: torch.Tensor) -> list[int]:
    """What the embedded classifier sees; its layers are rebuilt here, as its own module needs more than torch."""
    weights = read_safetensors(ROOT / "lib/darkroom/models/mnist_classifier/model.safetensors")
    x, block = (pictures.clamp(-1, 1) + 1) / 2, 0
    while f"body.{block}.weight" in weights:  # convolution, batch norm, GELU
        kernel, norm = weights[f"body.{block}.weight"], f"body.{block + 1}"
        x = F.conv2d(x, kernel, stride=2 if block in (0, 6, 12) else 1, padding=kernel.shape[-1] // 2)
        means = weights[f"{norm}.running_mean"], weights[f"{norm}.running_var"]
        x = F.gelu(F.batch_norm(x, *means, weights[f"{norm}.weight"], weights[f"{norm}.bias"]))
        block += 3
    return F.linear(x.mean(dim=(2, 3)), weights["head.weight"], weights["head.bias"]).argmax(dim=1).tolist()


SECTIONS: dict[str, Callable[[argparse.Namespace], Any]] = {
    "course": course,
    "cifar": cifar,
    "engine": engine,
    "mnist": mnist,
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=list(SECTIONS), default=list(SECTIONS))
    parser.add_argument("--mnist", help="folder of MNIST's IDX files")
    parser.add_argument("--out", default="models/flow-gpu", help="where the trained model goes")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--tiny", action="store_true")
    given = parser.parse_args()
    name = torch.cuda.get_device_name() if DEVICE.type == "cuda" else "cpu"
    print(f"{name}, torch {torch.__version__}")
    torch.set_float32_matmul_precision("high")
    found: dict[str, Any] = {"device": name, "torch": str(torch.__version__)}
    for section in given.only:
        print(section)
        found[section] = SECTIONS[section](given)
        if given.json:  # after each section: what is measured is kept whatever comes next
            given.json.write_text(json.dumps(found, indent=1))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
