from __future__ import annotations

import csv
import gzip
import io
import json
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from darkroom.manifest.readers import read_rows, rows_in
from darkroom.manifest.tasks import parse_task, row_key


def found(name: str, text: str | bytes) -> list[tuple[str, dict[str, object], str]]:
    content = text.encode() if isinstance(text, str) else text
    return [(row.where, row.data, row.problem) for row in rows_in(f"s3://bucket/{name}", content)]


def as_jsonl(rows: list[dict[str, object]]) -> bytes:
    return "\n".join(json.dumps(row) for row in rows).encode()


def as_yaml(rows: list[dict[str, object]]) -> bytes:
    return yaml.safe_dump({"rows": rows}).encode()


def as_csv(rows: list[dict[str, object]], separator: str = ",") -> bytes:
    columns = sorted({column for row in rows for column in row})
    text = io.StringIO()
    table = csv.writer(text, delimiter=separator)
    table.writerow(columns)
    for row in rows:
        cells = [row.get(column, "") for column in columns]
        table.writerow([json.dumps(cell) if isinstance(cell, (list, dict)) else cell for cell in cells])
    return text.getvalue().encode()


def as_tsv(rows: list[dict[str, object]]) -> bytes:
    return as_csv(rows, "\t")


def packed(write: Callable[[list[dict[str, object]]], bytes]) -> Callable[[list[dict[str, object]]], bytes]:
    """In two members, as who appends to a file leaves it."""

    def write_packed(rows: list[dict[str, object]]) -> bytes:
        content = write(rows)
        return gzip.compress(content[:9]) + gzip.compress(content[9:])

    return write_packed


def as_parquet(rows: list[dict[str, object]]) -> bytes:
    sink = io.BytesIO()
    # A column is missing in some rows, or even in the first: from_pylist alone would take the first row's columns.
    columns = sorted({column for row in rows for column in row})
    pq.write_table(pa.table({column: [row.get(column) for row in rows] for column in columns}), sink)
    return sink.getvalue()


def as_json(rows: list[dict[str, object]]) -> bytes:
    return json.dumps(rows, indent=1).encode()


PLAIN = {"a.jsonl": as_jsonl, "a.csv": as_csv, "a.tsv": as_tsv, "a.json": as_json, "a.yaml": as_yaml}
WRITERS = PLAIN | {"a.parquet": as_parquet}
PACKED = {f"{name}.gz": packed(write) for name, write in PLAIN.items()}

# Text without what a format cannot hold: YAML and CSV readers fold carriage returns and refuse control characters.
PROMPTS = st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cs", "Co", "Cn", "Zl", "Zp")), min_size=1)
COMMON = {
    "seed": st.integers(0, 2**63 - 1),
    "guidance": st.floats(0, 100) | st.integers(0, 100),
    "size": st.integers(1, 1024),
    "negative_prompt": PROMPTS,
    "sampler": st.sampled_from(["ddpm", "ddim"]),
}
TEXT_ROW = st.fixed_dictionaries({"task": st.just("text_to_image"), "prompt": PROMPTS}, optional=COMMON)
LABEL_ROW = st.fixed_dictionaries({"task": st.just("text_to_image"), "label": st.integers(0, 9)}, optional=COMMON)
PAINT_ROW = st.fixed_dictionaries(
    {"task": st.just("inpaint"), "prompt": PROMPTS, "image": PROMPTS, "mask": PROMPTS},
    optional=COMMON
    | {
        "strength": st.floats(0, 1),
        "resample": st.fixed_dictionaries({"jump": st.integers(1, 9), "times": st.integers(1, 3)}),
    },
)
VIEW = st.fixed_dictionaries({"view": st.sampled_from(["identity", "negate"]), "prompt": PROMPTS}) | (
    st.fixed_dictionaries({"view": st.just("patch_permute"), "prompt": PROMPTS, "seed": st.integers(0, 99)})
)
VIEW_ROW = st.fixed_dictionaries({"task": st.just("anagram"), "views": st.lists(VIEW, min_size=1, max_size=3)})


@settings(deadline=None)
@given(st.lists(TEXT_ROW | LABEL_ROW | PAINT_ROW | VIEW_ROW, min_size=1, max_size=5))
def test_the_same_rows_have_the_same_keys_in_every_format(rows: list[dict[str, object]]) -> None:
    wanted = [row_key(parse_task(row), "r", "1") for row in rows]
    for name, write in WRITERS.items():
        read = list(rows_in(name, write(rows)))
        assert [row.problem for row in read] == [""] * len(rows), name
        assert [row_key(parse_task(row.data), "r", "1") for row in read] == wanted, name


