"""The steps of gpu_check.py: what each is, how long it may take, and one of them run.

python benchmarks/gpu_check_steps.py STEP --out FOLDER [--tiny] [--quick] [--mnist FOLDER]
"""

from __future__ import annotations

import argparse
import importlib
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
TINY_LIMIT = 600.0


@dataclass(frozen=True)
class Step:
    """what: for the table. function: MODULE:NAME; arguments: of a function that makes the step. limit, quick: seconds,
    quick 0 where the short check leaves it out. cascade: it wants the one that is made in the background."""

    what: str
    function: str
    limit: float
    quick: float = 0.0
    arguments: tuple[str, ...] = ()
    cascade: bool = False

    def seconds(self, tiny: bool, quick: bool) -> float:
        return TINY_LIMIT if tiny else (quick and self.quick) or self.limit


PICTURES, LATENTS, TRAINING = "gpu_check_pictures", "gpu_check_latents", "gpu_check_training"
BENCHMARK, RECIPE = f"{TRAINING}:benchmark", f"{TRAINING}:recipe"
_IF, _TRAIN, _LATENT = "if_gpu.py", "train_gpu.py", "latent.py"
_ON_GPU = ("--device", "cuda", "--dtype", "bfloat16", "--rounds", "1")

# In the order in which they are run: what a goal is stated for comes before what is only to be seen to work, and what
# takes longest comes last, as all of it shares one time.
STEPS = {
    "demo": Step("demo.yaml on if-xs through Ray, against the processor", f"{PICTURES}:demo", 240, 180),
    "if": Step("mixed rows at IF-M's shapes, job against engine", f"{PICTURES}:cascade", 300, 200, cascade=True),
    "latents": Step("latent.yaml and control.yaml on sd-xs, against the processor", f"{LATENTS}:latents", 420, 300),
    "sd15": Step("mixed rows at SD 1.5's shapes, adapters and control", f"{LATENTS}:stable_diffusion", 300, 240),
    "float32": Step("a row that half precision cannot hold", f"{PICTURES}:in_float32", 140),
    "oom": Step("out of memory: halved, nothing lost", f"{PICTURES}:out_of_memory", 200, cascade=True),
    "auto": Step("--capacity auto", f"{PICTURES}:auto", 150, cascade=True),
    "train": Step("train mnist-flow-class, evaluate", f"{TRAINING}:train", 400, 240),
    "retrain": Step("a retraining tick", f"{TRAINING}:retrain", 300),
    "graphs": Step("--compile graphs", f"{PICTURES}:graphs", 300),
}
BENCHMARKS = {
    "if-mix": Step("if_gpu.py, mix", BENCHMARK, 240, arguments=(_IF, "--only", "mix", "--quick", "--limit", "200")),
    "if-forward": Step(
        "if_gpu.py, forward",
        BENCHMARK,
        240,
        arguments=(_IF, "--only", "forward", "--quick", "--limit", "180", "--capacities", "32", "64"),
    ),
    "latent-sd15": Step(
        "latent.py, SD 1.5",
        BENCHMARK,
        400,
        arguments=(_LATENT, *_ON_GPU, "--shape", "sd15", "--rows", "96"),
    ),
    "latent-sdxl": Step(
        "latent.py, SDXL",
        BENCHMARK,
        400,
        arguments=(_LATENT, *_ON_GPU, "--shape", "sdxl", "--rows", "40", "--capacity", "8", "--adapters", "8"),
    ),
    "latent-compiled": Step(
        "latent.py, SD 1.5 compiled",
        BENCHMARK,
        800,
        arguments=(_LATENT, *_ON_GPU, "--shape", "sd15", "--compile", "default", "--rows", "96", "--adapters"),
    ),
    **{
        f"train-{section}": Step(f"train_gpu.py, {section}", BENCHMARK, 200, arguments=(_TRAIN, "--only", section))
        for section in ("cifar", "engine", "mnist", "course")
    },
}
RECIPES = {
    "denoiser": Step("mnist-denoiser, D 128", RECIPE, 400, arguments=("mnist-denoiser",)),
    "pure-noise": Step("mnist-denoiser-pure-noise, D 128", RECIPE, 400, arguments=("mnist-denoiser-pure-noise",)),
    "ddpm-cosine": Step("mnist-ddpm, cosine, 20 epochs", RECIPE, 600, arguments=("mnist-ddpm", "schedule=cosine")),
    "ddpm-linear": Step("mnist-ddpm, linear, 20 epochs", RECIPE, 600, arguments=("mnist-ddpm", "schedule=linear")),
    "cifar10-ddpm": Step("cifar10-ddpm on synthetic pictures", RECIPE, 600, arguments=("cifar10-ddpm",)),
}
GROUPS = {"benchmarks": tuple(BENCHMARKS), "recipes": tuple(RECIPES)}
ALL = STEPS | BENCHMARKS | RECIPES


def chosen(only: list[str] | None, quick: bool, recipes: bool) -> list[str]:
    """The names of the steps to run, in order; a group's name stands for all of it."""
    if only:
        wanted = {name for given in only for name in GROUPS.get(given, (given,))}
    elif quick:
        wanted = {name for name, step in ALL.items() if step.quick}
    else:
        wanted = {*STEPS, *BENCHMARKS}
    return [name for name in ALL if name in wanted or (recipes and name in RECIPES)]


def run(name: str, out: Path, tiny: bool, quick: bool, mnist: str | None) -> None:
    """One step, in this process. Failed, or whatever else goes wrong."""
    sys.path[:0] = [str(ROOT / "lib"), str(ROOT / "benchmarks")]
    from gpu_check_jobs import Check, Found

    step = ALL[name]
    module, _, function = step.function.partition(":")
    act = getattr(importlib.import_module(module), function)
    folder = out / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    act = act(*step.arguments) if step.arguments else act
    # Goals are of a GPU at full size.
    act(Check(out, tiny, quick, mnist), Found(folder / "figures.json", goals=not tiny), folder)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("step", choices=list(ALL))
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--mnist")
    given = parser.parse_args()
    sys.path[:0] = [str(ROOT / "benchmarks")]
    from gpu_check_jobs import Failed

    try:
        run(given.step, given.out, given.tiny, given.quick, given.mnist)
    except Failed as error:
        print(error)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
