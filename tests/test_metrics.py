"""What a job tells Ray's Prometheus endpoint, read there over HTTP as Prometheus would."""

from __future__ import annotations

import json
import re
import time
import urllib.request
from pathlib import Path
from typing import Any

import pytest
import ray
import yaml

from darkroom import metrics
from darkroom.sampling.engine import Statistics

CLUSTER = Path(__file__).parents[1] / "cluster"
DASHBOARD, RULES = CLUSTER / "grafana" / "darkroom.json", CLUSTER / "kubernetes" / "prometheusrule.yaml"
# Ray's own that the dashboard draws and that only machines with a GPU have; the rest is looked for on the endpoint.
ONLY_WITH_A_GPU = {"ray_node_gpus_utilization", "ray_node_gram_used", "ray_node_gram_available"}


class _Worker:
    """A stage's worker between two of its units."""

    def __init__(self, run: str) -> None:
        self.metrics = metrics.StageMetrics(run, "stage 1")

    def work(self) -> None:
        self.metrics.enter(waiting=0)
        self.metrics.enter(waiting=8)
        self.metrics.count(Statistics(passes=3, evaluations=40, slots=96, total_seconds=1.5))
        self.metrics.leave(5)
        self.metrics.enter(waiting=13)
        self.metrics.leave(2)
        more = self.metrics.count(Statistics(passes=5, evaluations=100, slots=160, total_seconds=2.5))
        assert more == (60, 1.0), "what is new since the last count"


@pytest.fixture(scope="module")
def endpoint(shared_ray: None) -> dict[str, dict[frozenset, float]]:
    """The endpoint's answer once all is there: values by metric and its own labels."""
    worker = ray.remote(num_cpus=0)(_Worker).remote("s3://b/run")
    ray.get(worker.work.remote())
    run = metrics.RunMetrics("s3://b/run", rows=20)
    run.commit(8, {})
    run.commit(5, {"input": 2, "numeric": 1})
    metrics.embedded("s3://b/run", "text_encoder", 30)
    metrics.trained("s3://b/model", 512, 0.25)
    wanted = (_ours() | _used()) - ONLY_WITH_A_GPU
    deadline = time.monotonic() + 30
    while not wanted <= set(found := _scrape()) and time.monotonic() < deadline:
        time.sleep(0.2)
    return found


def _answer() -> str:
    (node,) = ray.nodes()
    return urllib.request.urlopen(f"http://127.0.0.1:{node['MetricsExportPort']}/metrics", timeout=10).read().decode()


def _scrape() -> dict[str, dict[frozenset, float]]:
    found: dict[str, dict[frozenset, float]] = {}
    for name, labels, value in re.findall(r"^(ray_\w+){(.*)} (\S+)$", _answer(), re.MULTILINE):
        ours = re.findall(r'\b(run|stage|cause|encoder)="([^"]*)"', labels)
        others = any(key == "run" and not run.startswith("s3://b/") for key, run in ours)
        if not others:  # the Ray is shared, and the runs of other tests are on it too
            found.setdefault(name, {})[frozenset(ours)] = float(value)
    return found


def _labels(**labels: str) -> frozenset:
    return frozenset(labels.items())


def test_rows(endpoint: dict) -> None:
    run = _labels(run="s3://b/run")
    assert endpoint["ray_darkroom_rows_committed_total"] == {run: 16}
    assert endpoint["ray_darkroom_rows_left"] == {run: 4}
    assert endpoint["ray_darkroom_rows_failed_total"] == {
        _labels(run="s3://b/run", cause="input"): 2,
        _labels(run="s3://b/run", cause="numeric"): 1,
    }
    assert endpoint["ray_darkroom_prompts_embedded_total"] == {_labels(run="s3://b/run", encoder="text_encoder"): 30}


def test_a_stage(endpoint: dict) -> None:
    """What an engine says it did since it began is counted once."""
    stage = _labels(run="s3://b/run", stage="stage 1")
    assert endpoint["ray_darkroom_evaluations_total"] == {stage: 100}
    assert endpoint["ray_darkroom_slots_total"] == {stage: 160}
    assert endpoint["ray_darkroom_busy_seconds_total"] == {stage: 2.5}
    assert endpoint["ray_darkroom_units_in_flight"] == {stage: 1}
    assert endpoint["ray_darkroom_rows_waiting"] == {stage: 2}


def test_a_training(endpoint: dict) -> None:
    assert endpoint["ray_darkroom_training_images_total"] == {_labels(run="s3://b/model"): 512}
    assert endpoint["ray_darkroom_training_loss"] == {_labels(run="s3://b/model"): 0.25}


def _ours() -> set[str]:
    return {described.exported(name) for name, described in metrics.METRICS.items()}


def _used() -> set[str]:
    """The metrics that the dashboard asks for."""
    return {name for panel in _drawn() for told in panel["targets"] for name in re.findall(r"\bray_\w+", told["expr"])}