def test_malformed_lines_do_not_end_the_reading() -> None:
    assert found("jobs.jsonl", '{"seed": 1}\n{"seed": \n\n[1]\n{"seed": 1, "seed": 2}\n{"seed": NaN}\n{"seed": 3}') == [
        ("jobs.jsonl line 1", {"seed": 1}, ""),
        ("jobs.jsonl line 2", {}, "not a JSON object: Expecting value at character 9"),
        ("jobs.jsonl line 4", {}, "not a JSON object, was [1]: a row is an object of its own, on its own line"),
        ("jobs.jsonl line 5", {}, "not a JSON object: the key 'seed' is given twice"),
        ("jobs.jsonl line 6", {}, "not a JSON object: NaN is not a JSON number"),
        ("jobs.jsonl line 7", {"seed": 3}, ""),
    ]


def test_jsonl_bytes_that_are_not_text() -> None:
    first, second, third = found("jobs.jsonl", b'\xef\xbb\xbf{"seed": 1}\r\n{"prompt": "\xff"}\n' + b"[" * 100_000)
    assert first == ("jobs.jsonl line 1", {"seed": 1}, "")
    assert second[2] == "is not UTF-8: byte 13 is 0xff (in Windows-1252 it would be ÿ); save it as UTF-8"
    assert third[2] == "not a JSON object: nested too deeply"


def test_nulls_are_absent() -> None:
    text = '{"seed": null, "views": [{"view": "skew", "seed": null}]}'
    assert found("jobs.ndjson", text) == [("jobs.ndjson line 1", {"views": [{"view": "skew"}]}, "")]


def test_csv_cells() -> None:
    text = 'prompt,seed,guidance,views,resample\n7,7,7.5,"[{""view"": ""skew""}]",\n'
    text += '"two\nlines",x,,,{bad\n,1\n\n,2,,,\n'
    assert found("jobs.csv", text) == [
        ("jobs.csv line 2", {"prompt": "7", "seed": 7, "guidance": 7.5, "views": [{"view": "skew"}]}, ""),
        (
            "jobs.csv line 3",
            {},
            "the cell of 'resample' is not JSON: Expecting property name enclosed in double quotes at character 2",
        ),
        ("jobs.csv line 5", {}, "has 2 cells, the header has 5"),
        ("jobs.csv line 7", {"seed": 2}, ""),
    ]


def test_csv_that_cannot_be_read() -> None:
    assert found("jobs.csv", "seed,seed\n1,2\n") == [("jobs.csv line 1", {}, "the column 'seed' is there 2 times")]
    assert found("jobs.csv", b"prompt\n\xff\n")[-1][2].startswith("cannot be read from here on: ")
    assert found("jobs.csv", 'prompt\na\n"open')[-1][2] == "cannot be read from here on: unexpected end of data"


def test_parquet_rows_are_numbered_across_batches() -> None:
    read = found("jobs.parquet", as_parquet([{"seed": seed} for seed in range(3000)]))
    assert read[0] == ("jobs.parquet row 1", {"seed": 0}, "")
    assert read[-1] == ("jobs.parquet row 3000", {"seed": 2999}, "")


def test_parquet_that_is_none() -> None:
    where, data, problem = found("jobs.parquet", b"PAR1 not at all")[0]
    assert (where, data) == ("jobs.parquet", {})
    assert problem.startswith("not a readable Parquet file after row 0: ")


def test_yaml_names_the_line_of_a_mistake() -> None:
    assert found("demo.yml", "rows:\n- seed: 1\n  seed: 2\n") == [
        ("demo.yml line 3", {}, "the key 'seed' is given twice")
    ]
    assert found("demo.yml", "rows:\n- {seed: 1\n")[0][0] == "demo.yml line 3"
    assert found("demo.yml", "rows: &all\n- *all\n") == [("demo.yml line 1", {}, "a value contains itself")]
    assert found("demo.yml", "rows:\n- !!python/object/apply:os.getcwd []\n")[0][0] == "demo.yml line 2"
    assert found("demo.yml", "rows:\n- id: 2024-13-45\n")[0][2].startswith("not YAML: ")
    assert found("demo.yml", "") == [("demo.yml", {}, "the file is empty")]


def test_yaml_anchors_and_merges() -> None:
    text = "rows:\n- &first {seed: 1, size: 24}\n- {<<: *first, seed: 2}\n- *first\n"
    assert [data for _, data, _ in found("demo.yaml", text)] == [
        {"seed": 1, "size": 24},
        {"seed": 2, "size": 24},
        {"seed": 1, "size": 24},
    ]


def test_suffixes() -> None:
    wanted = "unsupported suffix: wanted one of .jsonl, .ndjson, .parquet, .csv, .tsv, .txt, .json, .yaml, .yml, "
    assert found("jobs.md", "") == [("jobs.md", {}, wanted + "was '.md'")]
    assert found("jobs.gz", "") == [("jobs.gz", {}, wanted + "has none")]
    assert found("jobs", "") == [("jobs", {}, wanted + "has none")]
    assert found("JOBS.JSONL", '{"seed": 1}') == [("JOBS.JSONL line 1", {"seed": 1}, "")]


