"""The job as it is run again, with a stand-in for the workers: what it says, keeps and refuses is not theirs."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from darkroom.batch import execution, order
from darkroom.batch.generate import Options, Outcome, WrongRun, run
from darkroom.batch.planned_rows import read_lines
from darkroom.batch.summary import Developed
from darkroom.runs import stage, to_table
from darkroom.storage import Store, image_key, open_store
from runs import png, result, write_manifest

SEVENS = [{"task": "text_to_image", "label": 7, "id": f"r{n}", "seed": n, "steps": 2} for n in range(8)]


def execute(given: Any, work: Any, writer: Any, *_: Any) -> Developed:
    """As the workers', of one picture for all rows; those of zeros fail."""
    made = []
    for line in read_lines(given.store, f"work/{work.plan}"):
        key = image_key(line["id"], line["key"])
        given.store.write(key, png(8))
        status = "ok" if line["row"]["label"] else "failed"
        made.append(result(line, status, image_uri=given.store.uri(key), image={"bytes": None, "path": key}))
    writer.commit([stage(given.store, f"{work.plan}-all", to_table(made))])
    return Developed(Counter(ok=len(made), failed=0, evaluations=0), {}, 1.0)


class Job:
    def __init__(self, folder: Path, model: str) -> None:
        self.folder, self.model, self.out, self.said = folder, model, str(folder / "run"), list[str]()

    @property
    def store(self) -> Store:
        return open_store(self.out)

    def run(self, rows: list[dict[str, Any]] = SEVENS, **more: Any) -> Outcome:
        manifest = write_manifest(self.folder, rows)
        return run(Options(manifest, self.out, self.model, **more), self.said.append)


@pytest.fixture
def job(tmp_path: Path, toy_network: str, monkeypatch: pytest.MonkeyPatch) -> Job:
    monkeypatch.setattr(execution, "execute", execute)
    return Job(tmp_path, toy_network)


def test_the_summary_no_longer_counts_rows_that_left(job: Job) -> None:
    job.run()
    first = json.loads(job.store.read("summary.json"))
    assert job.run(SEVENS[:5]).made == 0
    now = json.loads(job.store.read("summary.json"))
    assert (now["rows"], now["counts"]) == (5, {"text_to_image": {"ok": 5}})
    assert now == first | {name: now[name] for name in ("rows", "counts")}, "how fast they were made stays"
    job.store.write("summary.json", b"[1]")
    assert job.run(SEVENS[:4]).rows == json.loads(job.store.read("summary.json"))["rows"] == 4


@pytest.mark.parametrize("record", [None, b"{", b"[1]"])
def test_a_run_whose_record_is_lost_goes_on_as_the_refusal_says(job: Job, record: bytes | None) -> None:
    job.run()
    job.store.delete("run.json") if record is None else job.store.write("run.json", record)
    with pytest.raises(WrongRun, match="or say --replace: rows of this manifest that are there stay"):
        job.run()
    again = job.run(replace=True)
    assert (again.made, again.done_before) == (0, len(SEVENS))


def test_a_training_is_not_replaced(job: Job) -> None:
    job.store.write("run.json", b'{"kind": "training"}')
    with pytest.raises(WrongRun, match="holds a training; choose another --out"):
        job.run(replace=True)
    assert list(job.store.list()) == ["run.json"]


def test_pictures_are_missed_also_where_later_ones_lie_inside(job: Job) -> None:
    job.run()
    assert job.run(images="inline").made == 0
    job.store.delete(next(iter(job.store.list("images/"))))
    assert job.run(images="inline").made == 1
    assert "8 rows: 7 done, 1 to make, 0 duplicates, 0 changed, 1 of which the picture is gone or damaged" in job.said


def test_a_safety_checker_does_not_claim_rows_that_it_has_not_seen(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(order, "offers", lambda model, part: part == "safety_checker")
    job.run(SEVENS[:4])
    with pytest.raises(WrongRun, match="made with --safety off, not flag: 4 of its 4 good rows would keep the"):
        job.run(safety="flag")
    assert job.run(safety="flag", replace=True).made == 4
    with pytest.raises(WrongRun, match="made with --safety flag, not off: 8 of its 8 good rows would keep the flags"):
        job.run()
    assert job.run(safety="flag").made == 0


def test_ids_behind_the_limit_are_not_said_to_be_missing(job: Job) -> None:
    (job.folder / "ids").write_text("r1\nr5\n")
    with pytest.raises(ValueError, match="of the manifest's first 4 there is no row of 1 of the 2 ids in .*ids: 'r5'"):
        job.run(ids=str(job.folder / "ids"), limit=4)
    assert job.run(ids=str(job.folder / "ids"), limit=6).made == 2


def test_rows_that_failed_and_are_not_asked_for_are_of_the_manifest_too(job: Job) -> None:
    rows = [SEVENS[0] | {"label": 0}, SEVENS[1]]
    for number, made in ((0, 1), (1, 1)):
        (job.folder / "ids").write_text(f"r{number}\n")
        assert job.run(rows, ids=str(job.folder / "ids")).made == made