def _drawn() -> list[dict[str, Any]]:
    panels = json.loads(DASHBOARD.read_text())["panels"]
    return [panel for panel in panels if panel["type"] != "row"]


def test_the_dashboard_draws_what_is_there(endpoint: dict) -> None:
    """Every metric of ours is drawn, and every metric that is drawn exists: ours in METRICS, Ray's on the endpoint."""
    assert _ours() <= _used()
    assert _used() - ONLY_WITH_A_GPU <= set(endpoint)


def test_actors_are_counted_once(endpoint: dict) -> None:
    """Ray tells of each actor as its control plane sees it, and as its worker does."""
    told = re.findall(r'^ray_actors{.*Source="(\w+)"', _answer(), re.MULTILINE)
    assert {"gcs", "executor"} <= set(told)
    asked = [target["expr"] for panel in _drawn() for target in panel["targets"] if "ray_actors" in target["expr"]]
    assert asked == ['sum by (State) (ray_actors{Source="executor"})']


def _alerts() -> list[dict[str, Any]]:
    (rules,) = yaml.safe_load_all(RULES.read_text())
    return [rule for group in rules["spec"]["groups"] for rule in group["rules"]]


def test_alerts_ask_for_what_is_there(endpoint: dict) -> None:
    """What Ray tells, by its own endpoint; and what KubeRay's operator calls a RayJob's state."""
    asked = {name for rule in _alerts() for name in re.findall(r"\b[a-z]\w*_\w+\b(?=[{[ /])", rule["expr"])} - {
        "last_over_time"
    }
    assert {name for name in asked if name.startswith("ray_")} <= set(endpoint)
    assert {name for name in asked if not name.startswith("ray_")} == {"kuberay_job_deployment_status"}
    monitor = yaml.safe_load((RULES.parent / "podmonitor.yaml").read_text())
    assert yaml.safe_load(RULES.read_text())["metadata"]["labels"] == monitor["metadata"]["labels"], "one Prometheus"


def test_alerts_are_ones_that_prometheus_takes() -> None:
    rules = _alerts()
    assert len({rule["alert"] for rule in rules}) == len(rules)
    for rule in rules:
        assert set(rule) <= {"alert", "expr", "for", "labels", "annotations"} and _closed(rule["expr"]), rule["alert"]
        assert re.fullmatch(r"Darkroom[A-Za-z]+", rule["alert"]) and re.fullmatch(r"\d+[mh]", rule.get("for", "1m"))
        assert rule["labels"]["severity"] in ("info", "warning") and set(rule["annotations"]) == {
            "summary",
            "description",
        }
        kept = re.search(r"\bby \(([\w, ]+)\)", rule["expr"])
        labels = set(kept[1].split(", ")) if kept else {"pod", "namespace"}  # which a PodMonitor adds
        told = " ".join(rule["annotations"].values())
        assert set(re.findall(r"\$labels\.(\w+)", told)) <= labels, (
            f"{rule['alert']} names a label that it has summed up"
        )
        assert told.count("{{") == told.count("}}")


def test_the_dashboard_is_one_that_grafana_takes() -> None:
    dashboard = json.loads(DASHBOARD.read_text())
    assert dashboard["uid"] and dashboard["title"] and dashboard["schemaVersion"] >= 36 and "id" not in dashboard
    numbers = [panel["id"] for panel in dashboard["panels"]]
    assert len(numbers) == len(set(numbers))
    variables = {variable["name"]: variable for variable in dashboard["templating"]["list"]}
    assert variables["datasource"]["type"] == "datasource" and variables["datasource"]["query"] == "prometheus"
    for panel in _drawn():
        assert panel["datasource"]["uid"] == "${datasource}", panel["title"]
        letters = [told["refId"] for told in panel["targets"]]
        assert panel["targets"] and len(letters) == len(set(letters)), panel["title"]
        for told in panel["targets"]:
            assert set(re.findall(r"\$(\w+)", told["expr"])) <= {*variables, "__rate_interval"}, panel["title"]
            assert _closed(told["expr"]), panel["title"]


def test_panels_do_not_lie_on_each_other() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in json.loads(DASHBOARD.read_text())["panels"]:
        at = panel["gridPos"]
        assert at["x"] + at["w"] <= 24, "a row has 24 columns"
        squares = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not squares & taken, panel["title"]
        taken |= squares


def _closed(expression: str) -> bool:
    """Whether brackets pair up, outside of strings."""
    waiting: list[str] = []
    for sign in re.sub(r'"[^"]*"', "", expression):
        if sign in "([{":
            waiting.append({"(": ")", "[": "]", "{": "}"}[sign])
        elif sign in ")]}" and (not waiting or waiting.pop() != sign):
            return False
    return not waiting
