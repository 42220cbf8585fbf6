"""The whole job on a toy cascade, through a real Ray: what it leaves, what it makes again, what it survives."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.dataset as ds
import pytest
from datasets import load_dataset
from PIL import Image

from darkroom.batch.generate import Options, Outcome, WrongRun, run
from darkroom.batch.order import Order
from darkroom.manifest import ManifestError
from darkroom.models.errors import ModelError
from darkroom.runs import own
from darkroom.runs.audit import audit
from darkroom.runs.failures import describe_failed, failed_rows
from darkroom.runs.maintenance import clean, compact
from darkroom.storage import open_store, read_uri
from darkroom.storage.lease import Held
from runs import RED, pictures, png, results, sampled, tree, write_manifest
from toys import save_toy_network

SEVEN = {"task": "text_to_image", "label": 7, "steps": 2}
VIEWS = [{"view": "identity", "prompt": "a red one"}, {"view": "flip_vertical", "prompt": "a blue two"}]
BANDS = [{"component": "low_pass", "prompt": "a one"}, {"component": "high_pass", "prompt": "a two"}]
HELD = [{"component": "low_pass", "image": "in/one.png"}, {"component": "high_pass", "prompt": "a two"}]
EDIT = {"task": "image_to_image", "prompt": "a blue one", "image": "in/one.png", "start": 1, "steps": 3}
PAINT = {"task": "inpaint", "prompt": "a two", "image": "in/one.png", "mask": "in/mask.png", "steps": 2}

SEVENS: list[dict[str, Any]] = [{**SEVEN, "id": f"r{n}", "seed": n} for n in range(8)]
GOOD: list[dict[str, Any]] = [
    {**RED, "id": "text"},
    {**RED, "id": "large", "size": 16},
    {**RED, "id": "twin", "size": 16},
    {**EDIT, "id": "edit"},
    {**PAINT, "id": "paint"},
    {"id": "anagram", "task": "anagram", "views": VIEWS, "steps": 2},
    {"id": "hybrid", "task": "hybrid", "components": BANDS, "steps": 2},
    {"id": "held", "task": "hybrid", "components": HELD, "steps": 2},
    {**{name: EDIT[name] for name in EDIT if name != "start"}, "id": "no-step", "strength": 0.1},
    {"id": "upscale", "task": "upscale", "prompt": "a one", "image": "in/one.png", "size": 16},
]
BAD: list[dict[str, Any]] = [
    {**EDIT, "id": "missing", "image": "in/none.png"},
    {**EDIT, "id": "corrupt", "image": "in/torn.png"},
    {**PAINT, "id": "mask-size", "mask": "in/small.png"},
    {**EDIT, "id": "twin-of-missing", "image": "in/none.png"},
    {**EDIT, "id": "outside", "image": "in/outside.png"},
    {**EDIT, "id": "device", "image": "in/device.png"},
    {**PAINT, "id": "blank", "mask": "in/blank.png"},
]


class Job:
    """A folder with a manifest and its inputs, and the command that develops it."""

    def __init__(self, folder: Path, out: str, model: str) -> None:
        self.folder, self.out, self.model = folder, out, model
        self.said: list[str] = []

    def put(self, name: str, data: bytes) -> None:
        open_store(str(self.folder)).write(f"in/{name}", data)

    def run(self, rows: list[dict[str, Any]], **options: Any) -> Outcome:
        manifest = write_manifest(self.folder, rows)
        given = {"capacity": 8, "unit_rows": 4, **options}
        return run(Options(manifest=manifest, out=self.out, model=self.model, **given), self.said.append)


def job_in(folder: Path, out: str, model: str) -> Job:
    job = Job(folder, out, model)
    inputs = {"one": png(16), "torn": png(16)[:80], "mask": png(16, mode="L"), "small": png(8, mode="L")}
    for name, data in inputs.items():
        job.put(f"{name}.png", data)
    Image.new("L", (16, 16)).save(folder / "in/blank.png")
    (folder / "in/device.png").symlink_to("/dev/zero")
    (folder / "in/outside.png").symlink_to("/etc/passwd")
    return job


@pytest.fixture
def job(tmp_path: Path, toy_model: str, shared_ray: None) -> Job:
    return job_in(tmp_path, str(tmp_path / "run"), toy_model)


@pytest.fixture
def quick(tmp_path: Path, toy_network: str, shared_ray: None) -> Job:
    """The same on a network that takes labels: one stage and no text encoder to start, for what depends on neither."""
    return job_in(tmp_path, str(tmp_path / "run"), toy_network)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, toy_network: str, shared_ray: None) -> Path:
    """A finished run of SEVENS on the network, which others begin with a copy of."""
    folder = tmp_path_factory.mktemp("finished")
    assert job_in(folder, str(folder / "run"), toy_network).run(SEVENS).made == len(SEVENS)
    return folder / "run"


@pytest.fixture
def done(quick: Job, finished: Path) -> Job:
    """A job whose run is finished: of SEVENS."""
    shutil.copytree(finished, quick.out)
    return quick


def test_a_mixed_manifest(
    tmp_path: Path, store_uri: str, toy_model: str, shared_ray: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = job_in(tmp_path / "manifest", store_uri, toy_model)
    outcome = job.run(GOOD + BAD)
    assert (outcome.rows, outcome.failed, outcome.done_before) == (17, 7, 0)
    assert outcome.counts["text_to_image"] == {"ok": 3} and outcome.counts["inpaint"] == {"ok": 1, "failed": 2}
    found = results(store_uri)
    assert found.keys() == {row["id"] for row in GOOD + BAD}
    assert {name for name, row in found.items() if row["status"] == "failed"} == {row["id"] for row in BAD}
    assert found["missing"]["error"] == found["twin-of-missing"]["error"] != ""
    assert found["missing"]["error"] == f"there is no file {tmp_path}/manifest/in/none.png"
    assert found["corrupt"]["error"].startswith("in/torn.png: the image is cut short or damaged")
    assert "is 8 x 8, its image in/one.png is 16 x 16" in found["mask-size"]["error"]
    assert found["outside"]["error"].endswith("say --inputs-root /etc")
    assert "lies outside" in found["device"]["error"] and "selects nothing" in found["blank"]["error"]
    assert found["twin"]["sha256"] == found["large"]["sha256"] and found["twin"]["evaluations"] == 0
    assert (found["large"]["width"], found["upscale"]["width"], found["text"]["width"]) == (16, 16, 8)
    used = [stage["guidance"] for stage in json.loads(found["upscale"]["stages"])]
    assert used == [found["upscale"]["guidance"]] and found["large"]["guidance"] == 7
    assert (found["large"]["evaluations"], found["upscale"]["evaluations"], found["hybrid"]["evaluations"]) == (
        12,
        8,
        6,
    )
    assert (found["no-step"]["flags"], found["no-step"]["evaluations"]) == (["no_steps"], 0)
    assert [name for name, row in found.items() if "no_steps" in row["flags"]] == ["no-step"]
    assert outcome.evaluations == sum(row["evaluations"] for row in found.values())
    check_audit(store_uri)
    check_files(store_uri)
    monkeypatch.chdir(job.folder)
    assert sampled(toy_model, GOOD) == pictures(store_uri), "as one process makes them"


def check_audit(uri: str) -> None:
    """The audit says exactly which rows failed, and nothing else."""
    found = audit(uri)
    assert (found.rows, found.good, dict(found.counts)) == (17, 10, {"failed": 7})
    assert {sentence.split()[1] for sentence in found.problems} == {row["id"] for row in BAD}


def check_files(uri: str) -> None:
    """Nothing temporary is left; the records say what was asked for."""
    store = open_store(uri)
    folders = {key.split("/")[0] for key in store.list()}
    assert folders == {
        "run.json",
        "summary.json",
        "lease.json",
        "metadata",
        "images",
        "commits",
        "manifest",
        "embeddings",
    }
    record = json.loads(store.read("run.json"))
    assert record["model"]["name"] == "toy" and record["manifest"]["rows"] == 17
    assert json.loads(store.read("summary.json"))["failed"] == 7


def test_run_again_nothing_is_made_but_what_failed_and_repaired_it_is_whole(job: Job) -> None:
    rows = [GOOD[0], GOOD[1], GOOD[2], GOOD[3], BAD[0], BAD[3]]
    first = job.run(rows)
    assert (first.rows, first.failed) == (6, 2)
    before = results(job.out)
    failed = failed_rows(job.out)
    assert [(row.row["id"], row.kind) for row in failed] == [("missing", "input"), ("twin-of-missing", "input")]
    assert describe_failed(failed).startswith("2 rows failed: 2 input\n  missing: there is no file ")
    # As a manifest they are the same rows: to be made, and none else.
    beside = failed_rows(job.out, out=str(job.folder / "failed.jsonl"))
    alone = write_manifest(job.folder, [row.row for row in beside], "failed.jsonl")
    parts = Order.open(Options(alone, str(job.folder / "alone"), model=job.model)).rows
    keys = {json.loads(line)["key"] for part in parts for line in part.lines}
    assert keys == {before[row.row["id"]]["key"] for row in failed}
    with pytest.raises(ValueError, match="--only names 'numeric': no row of .* failed by it: 2 input"):
        failed_rows(job.out, "numeric")
    again = job.run(rows)
    assert (again.made, again.evaluations, again.failed, again.done_before) == (0, 0, 2, 4)
    assert "6 rows: 4 done, 1 to make, 1 duplicate, 2 changed" in job.said
    job.put("none.png", png(16, seed=3))
    mended = job.run(rows)
    assert (mended.made, mended.failed, mended.done_before) == (1, 0, 4)
    after = results(job.out)
    assert all(after[row["id"]] == before[row["id"]] for row in rows[:4])
    assert after["missing"]["sha256"] == after["twin-of-missing"]["sha256"]
    assert audit(job.out).passed
    done = job.run(rows)
    assert (done.made, done.evaluations, done.done_before) == (0, 0, 6)
    assert results(job.out) == after
    far = write_manifest(job.folder / "far", [row.row for row in failed], "failed.jsonl")
    alone = Options(far, f"{job.out}-alone", model=job.model, capacity=8, inputs_root=(str(job.folder / "in"),))
    assert run(alone, job.said.append).failed == 0
    assert pictures(alone.out)["missing"] == pictures(job.out)["missing"], "from wherever the file lies"


def test_two_rows_changed_are_two_rows_made(done: Job) -> None:
    before, old = results(done.out), pictures(done.out)
    outcome = done.run([row | ({"guidance": 2.5} if n in (2, 5) else {}) for n, row in enumerate(SEVENS)])
    assert (outcome.made, outcome.done_before, outcome.evaluations) == (2, 6, 8)
    after, new = results(done.out), pictures(done.out)
    changed = {name for name in before if before[name] != after[name]}
    assert changed == {"r2", "r5"} == {name for name in old if old[name] != new[name]}
    in_folder = ds.dataset(str(Path(done.out, "metadata"))).to_table(columns=["id", "guidance"]).to_pylist()
    assert sorted((row["id"], row["guidance"]) for row in in_folder) == [
        (f"r{n}", 2.5 if n in (2, 5) else 7.0) for n in range(8)
    ]
    assert audit(done.out).passed


def test_the_best_of_several_is_kept_and_scored(quick: Job) -> None:
    candidates = [{**SEVEN, "id": f"seed-{seed}", "seed": seed} for seed in (3, 4, 5)]
    outcome = quick.run([{**SEVEN, "id": "best", "seed": 3, "best_of": 3}, *candidates], scorer="digits")
    assert (outcome.rows, outcome.failed) == (4, 0)
    found = results(quick.out)
    scores = json.loads(found["best"]["scores"])
    chosen = found[f"seed-{scores['chosen_seed']}"]
    assert chosen["alignment"] == max(found[row["id"]]["alignment"] for row in candidates)
    assert pictures(quick.out)["best"] == pictures(quick.out)[chosen["id"]]
    assert found["best"]["alignment"] == chosen["alignment"] == scores["alignment"]
    assert found["best"]["evaluations"] == 3 * chosen["evaluations"] and found["best"]["seed"] == 3
    assert [one["seed"] for one in scores["candidates"]] == [3, 4, 5]
    with pytest.raises(ManifestError, match="'best_of' is 3, and there is no scorer"):
        quick.run([{**SEVEN, "id": "best", "best_of": 3}])


def test_names_that_change_places(done: Job) -> None:
    before = pictures(done.out)
    outcome = done.run([{**SEVENS[1], "id": "r2"}, {**SEVENS[2], "id": "r1"}, SEVENS[0], *SEVENS[3:]])
    after = pictures(done.out)
    assert outcome.rows == 8 and (after["r1"], after["r2"]) == (before["r2"], before["r1"])
    assert {name: after[name] for name in after if name not in ("r1", "r2")} == {
        name: before[name] for name in before if name not in ("r1", "r2")
    }
    assert audit(done.out).passed


@pytest.mark.slow  # test_a_mixed_manifest says it of one process' passes and a job's, test_told_gpus of other units
def test_a_picture_does_not_depend_on_its_company(job: Job, tmp_path: Path) -> None:
    row = {"id": "mine", "task": "anagram", "views": VIEWS, "steps": 3, "size": 16, "seed": 9}
    job.run([row], unit_rows=1)
    alone = pictures(job.out)["mine"]
    job.out = str(tmp_path / "other")
    others = [{**RED, "id": f"r{n}", "seed": n, "steps": 1 + n % 4} for n in range(9)]
    job.run([*others[:4], {**EDIT, "id": "edit"}, row, *others[4:], {**PAINT, "id": "paint"}], unit_rows=3)
    assert pictures(job.out)["mine"] == alone


@pytest.mark.parametrize("images", ["objects", "inline"])
def test_the_metadata_opens_as_a_data_set_of_images(quick: Job, tmp_path: Path, images: Any) -> None:
    missing = {**SEVEN, "task": "image_to_image", "image": "in/none.png", "start": 1, "id": "missing"}
    quick.run([{**SEVEN, "id": "seven"}, missing], images=images)
    files = f"{quick.out}/metadata/*.parquet"
    data = load_dataset("parquet", data_files=files, split="train", cache_dir=str(tmp_path / "cache"))
    shown = {row["id"]: row["image"] for row in data}
    assert shown["missing"] is None
    assert isinstance(shown["seven"], Image.Image) and shown["seven"].size == (28, 28)
    assert bool([key for key in tree(Path(quick.out)) if key.startswith("images/")]) == (images == "objects")


def test_a_manifest_with_mistakes_writes_nothing(job: Job) -> None:
    with pytest.raises(ManifestError, match=r"line 2: unknown key .promt., did you mean .prompt.") as caught:
        job.run([RED, {"task": "text_to_image", "promt": "x"}, {**RED, "size": 99}])
    assert len(caught.value.problems) == 2 and "line 3" in caught.value.problems[1]
    assert not Path(job.out).exists()


def test_a_folder_with_another_manifests_rows_is_refused(done: Job) -> None:
    before = run_files(done.out)
    for limit in (None, 1):
        with pytest.raises(WrongRun, match="holds 8 rows, none of them of this manifest"):
            done.run([{**SEVEN, "id": "b"}], limit=limit)
    assert run_files(done.out) == before and audit(done.out).passed
    assert done.run([{**SEVEN, "id": "b"}], replace=True).rows == 1 and audit(done.out).passed


def run_files(out: str) -> dict[str, bytes]:
    """What a run holds but its log, to which every start adds a record, and its lease."""
    names = [name for name in tree(Path(out)) if not name.startswith(("commits/", "lease.json"))]
    return {name: Path(out, name).read_bytes() for name in names}


def test_another_model_does_not_empty_a_run(done: Job, tmp_path: Path) -> None:
    before = run_files(done.out)
    shutil.copytree(done.model, tmp_path / "other")
    weights = tmp_path / "other" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4] + bytes(4))  # its last number is 0
    done.model = str(tmp_path / "other")
    with pytest.raises(WrongRun, match=r"was made with model .*: 8 of its 8 good rows would be made anew; .*--replace"):
        done.run(SEVENS)
    assert run_files(done.out) == before
    assert done.run(SEVENS, replace=True).made == 8 and audit(done.out).passed


def test_another_manifest_that_shares_ids_does_not_empty_a_run(done: Job, tmp_path: Path) -> None:
    before = run_files(done.out)
    typo = write_manifest(tmp_path / "typo", [{**row, "seed": 100} for row in SEVENS[:7]])
    with pytest.raises(WrongRun, match=r"would replace 7 and withdraw 1 of its 8 good rows; choose another --out"):
        run(Options(typo, done.out, done.model), done.said.append)
    assert run_files(done.out) == before and audit(done.out).passed


def test_a_second_job_on_a_run_is_refused_while_the_first_lives(done: Job) -> None:
    rows = [*SEVENS, {**SEVEN, "id": "b", "seed": 9}]
    refused = pytest.raises(Held, match=r"the first job is still running, by .*, process \d+")
    with own(open_store(done.out), "the first job", seconds=2), refused:
        done.run(rows)
    assert done.run(rows).made == 1 and audit(done.out).passed


def test_a_changed_rows_picture_counts_until_its_new_one_is_committed(done: Job) -> None:
    with pytest.raises(ValueError, match="dtype"):
        done.run([{**row, "seed": 9 + n} for n, row in enumerate(SEVENS)], dtype="float99")
    assert audit(done.out).passed, "an argument that is wrong costs nothing"


def test_a_run_of_the_first_round_opens_audits_and_resumes(tmp_path: Path, shared_ray: None) -> None:
    fixture = Path(__file__).parent.parent / "fixtures" / "first_round"
    shutil.copytree(fixture, tmp_path / "old")
    out = str(tmp_path / "old" / "run")
    found = audit(out)
    assert (found.rows, found.good) == (6, 5) and [line[:16] for line in found.problems] == ["row gone failed:"]
    before = pictures(out)
    options = Options(str(tmp_path / "old" / "manifest.jsonl"), out)
    with pytest.raises(WrongRun, match=r"was made with model if-xs \(6844c1e1e0ba\), .* 5 of its 5 good rows"):
        run(options, lambda line: None)
    assert pictures(out) == before, "another if-xs takes nothing away unasked"
    outcome = run(replace(options, replace=True), lambda line: None)
    assert (outcome.rows, outcome.failed) == (6, 1) and pictures(out) != before
    summary, _ = compact(out)
    assert "6 rows" in summary and "in 1 file now" in summary


def test_what_nothing_refers_to_is_said_and_then_removed(done: Job) -> None:
    assert clean(done.out, remove=True).startswith("nothing in ")
    done.run([{**row, "seed": 9 + n} for n, row in enumerate(SEVENS[:2])] + SEVENS[2:7])
    assert len(list(Path(done.out, "images").rglob("*.png"))) == 10
    assert "would remove 3 objects" in clean(done.out, remove=False)
    assert "removed 3 objects" in clean(done.out, remove=True)
    assert len(list(Path(done.out, "images").rglob("*.png"))) == 7 and audit(done.out).passed


def test_a_folder_that_is_no_run_is_not_touched(job: Job) -> None:
    strange = Path(job.out, "metadata", "somebodys.parquet")
    strange.parent.mkdir(parents=True)
    strange.write_bytes(b"precious")
    with pytest.raises(WrongRun, match=r"no run\.json"):
        job.run([RED])
    assert tree(Path(job.out)) == ["metadata/somebodys.parquet"]


def test_a_limit_takes_the_first_rows_and_more_can_follow(quick: Job) -> None:
    rows = [{**SEVEN, "id": f"r{n}", "seed": n} for n in range(5)]
    assert quick.run(rows, limit=2).rows == 2
    assert audit(quick.out).passed
    assert quick.run(rows).done_before == 2
    assert quick.run(rows, limit=1).rows == 5, "rows beyond the limit stay"
    assert audit(quick.out).passed


def test_a_network_that_is_replaced_under_a_run_ends_it(tmp_path: Path, shared_ray: None) -> None:
    """As a training does that writes where it wrote before: rows would say one revision and be another's."""
    network, out = save_toy_network(str(tmp_path / "network")), str(tmp_path / "run")
    manifest = write_manifest(tmp_path, [{**SEVEN, "id": "one"}])

    def say(line: str) -> None:
        if "starting the workers" in line:
            save_toy_network(network, seed=1)

    with pytest.raises(ModelError, match=f"the run was begun with the revision .* and at {network} lies"):
        run(Options(manifest=manifest, out=out, model=network), say)
    assert results(out) == {}
    save_toy_network(network)
    assert run(Options(manifest=manifest, out=out, model=network), print).counts == {"text_to_image": {"ok": 1}}


