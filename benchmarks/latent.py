"""The mixed manifest of latent models by diffusers' pipelines, a row at a time and in static batches, and the engine.

    python benchmarks/latent.py                                              sd-xs on this machine's processor
    python benchmarks/latent.py --random --rows 60 --rounds 1                its architecture, with random weights
    python benchmarks/latent.py --device cuda --shape sd15 --dtype bfloat16 --compile default
    python benchmarks/latent.py --device cuda --shape sdxl --dtype bfloat16 --rows 50 --capacity 4
    python benchmarks/latent.py --shape sdxl --tiny --rows 8 --rounds 1      that it works, not how fast

The rows are those of manifests/latent.yaml that diffusers' pipelines make too, each once and then with other seeds
until there are --rows. Arm A makes each once; B takes rows with equal scalars together, up to 32; C has all of them in
flight. All encode prompts and decode pictures, by the same weights. Rounds go A B C, C B A, ...; ratios are medians of
the rounds'. Where diffusers draws no noise on its way, the arms' pictures are compared first; and the engine's rows
with themselves, alone and in full passes.

decoding: what it adds to the engine's time, which works beside it. adapters: the engine with a LoRA adapter (rank 4
of sd-xs, else 16; attention) in every row, of one or of eight in the run, over the engine without.

--rows-from reads the rows as JSON lines, which --write-rows wrote where all that a manifest wants is installed.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "lib"), str(ROOT / "benchmarks")]

from adapters import random_adapter  # noqa: E402
from diffusers.utils import logging  # noqa: E402
from latent_arms import ARMS, Made, Row, Studio, arms, by_engine, comparable, groups, prompts, repeated  # noqa: E402
from random_sd import SHAPES, random_pipeline  # noqa: E402

from darkroom.models.compiled import MODES, compiled, mode_in_use  # noqa: E402

MANIFEST = ROOT / "manifests/latent.yaml"
ADAPTERS = (1, 8)  # of a run
RANKS = {"sd-xs": 4, "sd15": 16, "sdxl": 16}
COMPARED = ("ddim", "euler", "dpmpp_2m", "unipc")  # pndm mixes noises here, and predictions there
TOLERANCE = 5e-3  # of pictures in -1..1 by float32 weights: a level of 255 is 8e-3
GOALS = {"cpu": {"A": 3.0, "B": 1.4}, "cuda": {"A": 3.0, "B": 1.3}}
MOST_DECODING, MOST_ADAPTERS = 0.03, 1.10


def read_rows() -> list[Row]:
    """The manifest's rows in canonical form."""
    from darkroom.manifest import Abilities, open_manifest

    latent = Abilities("a latent model", (48,), 48, "text", "diffusion", 1000, latent=True, step=4, text_layers=2)
    return [task.canonical() for task in open_manifest(str(MANIFEST), latent).tasks()]


def open_pipeline(asked: argparse.Namespace, device: torch.device, dtype: torch.dtype) -> Any:
    if asked.shape != "sd-xs" or asked.random or asked.tiny:
        return random_pipeline(asked.shape, device, dtype, asked.tiny)
    from diffusers import StableDiffusionPipeline

    from darkroom.models.catalog import EMBEDDED

    return StableDiffusionPipeline.from_pretrained(EMBEDDED.get(asked.model, asked.model)).to(device, dtype)


def compare_passes(studio: Studio, rows: Sequence[Row], capacity: int) -> None:
    """Says how many rows the engine makes the same to the bit with few others and with all."""
    conditions, few = studio.embedded(prompts(studio, rows)), rows[::4]
    some, all_ = (by_engine(studio, those, capacity, conditions=conditions).images for those in (few, rows))
    same = sum(torch.equal(some[row["id"]], all_[row["id"]]) for row in few)
    print(f"the same to the bit in other passes: {same} of {len(few)} rows", flush=True)


