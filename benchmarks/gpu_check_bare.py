"""The bare engine on the rows of a run that `darkroom generate` made: no Ray, no PNG, no storage; for its rate, and to
see that the pictures are the same.

    python benchmarks/gpu_check_bare.py MODEL MANIFEST RUN --first ID ... --json FILE

All rows walk through stage I, then those that go on through stage II, at the run's own capacity and dtype. `seconds` is
from the moment the rows named by --first are done to the end, as the job's is from its first commit to its last.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "lib"), str(ROOT / "benchmarks")]

from gpu_check_jobs import of_stages, picture_of, read_rows  # noqa: E402
from mix import Row, Studio, canonical, prompts  # noqa: E402

from darkroom.models.catalog import open_model  # noqa: E402
from darkroom.sampling.engine import Engine  # noqa: E402
from darkroom.sampling.plans import Plan, goes_through, make_plan  # noqa: E402
from darkroom.sampling.stage import Inputs  # noqa: E402

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
Images = dict[str, torch.Tensor]


class Bare:
    """A model's stages as engines, as a run had them."""

    def __init__(self, model: str, rows: list[Row], made: list[dict[str, Any]]) -> None:
        self.model = open_model(model)
        self.capacities, self.dtypes = of_stages(made, "capacity"), of_stages(made, "dtype")
        encoder = self.model.text_encoder(self.model.encoders[0], DEVICE, only(self.dtypes[1]))
        asked = prompts(rows)
        self.conditions = dict(zip(asked, encoder.encode(asked).float(), strict=True))
        self.predictors = {
            number: self.model.predictor(number, DEVICE, only(self.dtypes[number])) for number in self.dtypes
        }
        self.found: dict[str, Any] = {}

    def warm_up(self, rows: list[Row]) -> None:
        """A step of each stage: what libraries do at their first call, the job's workers have done before any row."""
        row = next(row for row in rows if row["task"] == "text_to_image")
        size = self.model.stages[max(self.capacities) - 1].size
        short = {key: value for key, value in row.items() if key != "stride"}
        short |= {"steps": 1, "size": size, "stage2": {"steps": 1}}
        images, _ = self.base([short], set())
        if 2 in self.capacities:
            self.above([short], images)

    def base(self, rows: list[Row], first: set[str]) -> tuple[Images, float]:
        """Stage I's pictures, and the moment at which the first rows were done."""
        stage = self.model.stages[0]
        studio = Studio(self.predictors[1], stage, self.model.scheduler_config(1), self.conditions)
        return self.walk(1, {row["id"]: studio.plan(row) for row in rows}, first)

    def above(self, rows: list[Row], below: Images) -> Images:
        """Stage II's pictures of the rows that go on."""
        stage = self.model.stages[1]
        going = [row for row in rows if goes_through(row, stage, self.model.default_size)]
        plans = {row["id"]: make_plan(row, stage, Inputs(self.conditions, low_res=below[row["id"]])) for row in going}
        return self.walk(2, plans, set())[0]

    def walk(self, number: int, plans: dict[str, Plan], first: set[str]) -> tuple[Images, float]:
        engine = Engine(self.predictors[number], only(self.capacities[number]))
        for row_id, plan in plans.items():
            engine.add(plan, row_id)
        images: Images = {}
        began = since = time.perf_counter()
        while not engine.idle:
            images |= {finished.tag: finished.image for finished in engine.advance()}
            if first and first <= images.keys():
                since, first = time.perf_counter(), set()
        seconds, asked = time.perf_counter() - began, engine.statistics.evaluations
        self.found[f"stage {number}"] = {
            "evaluations": asked,
            "seconds": seconds,
            "evaluations_per_second": asked / seconds,
            "slot_use": engine.statistics.slot_use,
        }
        return images, since


def only(values: set[Any]) -> Any:
    """The one value: a run whose rows differ in capacity or dtype cannot be held against one engine."""
    if len(values) != 1:
        raise SystemExit(f"the run's rows have {sorted(values)}, wanted one value for a stage")
    return next(iter(values))


def pixels(image: torch.Tensor) -> np.ndarray:
    return ((image.clamp(-1, 1) + 1) * 127.5).round().byte().permute(1, 2, 0).numpy()


def main() -> int:
    given = _arguments()
    if DEVICE.type == "cpu":
        torch.set_num_threads(1)  # as a job's stages have it on few processors; threads that wait for each other spin
    rows = [json.loads(line) for line in given.manifest.read_text().splitlines()]
    rows = [{"id": row["id"], **canonical(row)} for row in rows]
    made = read_rows(given.run)
    bare = Bare(given.model, rows, made)
    bare.warm_up(rows)
    images, since = bare.base(rows, set(given.first))
    if 2 in bare.capacities:
        images |= bare.above(rows, images)
    seconds = time.perf_counter() - since
    apart = [np.abs(pixels(images[row["id"]]).astype(int) - picture_of(row)).max() for row in made]
    found = bare.found | {
        "seconds": seconds,
        "rows": len(rows),
        "same": sum(int(one == 0) for one in apart),
        "largest_difference": int(max(apart)),
        "evaluations": sum(bare.found[name]["evaluations"] for name in bare.found),
    }
    given.json.write_text(json.dumps(found, indent=1))
    print(json.dumps(found))
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("manifest", type=Path)
    parser.add_argument("run", type=Path)
    parser.add_argument("--first", nargs="+", default=[], help="ids of the rows after which the time counts")
    parser.add_argument("--json", type=Path, required=True)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
