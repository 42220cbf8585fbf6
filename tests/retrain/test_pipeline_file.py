from __future__ import annotations

from pathlib import Path

import pytest

from darkroom.models.classifier import EMBEDDED
from darkroom.retrain.gate_metrics import METRICS
from darkroom.retrain.pipeline_checks import kind_of
from darkroom.retrain.pipeline_file import PipelineError, read_pipeline
from darkroom.retrain.preflight import check_fit
from darkroom.training.data import load_data_set, sample_uri
from darkroom.training.recipes import RECIPES
from darkroom.training.recipes.network import NetworkRecipe

GOOD = """
name: digits
out: ../runs/digits
registry: s3://bucket/registry
schedule: {cron: "30 2 * * *", time_zone: Europe/Berlin, missed: none}
data: {kind: mnist}
train: {recipe: mnist-flow-class, settings: {hidden: 4, show: [1, 2], bf16: "off"}, workers: [1, 4]}
gate:
  class_accuracy: {at_least: 0.9, margin: 0.01}
smoke: smoke.yaml
"""


def read(folder: Path, text: str) -> list[str]:
    """The problems of a pipeline file."""
    (folder / "pipelines").mkdir(exist_ok=True)
    (folder / "pipelines" / "smoke.yaml").write_text("rows: []")
    path = folder / "pipelines" / "night.yaml"
    path.write_text(text)
    with pytest.raises(PipelineError) as caught:
        read_pipeline(str(path))
    return caught.value.problems


def test_a_good_file_is_read_with_its_paths_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "pipelines").mkdir()
    (tmp_path / "pipelines" / "smoke.yaml").write_text("rows: []")
    (tmp_path / "pipelines" / "night.yaml").write_text(GOOD + f"classifier: {EMBEDDED}")
    monkeypatch.chdir(tmp_path)
    pipeline = read_pipeline("pipelines/night.yaml")
    assert (pipeline.out, pipeline.registry) == (f"{tmp_path}/runs/digits", "s3://bucket/registry")
    assert (pipeline.smoke, pipeline.classifier) == (f"{tmp_path}/pipelines/smoke.yaml", str(EMBEDDED))
    assert (pipeline.schedule.cron, pipeline.schedule.missed) == ("30 2 * * *", "none")
    recipe = pipeline.recipe()
    assert (recipe.hidden, recipe.show, recipe.bf16, pipeline.train.workers_text()) == (4, (1, 2), "off", "1:4")


def test_every_problem_is_told_at_once_with_its_line(tmp_path: Path) -> None:
    problems = read(
        tmp_path,
        """name: mnist/nightly
out: runs
schedule: {cron: "every night", time_zone: Europe/Berlni, missed: latest}
data: {kind: folder}
train:
  recipe: mnist-flow-class
  settings: {hiden: 4, epochs: many}
  workers: [5, 2]
evaluate: {count: "many"}
gate:
  class_acuracy: {at_least: 0.9}
  psnr_1: {at_least: 3}
  recall: {margin: -1, at_most: 2}
  precision: {margn: 1}
extra: 3
""",
    )
    wanted = [
        "line 1: name: must match pattern",
        "line 1: registry: is missing",
        "line 3: schedule.cron: 'every night' has 2 fields, a cron line has five",
        "line 3: schedule.missed: must be 'last', 'all' or 'none', was 'latest'",
        "line 3: schedule.time_zone: unknown time zone 'Europe/Berlni', did you mean 'Europe/Berlin'?",
        "line 4: data: 'source' is missing: where the folder files lie",
        "line 7: train.settings.epochs: epochs=many: epochs should be a valid integer",
        "line 7: train.settings.hiden: unknown setting 'hiden', did you mean 'hidden'?",
        "line 8: train.workers: 5:2: wanted at least 1, and the smaller number first",
        "line 9: evaluate.count: must be a valid integer, was 'many'",
        "line 11: gate.class_acuracy: unknown metric 'class_acuracy', did you mean 'class_accuracy'?",
        "line 12: gate.psnr_1: is not measured of mnist-flow-class; of it there are: class_accuracy",
        "line 13: gate.recall: 'margin' must be at least 0, was -1",
        "line 13: gate.recall: takes no 'at_most': higher is better, so its bound is 'at_least'",
        "line 14: gate.precision.margn: unknown key 'margn', did you mean 'margin'?",
        "line 15: extra: unknown key 'extra'",
    ]
    assert len(problems) == len(wanted)
    for problem, start in zip(problems, wanted, strict=True):
        assert problem.startswith(f"night.yaml {start}"), problem