def compare(makes: dict[str, Callable[[Sequence[Row]], Made]], rows: Sequence[Row]) -> float:
    """The largest difference of any value between A's pictures and C's."""
    plain = [row for row in rows if row["task"] == "text_to_image" and row.get("sampler") in COMPARED]
    chosen = list({row["sampler"]: row for row in plain}.values())
    one, other = (makes[name](chosen).images for name in "AC")
    apart = [(one[row["id"]].clamp(-1, 1) - other[row["id"]].clamp(-1, 1)).abs().max().item() for row in chosen]
    far = max(apart, default=0.0)
    print(
        f"largest difference of any value, in -1..1, A to C, {len(chosen)} rows of other solvers: {far:.1e}", flush=True
    )
    return far


def timed(makes: dict[str, Callable[[Sequence[Row]], Made]], rows: dict[str, list[Row]], rounds: int) -> list[dict]:
    """Rows per second by arm, a round an entry."""
    found = []
    for number in range(rounds):
        order = list(makes) if number % 2 == 0 else list(makes)[::-1]
        entry: dict[str, float] = {}
        for name in order:
            entry[name] = len(rows[name]) / makes[name](rows[name]).seconds
            print(f"  {name}: {len(rows[name])} rows, {entry[name]:.3g} rows/s", flush=True)  # each may take minutes
        found.append(entry)
        print(f"round {number + 1}: " + ", ".join(f"{name} {entry[name]:.3g}" for name in makes), flush=True)
    return found


def report(found: list[dict], rows: dict[str, list[Row]], goals: dict[str, float]) -> dict[str, Any]:
    print(f"\n{'arm':<32}{'rows':>6}{'calls':>7}{'rows/s':>9}{'of A':>7}{'of B':>7}")
    table: dict[str, Any] = {}
    for name, title in ARMS.items():
        rate = statistics.median(entry[name] for entry in found)
        of = {other: statistics.median(entry[name] / entry[other] for entry in found) for other in "AB"}
        calls = {"A": len(rows["A"]), "B": len(groups(rows["B"], 32))}.get(name, "")
        table[name] = {"rows": len(rows[name]), "rows_per_second": rate, "of_A": of["A"], "of_B": of["B"]}
        print(f"{name} {title:<30}{len(rows[name]):>6}{calls:>7}{rate:>9.3g}{of['A']:>7.2f}{of['B']:>7.2f}")
    for other, goal in goals.items():
        reached = table["C"][f"of_{other}"]
        print(f"goal: {goal:g} x {ARMS[other]}: {reached:.2f}, {'reached' if reached >= goal else 'missed'}")
    return table


def costs(plain: Studio, adapted: dict[int, Studio], rows: list[Row], capacity: int, rounds: int) -> dict[str, Any]:
    """Medians over rounds of what decoding and adapters add to the engine's time. adapted: by how many the run has."""
    asked = {count: with_adapters(rows, count) for count in adapted}
    for count, studio in adapted.items():
        by_engine(studio, asked[count][:4], capacity)  # warms up
    added, hidden, dearer = [], [], {count: [] for count in adapted}
    for number in range(rounds):
        order = (True, False) if number % 2 == 0 else (False, True)
        by_decoding = {decode: by_engine(plain, rows, capacity, decode=decode) for decode in order}
        whole, bare = by_decoding[True], by_decoding[False]
        added.append((whole.seconds - bare.seconds) / whole.seconds)
        hidden.append(1 - (whole.seconds - bare.seconds) / whole.decoding)
        for count, studio in adapted.items():
            dearer[count].append(by_engine(studio, asked[count], capacity).seconds / whole.seconds)
    found: dict[str, Any] = {
        "decoding_added": statistics.median(added),
        "decoding_hidden": statistics.median(hidden),
        "adapters": {count: statistics.median(ratios) for count, ratios in dearer.items()},
    }
    print(
        f"decoding: {found['decoding_added']:.1%} of the engine's time is waiting for it (goal: {MOST_DECODING:.0%}), "
        f"{found['decoding_hidden']:.0%} of it is hidden"
    )
    for count, ratio in found["adapters"].items():
        print(f"adapters, {count} of the run: {ratio:.3f} of the time without (goal: {MOST_ADAPTERS:g})")
    return found


