"""DeepFloyd IF on one GPU, with random weights at its true shapes, in one call: wants torch, diffusers, transformers
(which its IF pipelines import), pyarrow and this repository; no Ray, no weights, no network.

    python benchmarks/if_gpu.py --json if.json
    python benchmarks/if_gpu.py --only mix --mix-model IF-I-XL --rows 40 --loop-rows 5
    python benchmarks/if_gpu.py --device cpu --tiny              # that it works, not how fast

mix: images per second of the mixed manifest (see mix.py) by the engine in each mode, by diffusers' pipelines a row at a
time, and by the same in 32-row batches of one task and one number of steps. Rows are sampled; rates are evaluations per
second over the manifest's evaluations per row. Noise, prompts and weights are the same for all; how far the pictures
are apart is stated, and checked in float32.

forward: evaluations per second of one UNet's packed passes by capacity, uncompiled, compiled and as CUDA graphs;
TFLOP/s (FLOPs counted on the meta device, 77 tokens) and their share of the card's own rate for one large matrix
product; the peak of memory beside what the meta device foretold.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "lib"), str(ROOT / "benchmarks")]

from arms import ARMS, Arms, Made  # noqa: E402
from mix import Row, make_rows, sample  # noqa: E402
from random_if import inputs, make_predictor, needs, plain, shape_of, studio_of  # noqa: E402

from darkroom.models.compiled import MODES, compiled  # noqa: E402
from darkroom.sampling.engine import Engine  # noqa: E402

STAGES = ("IF-I-M", "IF-I-L", "IF-I-XL", "IF-II-L")
TOLERANCE = 2e-3  # of pictures in float32; see engine.py
GB = 1e9


class Bench:
    """What is asked for, and the device it runs on."""

    def __init__(self, given: argparse.Namespace) -> None:
        self.given, self.device = given, torch.device(given.device)
        self.dtype = torch.float32 if self.device.type == "cpu" else torch.bfloat16
        self.modes = ("off",) if self.device.type == "cpu" else MODES
        self.peak = matmul_rate(self, 256 if given.tiny else 8192)

    def now(self) -> float:
        """Seconds, when all that was asked of the device is done."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    def rate(self, work: Callable[[], Any], seconds: float) -> float:
        """Calls per second, of as many calls as fill the seconds; the first two warm up (and compile)."""
        work(), work()
        began = self.now()
        work()
        count = max(2, min(500, int(seconds / max(self.now() - began, 1e-4))))
        began = self.now()
        for _ in range(count):
            work()
        return count / (self.now() - began)


def matmul_rate(bench: Bench, size: int) -> float:
    """FLOP/s of a square matrix product in the dtype of the weights: what a share is a share of."""
    one, other = (torch.randn(size, size, device=bench.device).to(bench.dtype) for _ in range(2))
    return 2 * size**3 * bench.rate(lambda: one @ other, 0.05 if bench.given.tiny else 2.0)


def forward(bench: Bench) -> list[dict[str, Any]]:
    """A line per model, capacity and mode."""
    print(f"{'model':<10}{'capacity':>9} {'mode':<9}{'ev/s':>9}{'TFLOP/s':>9}{'share':>7}{'peak GB':>9}{'foretold':>9}")
    return [line for name in bench.given.models for line in forward_of(bench, name)]


@torch.inference_mode()
def forward_of(bench: Bench, name: str) -> list[dict[str, Any]]:
    shape, lines = shape_of(name, bench.given.tiny), []
    predictor = make_predictor(shape, bench.device, bench.dtype)
    for capacity in bench.given.capacities:
        parameters, flops, memory = needs(shape, capacity, bench.dtype)
        for mode in bench.modes:
            if mode != "off" and capacity not in bench.given.compiled:
                continue
            line = {"model": name, "parameters": parameters, "tflop": flops / 1e12, "capacity": capacity, "mode": mode}
            line["foretold_gb"] = memory.total / GB
            line |= measured(bench, compiled(predictor, mode), shape, capacity, flops)
            lines.append(line)
            told = f"{name:<10}{capacity:>9} {mode:<9}"
            if "evaluations_per_second" in line:
                told += f"{line['evaluations_per_second']:>9,.1f}{line['tflops']:>9.1f}{line['share']:>7.1%}"
                told += f"{line['peak_gb']:>9.2f}{line['foretold_gb']:>9.2f}"
            print(told + f" {line['note']}", flush=True)
    torch._dynamo.reset()  # else the kernels of every shape so far count towards its limit
    return lines


def measured(bench: Bench, predictor: Any, shape: dict[str, Any], capacity: int, flops: float) -> dict[str, Any]:
    on_gpu = bench.device.type == "cuda"
    try:
        asked = inputs(shape, capacity, bench.device, bench.dtype)
        if on_gpu:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        rate = capacity * bench.rate(lambda: predictor(*asked), bench.given.seconds)
    except torch.OutOfMemoryError:
        return {"note": "does not fit"}
    peak = torch.cuda.max_memory_allocated() / GB if on_gpu else float("nan")
    share = rate * flops / bench.peak
    found = {"evaluations_per_second": rate, "tflops": rate * flops / 1e12, "share": share, "peak_gb": peak}
    return found | {"note": "; ".join(getattr(predictor, "notes", []))}


