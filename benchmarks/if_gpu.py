"""DeepFloyd IF on one GPU, with random weights at its true shapes, in one call: wants torch, diffusers, transformers
(which its IF pipelines import), pyarrow and this repository; no Ray, no weights, no network.

    python benchmarks/if_gpu.py --json if.json
    python benchmarks/if_gpu.py --quick --limit 200 --json if.json
    python benchmarks/if_gpu.py --only mix --mix-model IF-I-XL --rows 40 --loop-rows 5
    python benchmarks/if_gpu.py --only forward --models IF-I-XL --capacities 64 --compiled 64 --modes graphs \\
        --try plain fused cudnn max-autotune fused+cudnn+max-autotune nhwc
    python benchmarks/if_gpu.py --device cpu --tiny              # that it works, not how fast

mix: images per second of the mixed manifest (see mix.py) by the engine in each mode, by diffusers' pipelines a row at a
time, and by the same in 32-row batches of one task and one number of steps. Rows are sampled; rates are evaluations per
second over the manifest's evaluations per row. Noise, prompts and weights are the same for all; how far the pictures
are apart is stated, and checked where the weights are float32.

forward: evaluations per second of one UNet's packed passes by capacity, uncompiled, compiled and as CUDA graphs;
TFLOP/s (FLOPs counted on the meta device, 77 tokens) and their share of the card's own rate for one large matrix
product; the peak of memory beside what the meta device foretold. --try: all of it once for each word, or for several
joined by +. fused: see darkroom/models/fused_attention.py; cudnn: cuDNN times its convolutions and takes the fastest;
max-autotune: inductor does so with its products; nhwc: no speed, but how many permuting copies a small network of the
same kind makes in an uncompiled pass.

What is measured is kept in --json line by line, whatever ends it.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "lib"), str(ROOT / "benchmarks")]

from arms import ARMS, Arms, Made  # noqa: E402
from mix import Row, make_rows, sample  # noqa: E402
from random_if import LayoutChanges, inputs, make_predictor, needs, plain, shape_of, studio_of  # noqa: E402

from darkroom.models.compiled import MODES, compiled, mode_in_use, notes_of  # noqa: E402
from darkroom.sampling.engine import Engine, Predictor  # noqa: E402

STAGES = ("IF-I-M", "IF-I-L", "IF-I-XL", "IF-II-L")
TOLERANCE = 2e-3  # of pictures by float32 weights; see engine.py
GB = 1e9
TRIES = ("plain", "fused", "cudnn", "max-autotune", "nhwc")
QUICK: dict[str, Any] = {
    "models": ["IF-I-XL"],
    "capacities": [32],
    "modes": ["off", "graphs"],
    "seconds": 1.0,
    "rows": 60,
    "loop_rows": 4,
}


class Bench:
    """What is asked for, the device it runs on, and what was found so far."""

    def __init__(self, given: argparse.Namespace) -> None:
        self.given, self.device, self.began = given, torch.device(given.device), time.perf_counter()
        on_cpu = self.device.type == "cpu"
        self.dtype = getattr(torch, given.dtype or ("float32" if on_cpu else "bfloat16"))
        self.modes = given.modes or (("off",) if on_cpu else MODES)
        self.peak = matmul_rate(self, 256 if given.tiny else 8192)
        name = "cpu" if on_cpu else torch.cuda.get_device_name()
        peak = self.peak / 1e12
        print(f"{name}, torch {torch.__version__}, {self.dtype}, one matrix product {peak:,.2f} TFLOP/s")
        self.found: dict[str, Any] = {"device": name, "torch": str(torch.__version__), "matmul_tflops": peak}

    def keep(self) -> None:
        """Writes what was found; beside its place first, as whoever limits this ends it at any moment."""
        if path := self.given.json:
            beside = path.with_name(path.name + ".part")
            beside.write_text(json.dumps(self.found, indent=1))
            beside.replace(path)

    def in_time(self, what: str) -> bool:
        """Whether there is time to begin that; what there was not is said and kept."""
        if self.given.limit is None or time.perf_counter() - self.began < self.given.limit:
            return True
        print(f"  left out, as {self.given.limit:g} s are over: {what}", flush=True)
        self.found.setdefault("left_out", []).append(what)
        return False

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


def forward(bench: Bench, lines: list[dict[str, Any]]) -> None:
    """A line per model, thing to try, capacity and mode."""
    heads = f"{'ev/s':>9}{'TFLOP/s':>9}{'share':>7}{'peak GB':>9}{'foretold':>9}"
    print(f"{'model':<9} {'try':<26}{'capacity':>8} {'mode':<8}{heads}")
    for name in bench.given.models:
        for variant in bench.given.tries:
            if variant == "nhwc":
                layout(bench, name)
                continue
            with trying(variant):
                forward_of(bench, name, variant, lines)


@contextmanager
def trying(variant: str) -> Iterator[None]:
    """While it is open, kernels are chosen by timing where the variant says so.

    In benchmarks only: two workers, timing alone, may choose otherwise, and a row's bits would hang on who took it.
    """
    words, before = variant.split("+"), torch.backends.cudnn.benchmark
    mode = "max-autotune-no-cudagraphs" if "max-autotune" in words else "default"
    torch.backends.cudnn.benchmark = "cudnn" in words
    try:
        with torch._inductor.config.patch(torch._inductor.list_mode_options(mode)):
            yield
    finally:
        torch.backends.cudnn.benchmark = before
        torch._dynamo.reset()  # else the next one finds these kernels, and every shape counts towards dynamo's limit


@torch.inference_mode()
def forward_of(bench: Bench, name: str, variant: str, lines: list[dict[str, Any]]) -> None:
    shape = shape_of(name, bench.given.tiny)
    predictor = make_predictor(shape, bench.device, bench.dtype, "fused" in variant.split("+"))
    for capacity in bench.given.capacities:
        parameters, flops, memory = needs(shape, capacity, bench.dtype)
        for mode in bench.modes:
            left_to_others = mode != "off" and capacity not in bench.given.compiled
            if left_to_others or not bench.in_time(f"{name} {variant}, capacity {capacity}, {mode}"):
                continue
            line = {"model": name, "try": variant, "parameters": parameters, "tflop": flops / 1e12}
            line |= {"capacity": capacity, "mode": mode, "foretold_gb": memory.total / GB}
            line |= measured(bench, compiled(predictor, mode), shape, capacity, flops)
            lines.append(line)
            bench.keep()
            print(_as_text(line), flush=True)


def _as_text(line: dict[str, Any]) -> str:
    told = f"{line['model']:<9} {line['try']:<26}{line['capacity']:>8} {line['mode']:<8}"
    if "evaluations_per_second" in line:
        told += f"{line['evaluations_per_second']:>9,.1f}{line['tflops']:>9.1f}{line['share']:>7.1%}"
        told += f"{line['peak_gb']:>9.2f}{line['foretold_gb']:>9.2f}"
    return f"{told} {line['note']}".rstrip()


@torch.inference_mode()
def layout(bench: Bench, name: str) -> None:
    """How many permuting copies an uncompiled pass of a small network of that kind makes, by diffusers and fused."""
    shape = shape_of(name, tiny=True)
    for title, fused in (("plain", False), ("fused", True)):
        predictor = make_predictor(shape, bench.device, bench.dtype, fused)
        with LayoutChanges() as changes:
            predictor(*inputs(shape, 2, bench.device, bench.dtype))
        bench.found.setdefault("layout", {}).setdefault(name, {})[title] = dict(changes.seen)
        told = ", ".join(f"{count} {operator}" for operator, count in changes.seen.most_common())
        print(f"{name:<9} nhwc, {title}: {changes.seen.total()} permuting copies a pass: {told}", flush=True)
    bench.keep()


def measured(bench: Bench, predictor: Predictor, shape: dict[str, Any], capacity: int, flops: float) -> dict[str, Any]:
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
    return found | {"ran": mode_in_use(predictor), "note": "; ".join(notes_of(predictor))}


@torch.inference_mode()
def mix(bench: Bench, found: dict[str, Any]) -> None:
    """Images per second of the mixed manifest, by arm and mode."""
    given = bench.given
    rows = [plain(row, 200 if given.tiny else 30) for row in make_rows(given.rows)]
    shape = shape_of(given.mix_model, given.tiny)
    predictor, capacity = make_predictor(shape, bench.device, bench.dtype), given.mix_capacity
    arms = Arms(studio_of(predictor, shape, rows, bench.dtype), capacity)
    per_row = sum(arms.studio.plan(row).evaluations for row in rows) / len(rows)
    found |= {"model": given.mix_model, "capacity": capacity, "evaluations_per_row": per_row}
    few = sample(rows, 5, np.random.default_rng(0))
    made = {name: timed(bench, arms, name, few)[1] for name in "ABC"}  # warms up
    found["differences"] = compare(made, few, bench.dtype)
    for name, count in (("A", given.loop_rows), ("B", given.rows)):
        if bench.in_time(f"mix, {ARMS[name]}"):
            chosen = sample(rows, count, np.random.default_rng(1))
            found[name] = told(bench, arms, name, ARMS[name], chosen, per_row)
            bench.keep()
    for mode in bench.modes:
        if bench.in_time(f"mix, {ARMS['C']}, compile {mode}"):
            found[f"C {mode}"] = by_engine(bench, arms, compiled(predictor, mode), mode, rows, per_row)
            bench.keep()
    if bench.in_time("mix, how often the host waits"):
        found["waits"] = waits(bench, arms, rows)
    ratios(bench, found)


def by_engine(
    bench: Bench, arms: Arms, predictor: Predictor, mode: str, rows: list[Row], per_row: float
) -> dict[str, Any]:
    arms.studio.predictor = predictor
    timed(bench, arms, "C", sample(rows, 5, np.random.default_rng(0)))  # compiles
    rates = told(bench, arms, "C", f"{ARMS['C']}, compile {mode}", rows, per_row)
    for note in notes_of(predictor):
        print(f"    {note}")
    return rates | {"ran": mode_in_use(predictor), "notes": notes_of(predictor)}


def ratios(bench: Bench, found: dict[str, Any]) -> None:
    """The engine at its best mode over the pipelines, as far as they were run."""
    best = max((found[f"C {mode}"]["images_per_second"] for mode in bench.modes if f"C {mode}" in found), default=None)
    for other in ("A", "B"):
        if best is not None and other in found:
            found[f"C over {other}"] = best / found[other]["images_per_second"]
            print(f"  the engine over {ARMS[other]}: {found[f'C over {other}']:.2f}x at its best mode")


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


def compare(made: dict[str, Made], rows: list[Row], dtype: torch.dtype) -> dict[str, float]:
    """The largest difference of any pixel of a row, by task; inpainting is C's own, see engine.py.

    dtype: of the weights. AssertionError only in float32: pictures are float32 whatever the weights are, and half
    precision puts the arms further apart than any fault would.
    """
    apart: dict[str, float] = {}
    for row in rows:
        images = [made[name].images[row["id"]].float() for name in "ABC"]
        far = max((image - images[0]).abs().max().item() for image in images)
        apart[row["task"]] = max(far, apart.get(row["task"], 0.0))
        held = dtype == torch.float32 and row["task"] != "inpaint"
        assert not held or far <= TOLERANCE, f"{row['id']} differs by {far:g}"
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
    bench = Bench(_arguments())
    for section in bench.given.only:
        print(section)
        bench.found[section] = {} if section == "mix" else []
        {"forward": forward, "mix": mix}[section](bench, bench.found[section])
        bench.keep()
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=("forward", "mix"), default=["mix", "forward"])
    parser.add_argument("--quick", action="store_true", help=f"{QUICK}, as far as nothing else is asked for")
    parser.add_argument("--limit", type=float, help="seconds after which no line is begun")
    parser.add_argument("--modes", nargs="+", choices=MODES, help="default: all on a GPU, off on a processor")
    parser.add_argument(
        "--models", nargs="+", default=list(STAGES), help="names of darkroom.models.deepfloyd.UNET_SHAPES"
    )
    parser.add_argument("--capacities", nargs="+", type=int, default=[8, 16, 32, 64, 128])
    parser.add_argument("--compiled", nargs="*", type=int, default=[32], help="capacities to compile for: minutes each")
    parser.add_argument("--try", dest="tries", nargs="+", type=_variant, default=["plain"], metavar="WORD[+WORD]")
    parser.add_argument("--mix-model", default="IF-I-M")
    parser.add_argument("--mix-capacity", type=int, default=32)
    parser.add_argument("--rows", type=int, default=200, help="of the mixed manifest")
    parser.add_argument("--loop-rows", type=int, default=20, help="rows of it that go through the pipelines one by one")
    parser.add_argument("--seconds", type=float, default=3.0, help="per line of forward, about")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), help="of the weights")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--tiny", action="store_true", help="networks of a few channels, and 5 steps")
    if parser.parse_args().quick:
        parser.set_defaults(**QUICK)
    return parser.parse_args()


def _variant(words: str) -> str:
    if not set(words.split("+")) <= set(TRIES):
        raise argparse.ArgumentTypeError(f"{words!r} is not made of {', '.join(TRIES)}")
    return words


if __name__ == "__main__":
    raise SystemExit(main())