def with_adapters(rows: Sequence[Row], count: int) -> list[Row]:
    """One in each row, in turn."""
    return [{**row, "adapters": [{"adapter": f"a{at % count}", "scale": 0.7}]} for at, row in enumerate(rows)]


def main() -> int:
    asked = _arguments()
    torch.set_num_threads(asked.threads or torch.get_num_threads())
    logging.set_verbosity_error()
    rows = _rows(asked)
    rows = rows[:: math.ceil(len(rows) / asked.kinds)] if asked.kinds else rows
    if asked.write_rows:
        asked.write_rows.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return 0
    device, dtype = torch.device(asked.device), getattr(torch, asked.dtype)
    pipe = open_pipeline(asked, device, dtype)
    adapters = [random_adapter(f"a{n}", pipe.unet, RANKS[asked.shape]) for n in range(max(asked.adapters, default=0))]
    studio, *others = (Studio(pipe, MANIFEST.parent, adapters[:count]) for count in (0, *asked.adapters))
    _compile(asked.compile, pipe, studio, *others)
    many = repeated(rows, asked.rows)
    by_arm = {"A": many[: len(rows)], "B": many, "C": many}
    makes = arms(studio, asked.capacity)
    print(f"{asked.shape}, {asked.dtype} on {asked.device}, compile {mode_in_use(studio.predictor)}, {len(rows)} kinds")
    far = compare(makes, repeated(rows, len(rows)))
    compare_passes(studio, repeated(rows, len(rows)), asked.capacity)
    if dtype == torch.float32 and far > TOLERANCE:
        print("the arms do not make the same pictures: nothing to time", file=sys.stderr)
        return 1
    for name in ARMS if asked.compile != "off" else "":
        makes[name](by_arm[name])  # compiles
    rounds = timed(makes, by_arm, asked.rounds)
    table = report(rounds, by_arm, GOALS[device.type])
    found = costs(studio, dict(zip(asked.adapters, others, strict=True)), many, asked.capacity, asked.rounds)
    if asked.json:
        asked.json.write_text(json.dumps({"table": table, "rounds": rounds, "difference": far, **found}, indent=2))
    return 0


def _rows(asked: argparse.Namespace) -> list[Row]:
    if asked.rows_from:
        return [json.loads(line) for line in asked.rows_from.read_text().splitlines()]
    return comparable(read_rows())


def _compile(mode: str, pipe: Any, *studios: Studio) -> None:
    for studio in studios:
        studio.predictor = compiled(studio.predictor, mode)
    if mode != "off":
        pipe.unet = torch.compile(pipe.unet)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="sd-xs", help="an embedded model or a folder, for the shape sd-xs")
    parser.add_argument("--shape", choices=SHAPES, default="sd-xs", help="other than sd-xs: random weights")
    parser.add_argument("--random", action="store_true", help="random weights for sd-xs too")
    parser.add_argument("--tiny", action="store_true", help="of the same kind, for a processor")
    parser.add_argument("--device", choices=GOALS, default="cpu")
    parser.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), default="float32")
    parser.add_argument("--compile", choices=MODES, default="off")
    parser.add_argument("--rows", type=int, default=200)
    parser.add_argument("--kinds", type=int, help="of rows, at most; default: all of the manifest's")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--capacity", type=int, default=32, help="evaluations per pass of the engine")
    parser.add_argument("--adapters", type=int, nargs="*", default=ADAPTERS, help="of the runs whose cost is measured")
    parser.add_argument("--threads", type=int, help="of every arm")
    parser.add_argument("--rows-from", type=Path, metavar="FILE")
    parser.add_argument("--write-rows", type=Path, metavar="FILE")
    parser.add_argument("--json", type=Path, metavar="FILE", help="where to write the figures")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