def test_a_manifest_and_its_pictures_on_s3(s3_env: str, toy_network: str, shared_ray: None) -> None:
    store = open_store(s3_env)
    store.write("jobs/in/one.png", png(16))
    edit = {**SEVEN, "id": "edit", "task": "image_to_image", "image": "in/one.png", "start": 1}
    store.write("jobs/m.jsonl", "\n".join(json.dumps(row) for row in (SEVEN, edit)).encode())
    out = f"{s3_env}/out"
    outcome = run(Options(manifest=f"{s3_env}/jobs/m.jsonl", out=out, model=toy_network, capacity=8), lambda line: None)
    assert (outcome.rows, outcome.failed) == (2, 0)
    row = results(out)["edit"]
    assert row["source_uri"] == f"{s3_env}/jobs/in/one.png" and row["image_uri"].startswith(f"{out}/images/")
    assert read_uri(row["image_uri"]) == pictures(out)["edit"]
    assert audit(out).passed


def test_lost_pictures_and_damaged_results_are_made_anew(done: Job) -> None:
    store, first = open_store(done.out), results(done.out)
    store.delete(*(key for key in store.list("images/") if "r1." in key or "r5." in key))
    outcome = done.run(SEVENS)
    assert (outcome.made, outcome.done_before) == (2, 6)
    assert "8 rows: 6 done, 2 to make, 0 duplicates, 0 changed, 2 of which the picture is gone or damaged" in done.said
    picture = next(key for key in store.list("images/") if "r2." in key)
    store.write(picture, store.read(picture)[:-20])
    assert done.run(SEVENS).made == 0, "it is there"
    assert done.run(SEVENS, verify=True).made == 1
    (shard,) = store.list("metadata/")
    store.write(shard, store.read(shard)[:-9] + b"scrambled")
    changed = {**SEVENS[0], "seed": 9}  # the shard is rewritten without this row, and so read
    assert done.run([changed, *SEVENS[1:]]).made == 8, "and all that was in it"
    assert audit(done.out).passed
    assert {row["sha256"] for name, row in results(done.out).items() if name != "r0"} == {
        row["sha256"] for name, row in first.items() if name != "r0"
    }


def test_a_job_that_died_while_it_planned_its_first_run_goes_on(quick: Job) -> None:
    with own(open_store(quick.out), "a job that dies") as writer:
        writer.open()
    assert quick.run([{**SEVEN, "id": "a"}]).made == 1


def test_another_scorer_does_not_claim_rows_that_it_has_not_seen(done: Job) -> None:
    with pytest.raises(WrongRun, match="was made with scorer none, not digits .*: 8 of its 8 good rows would keep"):
        done.run(SEVENS, scorer="digits")