@torch.inference_mode()
def mix(bench: Bench) -> dict[str, Any]:
    """Images per second of the mixed manifest, by arm and mode."""
    given = bench.given
    rows = [plain(row, 200 if given.tiny else 30) for row in make_rows(given.rows)]
    shape = shape_of(given.mix_model, given.tiny)
    predictor, capacity = make_predictor(shape, bench.device, bench.dtype), given.mix_capacity
    arms = Arms(studio_of(predictor, shape, rows, bench.dtype), capacity)
    per_row = sum(arms.studio.plan(row).evaluations for row in rows) / len(rows)
    found: dict[str, Any] = {"model": given.mix_model, "capacity": capacity, "evaluations_per_row": per_row}
    few = sample(rows, 5, np.random.default_rng(0))
    made = {name: timed(bench, arms, name, few)[1] for name in "ABC"}  # warms up
    found["differences"] = compare(made, few)
    for name, count in (("A", given.loop_rows), ("B", given.rows)):
        chosen = sample(rows, count, np.random.default_rng(1))
        found[name] = told(bench, arms, name, ARMS[name], chosen, per_row)
    for mode in bench.modes:
        arms.studio.predictor = compiled(predictor, mode)
        timed(bench, arms, "C", few)
        found[f"C {mode}"] = told(bench, arms, "C", f"{ARMS['C']}, compile {mode}", rows, per_row)
    found["waits"] = waits(bench, arms, rows)
    for one, other in (("C", "A"), ("C", "B")):
        best = max(found[f"{one} {mode}"]["images_per_second"] for mode in bench.modes)
        print(f"  the engine over {ARMS[other]}: {best / found[other]['images_per_second']:.2f}x at its best mode")
    return found


def told(bench: Bench, arms: Arms, name: str, title: str, rows: list[Row], per_row: float) -> dict[str, float]:
    seconds, _ = timed(bench, arms, name, rows)
    evaluations = sum(arms.studio.plan(row).evaluations for row in rows)
    rate = evaluations / seconds / per_row
    print(
        f"  {title:<44}{len(rows):>6} rows{rate:>9.3f} images/s{evaluations / seconds:>10,.1f} evaluations/s",
        flush=True,
    )
    return {"rows": len(rows), "images_per_second": rate, "evaluations_per_second": evaluations / seconds}


def timed(bench: Bench, arms: Arms, name: str, rows: list[Row]) -> tuple[float, Made]:
    made, began = Made(), bench.now()
    arms.ways[name](rows, made)
    return bench.now() - began, made


def compare(made: dict[str, Made], rows: list[Row]) -> dict[str, float]:
    """The largest difference of any pixel of a row, by task; inpainting is C's own, see engine.py. Stated in any dtype,
    AssertionError only in float32."""
    apart: dict[str, float] = {}
    for row in rows:
        images = [made[name].images[row["id"]].float() for name in "ABC"]
        far = max((image - images[0]).abs().max().item() for image in images)
        apart[row["task"]] = max(far, apart.get(row["task"], 0.0))
        exact = all(one.images[row["id"]].dtype == torch.float32 for one in made.values())
        assert not exact or row["task"] == "inpaint" or far <= TOLERANCE, f"{row['id']} differs by {far:g}"
    print("  largest difference of any pixel: " + ", ".join(f"{task} {far:.1e}" for task, far in apart.items()))
    return apart


def waits(bench: Bench, arms: Arms, rows: list[Row]) -> float | None:
    """How often the host waited for the GPU, a pass, while the engine was full; None without a GPU."""
    if bench.device.type != "cuda":
        return None
    engine = Engine(arms.studio.predictor, arms.capacity)
    for row in rows:
        engine.add(arms.studio.plan(row))
    for _ in range(20):
        engine.advance()
    torch.cuda.set_sync_debug_mode("warn")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(20):
            engine.advance()
    torch.cuda.set_sync_debug_mode("default")
    for line in sorted({f"{one.filename}:{one.lineno}" for one in caught}):
        print(f"    the host waits in {line}")
    print(f"  host waits a pass: {len(caught) / 20:.2f}")
    return len(caught) / 20


def main() -> int:
    given = _arguments()
    bench = Bench(given)
    name = torch.cuda.get_device_name() if bench.device.type == "cuda" else "cpu"
    print(f"{name}, torch {torch.__version__}, {bench.dtype}, one matrix product {bench.peak / 1e12:,.2f} TFLOP/s")
    found: dict[str, Any] = {"device": name, "torch": str(torch.__version__), "matmul_tflops": bench.peak / 1e12}
    for section in given.only:
        print(section)
        found[section] = {"forward": forward, "mix": mix}[section](bench)
        if given.json:  # after each section: what is measured is kept whatever comes next
            given.json.write_text(json.dumps(found, indent=1))
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=("forward", "mix"), default=["mix", "forward"])
    parser.add_argument(
        "--models", nargs="+", default=list(STAGES), help="names of darkroom.models.deepfloyd.UNET_SHAPES"
    )
    parser.add_argument("--capacities", nargs="+", type=int, default=[8, 16, 32, 64])
    parser.add_argument("--compiled", nargs="*", type=int, default=[32], help="capacities to compile for: minutes each")
    parser.add_argument("--mix-model", default="IF-I-M")
    parser.add_argument("--mix-capacity", type=int, default=32)
    parser.add_argument("--rows", type=int, default=200, help="of the mixed manifest")
    parser.add_argument("--loop-rows", type=int, default=20, help="rows of it that go through the pipelines one by one")
    parser.add_argument("--seconds", type=float, default=3.0, help="per line of forward, about")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--tiny", action="store_true", help="networks of a few channels, and 5 steps")
    return parser.parse_args()


if __name__ == "__main__":
    raise SystemExit(main())