# Seven lines of ten aliases each: ten million values.
FLOOD = "\n".join(["a0: &a0 x", *(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 8))])


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("{at_least: 0.9, margin: 0.01}", "{margin: 0.01}", "gate: no bound: the first model, which has no champion"),
        (
            "recipe: mnist-flow-class",
            "recipe: if-xs",
            "train.recipe: if-xs trains neither a network of its own nor an adapter",
        ),
        ("recipe: mnist-flow-class", "recipe: mnist-flw", "train.recipe: unknown recipe 'mnist-flw', did you mean"),
        ("smoke: smoke.yaml", "smoke: smok.yaml", "smoke: there is no manifest /"),
        ("gate:", "classifier: smoke.yaml\ngate:", "line 8: classifier: no classifier in /"),
        ("Europe/Berlin", "Mars/Olympus", "schedule.time_zone: unknown time zone 'Mars/Olympus'"),
        ("30 2 * * *", "0 2 31 2 *", "schedule.cron: '0 2 31 2 *' is no cron line: bad day-of-month"),
        (
            "  class_accuracy:",
            "  class_accuracy: {at_least: 1}\n  class_accuracy:",
            "the key 'class_accuracy' is given",
        ),
        ("gate:", "gate: [", "expected ',' or ']'"),
        ("gate:", f"{FLOOD}\ngate:", "its aliases (*name) make "),
        ("{hidden: 4,", "{hidden: 012,", "the number '012' begins with 0: YAML reads base 8"),
        ("{hidden: 4,", "{hidden: 4, epochs,", "the key 'epochs' has no value: in braces a comma begins the next key"),
        ("30 2 * * *", "0 4 * * 7", "day-of-week '7' is not within 0 to 6 (Sunday is 0)"),
        ("data: {kind: mnist}", "data: mnist", "data: must be a valid dictionary"),
        ("workers: [1, 4]", "workers: some", "train.workers: must be a valid integer, was 'some'"),
        ("{at_least: 0.9, margin: 0.01}", "{at_least: many}", "gate.class_accuracy.at_least: must be a valid number"),
    ],
)
def test_one_mistake_is_one_sentence(tmp_path: Path, old: str, new: str, said: str) -> None:
    (problem,) = read(tmp_path, GOOD.replace(old, new))
    assert problem.startswith("night.yaml") and said in problem


def test_what_is_no_file_or_no_mapping(tmp_path: Path) -> None:
    with pytest.raises(PipelineError, match="nothing is there"):
        read_pipeline(str(tmp_path / "none.yaml"))
    assert read(tmp_path, "- a list") == [
        "night.yaml: wanted a mapping of name, out, registry, schedule, data, train, evaluate, classifier, gate, "
        "smoke, generate, keep, lease_seconds"
    ]


def test_the_nightly_file_that_ships_can_be_run() -> None:
    pipeline = read_pipeline(str(Path(__file__).parents[2] / "manifests" / "pipelines" / "mnist-nightly.yaml"))
    check_fit(pipeline, pipeline.recipe(), sample_uri(), load_data_set)
    assert pipeline.schedule is not None and pipeline.smoke is not None and len(pipeline.gate) > 5


def test_every_recipe_of_a_network_can_be_gated() -> None:
    kinds = {name: kind_of(recipe()) for name, recipe in RECIPES.items() if issubclass(recipe, NetworkRecipe)}
    assert kinds["mnist-flow-class"] == "label" and kinds["mnist-flow-time"] == "unconditional"
    assert kinds["mnist-denoiser"] == "denoiser" and kinds["mnist-ddpm"] == kind_of(RECIPES["mnist-ddpm"]())
    assert kind_of(RECIPES["cifar10-ddpm"](classes=False)) == "unconditional"
    assert all(any(kind in metric.of for metric in METRICS.values()) for kind in kinds.values())
