"""A RayJob in a file, and the RayJob of one tick. No torch comes with it: the pod that creates RayJobs is small."""

from __future__ import annotations

import copy
import sys
from pathlib import Path
from typing import Any

import yaml

Object = dict[str, Any]
BASE = "cluster/kubernetes/base/rayjob-train.yaml of the repository"
TICK = "darkroom/tick"


def read_rayjob(file: str) -> Object:
    """The RayJob in a file (- is stdin), the one named train if there are several. ValueError if there is none."""
    try:
        text = sys.stdin.read() if file == "-" else Path(file).read_text()
        found = [each for each in yaml.safe_load_all(text) if isinstance(each, dict) and each.get("kind") == "RayJob"]
    except OSError as error:
        raise ValueError(f"{file}: {error.strerror}; wanted a file with a RayJob, such as {BASE}") from None
    except yaml.YAMLError as error:
        raise ValueError(f"{file} is no YAML: {' '.join(str(error).split())}") from None
    chosen = found if len(found) == 1 else [each for each in found if each["metadata"]["name"] == "train"]
    if len(chosen) != 1:
        raise ValueError(f"{file} has {len(found)} RayJobs: wanted one, or one that is named train")
    return chosen[0]


def of_tick(job: Object, tick: str, alone: bool = True) -> Object:
    """The RayJob of a tick: `job` with the tick in its name, annotations and, if it is to run alone, entry point.

    Else the job finds out by itself what is due: this tick, and the ones before it that were missed.
    """
    found = copy.deepcopy(job)
    found["metadata"]["name"] = f"{job['metadata']['name']}-{tick.lower()}"
    found["metadata"]["annotations"] = {TICK: tick}
    found["spec"]["entrypoint"] += f" --tick {tick}" if alone else ""
    return found
