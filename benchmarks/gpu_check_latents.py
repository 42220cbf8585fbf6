"""The steps on latents: sd-xs against the processor, and a job at Stable Diffusion 1.5's true shapes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from gpu_check_jobs import (
    ROOT,
    Check,
    Failed,
    Found,
    add_drift,
    generate,
    of_stages,
    on_processor,
    picture_of,
    read_rows,
    told_stages,
)
from gpu_check_pictures import add_start, once_running, write_lines
from gpu_check_sd import ADAPTERS, CONTROL, PICTURE
from mix import Row

MANIFESTS = ROOT / "manifests"
SOLVERS = ("ddim", "euler", "euler_ancestral", "dpmpp_2m", "dpmpp_2m_sde", "unipc", "pndm", "ddpm")


def latents(check: Check, found: Found, folder: Path) -> None:
    """latent.yaml and control.yaml on sd-xs: every task, solver and a control network, and on the processor."""
    nets = ["--model", "sd-xs", "--control", "canny=sd-xs-canny"]
    for name, few in (("latent", check.pick([], ["--limit", "24"], ["--limit", "4"])), ("control", ["--limit", "4"])):
        manifest = MANIFESTS / f"{name}.yaml"
        ran = generate(manifest, folder / name, *nets, *check.pick([], [], few))
        add_start(found, ran, f"{name}.yaml")
        rows = read_rows(folder / name)
        found.add(f"{name}.yaml, rows", len(rows))
        found.add(f"{name}.yaml, dtype and capacity", settings(rows))
        reference = folder / f"{name}-on-a-processor"
        generate(manifest, reference, *nets, *few, env=on_processor())
        add_drift(found, folder / name, reference, f"{name}.yaml against the processor", mean=2.0)


def stable_diffusion(check: Check, found: Found, folder: Path) -> None:
    """Mixed rows at SD 1.5's shapes, with solvers, tasks, adapters and a control network; and few of them again, whose
    pictures must be the same to the byte though they stand in other passes."""
    made = subprocess.run(
        [sys.executable, str(ROOT / "benchmarks" / "gpu_check_sd.py"), str(folder / "sd15"), *["--tiny"] * check.tiny],
        check=True,
        capture_output=True,
        text=True,
    )
    found.add("model", made.stdout.strip())
    rows = mixed(check.pick(64, 48, 16), check.pick(20, 12, 3))
    manifest = write_lines(folder, rows)
    told: list[str | Path] = ["--model", folder / "sd15" / "model", "--capacity", str(check.pick(16, 16, 4))]
    for name in ADAPTERS:
        told += ["--adapter", f"{name}={folder / 'sd15' / name}.safetensors"]
    told += ["--control", f"{CONTROL}={folder / 'sd15' / CONTROL}", "--inputs-root", MANIFESTS]
    ran = generate(manifest, folder / "run", *told)
    add_start(found, ran, "job")
    found.add("seconds of the job", ran.seconds)
    done = read_rows(folder / "run")
    found.add("rows", len(done))
    found.add("dtype and capacity", settings(done))
    flags = sorted({flag for row in done for flag in row["flags"]})
    found.add("flags", ", ".join(flags) or "none")
    first, seconds = once_running(done, ran)
    later = [row for row in done if row["id"] not in {row["id"] for row in first}]
    if later and seconds:
        found.add("images/s, job once running", len(later) / seconds)
        found.add("evaluations/s, job once running", sum(row["evaluations"] for row in later) / seconds)
    busy = json.loads((folder / "run" / "summary.json").read_text()).get("busy_seconds", {}).get("stage 1")
    if busy:
        found.add("evaluations/s, job while busy", sum(row["evaluations"] for row in done) / busy)
    again(found, folder, rows[::7], done, told)


def again(found: Found, folder: Path, few: list[Row], done: list[Row], told: list[str | Path]) -> None:
    """Those rows in a run of their own."""
    (folder / "alone").mkdir()
    generate(write_lines(folder / "alone", few), folder / "alone" / "run", *told)
    made = {row["id"]: row for row in done}
    apart = {
        row["id"]: int(abs(picture_of(row).astype(int) - picture_of(made[row["id"]])).max())
        for row in read_rows(folder / "alone" / "run")
    }
    same = sum(far == 0 for far in apart.values())
    found.add("pictures of rows in other passes, the same to the byte", f"{same} of {len(apart)}")
    if same < len(apart):
        raise Failed(f"rows differ in other passes: { ({key: far for key, far in apart.items() if far}) }")


def settings(rows: list[Row]) -> str:
    """`stage 1 bfloat16; stage 1 32`."""
    return "; ".join(told_stages(of_stages(rows, name)) for name in ("dtype", "capacity"))


def mixed(count: int, steps: int) -> list[Row]:
    """Rows of all tasks, solvers, adapters and control, in turn."""
    picture = str(PICTURE)
    tasks: list[Row] = [
        {"task": "text_to_image"},
        {"task": "image_to_image", "image": picture, "strength": 0.7},
        {"task": "inpaint", "image": picture, "mask": str(MANIFESTS / "inputs" / "mask-round-48.png")},
    ]
    more: list[Row] = [
        {},
        {"adapters": [{"adapter": ADAPTERS[0], "scale": 0.8}]},
        {"control": [{"net": CONTROL, "image": picture, "preprocess": "canny", "scale": 0.9}]},
        {"adapters": [{"adapter": name, "scale": 0.5} for name in ADAPTERS]},
        {"negative_prompt": "red", "guidance_rescale": 0.7},
    ]
    return [
        {
            "id": f"row-{at:03d}",
            "prompt": f"a photo of the number {at % 10}",
            "seed": at,
            "steps": steps,
            "sampler": SOLVERS[at % len(SOLVERS)],
            **tasks[at % len(tasks)],
            **more[at % len(more)],
        }
        for at in range(count)
    ]