@pytest.mark.parametrize("name", sorted(WRITERS | PACKED))
def test_read_rows_opens_local_files(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes((WRITERS | PACKED)[name]([{"seed": 1}, {"seed": 2}]))
    assert [row.data for row in read_rows(str(tmp_path / name))] == [{"seed": 1}, {"seed": 2}]


def test_a_missing_file_is_a_problem() -> None:
    (row,) = read_rows("/nowhere/jobs.jsonl")
    assert (row.where, row.problem) == ("jobs.jsonl", "could not read /nowhere/jobs.jsonl: nothing is there")
    (row,) = read_rows("gopher://nowhere/jobs.jsonl")
    assert "unknown scheme 'gopher'" in row.problem


def test_yaml_aliases_that_flood_are_refused_before_they_are_built() -> None:
    """Ten times ten a level: 12 levels are 10^12 values in 130 that are written."""
    levels = ["l0: &l0 [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]"]
    levels += [f"l{n}: &l{n} [{', '.join([f'*l{n - 1}'] * 10)}]" for n in range(1, 12)]
    ((where, _, problem),) = found("demo.yaml", "\n".join(levels))
    assert where == "demo.yaml line 6" and "its aliases (*name) make 1,111,111 values of it" in problem
    base = "defaults: &base {" + ", ".join(f"k{n}: {n}" for n in range(10)) + "}\n"
    many = base + "rows:\n" + "- *base\n" * 30_000
    assert len(found("demo.yaml", many)) == 30_000, "one default for many rows is no flood"


def test_prompts_a_line() -> None:
    text = "\ufeffa red seven\r\n\n# of papers\n  a blue six, on white \n{}"
    assert found("jobs.txt", text) == [
        ("jobs.txt line 1", {"prompt": "a red seven"}, ""),
        ("jobs.txt line 4", {"prompt": "a blue six, on white"}, ""),
        ("jobs.txt line 5", {"prompt": "{}"}, ""),
    ]
    assert found("jobs.txt", b"caf\xe9\na seven\n")[0][2].startswith("is not UTF-8: byte 4 is 0xe9")


def test_a_prompt_alone_asks_for_a_picture_of_it() -> None:
    prompt = {"prompt": "a red seven"}
    for name, text in {"a.csv": "prompt\na red seven\n", "a.txt": "a red seven", "a.json": '["a red seven"]'}.items():
        (row,) = rows_in(name, text.encode())
        assert row.data == prompt, name
    wanted = row_key(parse_task({"task": "text_to_image", **prompt}), "r", "1")
    assert row_key(parse_task(prompt), "r", "1") == wanted
    with pytest.raises(ValueError):
        parse_task({"prompt": "a red seven", "image": "a.png"})


def test_arrays_of_json() -> None:
    assert found("a.json", '["a six", {"seed": 1, "size": null}, 7]') == [
        ("a.json row 1", {"prompt": "a six"}, ""),
        ("a.json row 2", {"seed": 1}, ""),
        ("a.json row 3", {}, "a row is an object or a prompt, was 7"),
    ]
    assert found("a.json", '{"seed": 1}') == [
        ("a.json", {}, "wanted a list of rows or of prompts, [...], was \"{'seed': 1}\"")
    ]
    ((_, _, problem),) = found("a.json", '{"seed": 1}\n{"seed": 2}\n')
    assert problem == "not JSON: Extra data at character 13; a file with a row on each line is .jsonl"
    assert "2,000,000 values; for more rows" in found("a.json", b"[" + b"{}," * 2_000_000 + b"{}]")[0][2]


def test_gzip_files_that_are_none() -> None:
    whole = gzip.compress(b'{"seed": 1}\n')
    assert found("a.jsonl.gz", whole + bytes(512)) == [("a.jsonl.gz line 1", {"seed": 1}, "")]
    assert found("a.jsonl.gz", b"")[-1][2] == "the gzip file is cut short"
    assert found("a.jsonl.gz", whole[:-3])[-1][2] == "the gzip file is cut short"
    assert found("a.jsonl.gz", b'{"seed": 1}\n')[-1][2].startswith("not a gzip file, or a damaged one (")
    assert found("a.csv.gz", gzip.compress(b"seed\n1\n")[:-9])[-1][2].endswith("on: the gzip file is cut short")
    ((_, _, problem),) = found("a.parquet.gz", gzip.compress(as_parquet([{"seed": 1}])))
    assert problem == "a Parquet file packs its own columns: wanted it without .gz"
