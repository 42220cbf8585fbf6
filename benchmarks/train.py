"""Ray Train against a plain PyTorch loop: the same recipe, data, batch, threads; images per second once running.

    python benchmarks/train.py                           # mnist-flow-class, hidden 32, on the digits of the package
    python benchmarks/train.py --data data/mnist --rounds 5 --hidden 64

The arms take turns: a plain loop on all processors, one Ray Train worker, two workers that share them. Each trains some
epochs; the first warms up and does not count. The plain loop uses nothing of darkroom but the network. The losses
show what it costs that on processors the network's BatchNorm sees a worker's share of the batch only.
"""

from __future__ import annotations

import argparse
import csv
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112 - Ray's workers would give way to the plain loop's leftovers
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"

ROOT = Path(__file__).parents[1]


def plain_loop(data: str, hidden: int, batch: int, epochs: int, threads: int) -> float:
    """Images per second of the epochs after the first, by what one would write without darkroom."""
    import torch
    import torch.nn.functional as F

    from darkroom.models.course_unet import CourseUNet
    from darkroom.training.data import load_images

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    given = load_images(data, "train")
    images, labels = torch.from_numpy(given.images).permute(0, 3, 1, 2).contiguous(), torch.from_numpy(given.labels)
    network = CourseUNet(hidden=hidden, conditioning="class", num_classes=10).to(memory_format=torch.channels_last)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-2, fused=True)
    steps, rates = len(labels) // batch, []
    for _ in range(epochs):
        began = time.perf_counter()
        for chosen in torch.randperm(len(labels))[: steps * batch].view(steps, batch):
            x1 = images[chosen].float() / 127.5 - 1
            x0, t = torch.randn_like(x1), torch.rand(batch)
            label = torch.where(torch.rand(batch) < 0.1, 10, labels[chosen])
            share = t.view(-1, 1, 1, 1)
            loss = F.mse_loss(network((1 - share) * x0 + share * x1, t, label), x1 - x0)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
        rates.append(steps * batch / (time.perf_counter() - began))
    return statistics.median(rates[1:])


def ray_train(data: str, hidden: int, batch: int, epochs: int, workers: int) -> tuple[float, str]:
    """Images per second of the epochs after the first, by `darkroom train`, and the last epoch's losses."""
    with tempfile.TemporaryDirectory() as out:
        settings = {
            "hidden": hidden,
            "batch": batch,
            "epochs": epochs,
            "validation_images": 100,
            "keep_last": 1,
            "bf16": "off",
        }
        given = [argument for key, value in settings.items() for argument in ("--set", f"{key}={value}")]
        command = [sys.executable, str(ROOT / "jobs/train.py"), "mnist-flow-class", "--data", data, "--out", out]
        subprocess.run([*command, "--workers", str(workers), "--no-report", *given], check=True, capture_output=True)
        rows = list(csv.DictReader(Path(out, "epochs.csv").read_text().splitlines()))
    rate = statistics.median(float(row["images_per_second"]) for row in rows[1:])
    return rate, f"loss {float(rows[-1]['loss']):.4f}, validation {float(rows[-1]['validation_loss']):.4f}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default=None, help="an ingested data set; default: the package's 2,000 digits")
    parser.add_argument("--hidden", type=int, default=32)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--plain", action="store_true", help="only the plain loop, once; prints its rate")
    given = parser.parse_args()
    from darkroom.training.data import sample_uri

    data, threads = given.data or sample_uri(), len(os.sched_getaffinity(0))
    sizes = (given.hidden, given.batch, given.epochs)
    if given.plain:
        print(plain_loop(data, *sizes, threads))
        return 0

    def plain() -> tuple[float, str]:
        named = zip(("--hidden", "--batch", "--epochs"), map(str, sizes), strict=True)
        command = [sys.executable, __file__, "--plain", "--data", data, *(text for pair in named for text in pair)]
        return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout), ""

    arms = {
        f"plain loop, {threads} threads": plain,
        "Ray Train, 1 worker": lambda: ray_train(data, *sizes, 1),
        "Ray Train, 2 workers": lambda: ray_train(data, *sizes, 2),
    }
    report(given, {name: [] for name in arms}, arms)
    return 0


def report(given: argparse.Namespace, rates: dict, arms: dict) -> None:
    """Runs the arms in turn, forwards and backwards, and prints the table."""
    losses = {}
    for number in range(given.rounds):
        for name in list(arms) if number % 2 == 0 else reversed(list(arms)):
            rate, losses[name] = arms[name]()
            rates[name].append(rate)
    first = next(iter(arms))
    print(f"mnist-flow-class, hidden {given.hidden}, batch {given.batch}, {given.rounds} rounds, images per second")
    print(f"{'':28}{'median':>8}{'least':>8}{'most':>8}{'of plain':>10}")
    for name, found in rates.items():
        ratios = [mine / plain for mine, plain in zip(found, rates[first], strict=True)]
        ratio = f"{statistics.median(ratios):.2f}"
        print(
            f"{name:28}{statistics.median(found):>8.0f}{min(found):>8.0f}{max(found):>8.0f}{ratio:>10}  {losses[name]}"
        )


if __name__ == "__main__":
    raise SystemExit(main())
