"""Manifests of spreadsheets, YAML and Parquet, pipelines, and lists of prompts."""

from __future__ import annotations

import gzip
import io
import json

import pyarrow as pa
import pyarrow.parquet as pq

from hostile.case import Case, Content, later
from hostile.rows import NOISE, TEXT
from runs import png

YAML_ROW = "task: text_to_image, prompt: a"
ROW = "text_to_image,a"

CSV: dict[str, tuple[str | bytes, str]] = {
    "nothing": ("", "a.csv: the manifest has no rows"),
    "a header alone": ("task,prompt\n", "a.csv: the manifest has no rows"),
    "no header": (f"{ROW}\n", "line 1: the column 'text_to_image' is none that a task takes"),
    "a column twice": ("task,prompt,prompt\n", "line 1: the column 'prompt' is there 2 times"),
    "a column without a name": ("task,prompt,\n", "line 1: 1 column has no name"),
    "too many cells": (f"task,prompt\n{ROW},b\n", "line 2: has 3 cells, the header has 2"),
    "too few cells": ("task,prompt\ntext_to_image\n", "line 2: has 1 cell, the header has 2"),
    "semicolons": ("task;prompt\ntext_to_image;a\n", "line 1: the columns are separated by ';', wanted commas"),
    "tabs": ("task\tprompt\ntext_to_image\ta\n", "line 1: the columns are separated by tabs, wanted commas"),
    "bars": ("task|prompt\ntext_to_image|a\n", "line 1: the columns are separated by '|', wanted commas"),
    "sep=": (f"sep=,\ntask,prompt\n{ROW}\n", "line 1: 'sep=' is for a spreadsheet alone"),
    "capitals": (f"Task,Prompt\n{ROW}\n", "line 1: the column 'Task' is none that a task takes, did you mean 'task'?"),
    "an index of pandas": (f",task,prompt\n0,{ROW}\n", "line 1: the first column has no name"),
    "a misspelt column": (f"task,prompt,sed\n{ROW},\n", "line 1: the column 'sed' is none that a task takes, did you"),
    "a rounded seed": (f"task,prompt,seed\n{ROW},1.23457E+15\n", "line 2: 'seed' is '1.23457E+15'"),
    "a decimal comma": (f'task,prompt,guidance\n{ROW},"7,5"\n', "line 2: 'guidance' must be a number, was '7,5'"),
    "NULL as a word": (f"task,prompt,seed\n{ROW},NULL\n", "line 2: 'seed' must be a number, was 'NULL'"),
    "#REF!": (f"task,prompt,seed\n{ROW},#REF!\n", "line 2: 'seed' must be a number, was '#REF!'"),
    "a date": (f"task,prompt,seed\n{ROW},2026-11-21\n", "line 2: 'seed' must be a number, was '2026-11-21'"),
    "views that are no JSON": ("task,views\nanagram,identity\n", "line 2: the cell of 'views' is not JSON"),
    "views of Python": ("task,views\nanagram,\"[{'view': 'identity'}]\"\n", "line 2: the cell of 'views' is not JSON"),
    "a quote within": (f'task,prompt\n{ROW[:-1]}"a" b\n', "line 2: cannot be read from here on"),
    "a quote without an end": (f'task,prompt\n{ROW[:-1]}"a\n', "line 2: cannot be read from here on"),
    "cp1252": ("task,prompt\ntext_to_image,caf\xe9\n".encode("cp1252"), "line 2: cannot be read from here on: is not"),
    "UTF-16": (f"task,prompt\n{ROW}\n".encode("utf-16"), "UTF-16, wanted UTF-8"),
    "NULs": (bytes(500), "a.csv line 1: "),
    "noise": (NOISE, "a.csv line "),
    "JSON lines": (json.dumps(TEXT) + "\n", "a.csv line 1: "),
}  # fmt: skip

YAML: dict[str, tuple[str | bytes, str]] = {
    "nothing": ("", "a.yaml: the file is empty"),
    "a comment": ("# rows\n", "a.yaml: the file is empty"),
    "a list": (f"- {{{YAML_ROW}}}\n", "this is not one (put the list under 'rows:')"),
    "a text": ("a red seven", "a YAML manifest is a mapping with defaults, rows and matrix, this is not one"),
    "another key": (f"jobs: [{{{YAML_ROW}}}]\n", "unknown top-level key 'jobs'; there are defaults, rows, matrix"),
    "a misspelt key": (f"row: [{{{YAML_ROW}}}]\n", "unknown top-level key 'row', did you mean 'rows'?"),
    "rows as a mapping": (f"rows: {{{YAML_ROW}}}\n", "'rows' must be a list, was a mapping"),
    "rows of texts": ("rows: [a, b]\n", "row 1: must be a mapping, was text"),
    "no rows": ("rows: []\n", "a.yaml: the manifest has no rows"),
    "defaults as a list": (f"defaults: [1]\nrows: [{{{YAML_ROW}}}]\n", "'defaults' must be a mapping, was a list"),
    "a matrix of nothing": (f"matrix: {{{YAML_ROW}, seed: []}}\n", "matrix 1: 'seed' lists no values"),
    "a matrix as a text": ("matrix: all\n", "'matrix' must be a mapping or a list of mappings, was text"),
    "a matrix of texts": ("matrix: [all]\n", "matrix 1: must be a mapping, was text"),
    "a matrix of 10^30": (
        f"matrix: {{{YAML_ROW}, " + ", ".join(f"k{n}: {list(range(1000))}" for n in range(10)) + "}",
        "matrix 1: 1,000,000,000,000,000,000,000,000,000,000 combinations",
    ),
    "a template of blanks": (f'rows: [{{{YAML_ROW}, id: "{{seed:>99999999999}}", seed: 1}}]', "'>99999999999' is not"),
    "a template of Python": (f'rows: [{{{YAML_ROW}, id: "{{seed.__class__}}", seed: 1}}]', "row 1: id template"),
    "a template that is open": (f'rows: [{{{YAML_ROW}, id: "{{seed", seed: 1}}]', "row 1: "),
    "a template of another key": (f'rows: [{{{YAML_ROW}, id: "{{sed}}", seed: 1}}]', "row 1: id template '{sed}' name"),
    "a variable of nothing": ("matrix: {prompt: 'a {word}', word: []}", "matrix 1: 'word' lists no values"),
    "a variable that none names": ("matrix: {prompt: a, word: [b]}", "matrix 1: unknown key 'word': no text of this"),
    "a variable misspelt": ("matrix: {prompt: 'a {wrd}', word: [b]}", "this matrix names {word}; they name {wrd}"),
    "a variable of yes": ("matrix: {prompt: 'a {word}', word: [yes]}", "1: the variable 'word' is True"),
    "a variable of lists": ("matrix: {prompt: 'a {word}', word: [[b]]}", "the variable 'word' is ['b'], wanted a text"),
    "a variable's end": ("matrix: {prompt: 'a {word', word: [b]}", "matrix 1: 'prompt' is no template: expected"),
    "a variable of Python": ("matrix: {prompt: 'a {word.real}', word: [b]}", "matrix 1: unknown key 'word': no text"),
    "a range that falls": (f"matrix: {{{YAML_ROW}, seed: 7..0}}", "matrix 1: 'seed: 7..0' goes down"),
    "half a range": (f"matrix: {{{YAML_ROW}, seed: 0..}}", "matrix 1: 'seed: 0..' is no range, wanted such as 0..7"),
    "a range of fractions": (f"rows: [{{{YAML_ROW}, guidance: 1..7.5}}]", "row 1: 'guidance: 1..7.5' is no range"),
    "a range of defaults": (f"defaults: {{seed: 0..7}}\nrows: [{{{YAML_ROW}}}]", "'seed' must be a number, was '0..7'"),
    "a tag of Python": ("rows: !!python/object/apply:os.system [true]\n", "a.yaml line 1: "),
    "a set": ("rows: !!set {a, b}\n", "a.yaml"),
    "binary": ("rows: !!binary AAAA\n", "a.yaml"),
    "an alias to nothing": ("rows: [*a]\n", "line 1: found undefined alias"),
    "itself": ("rows: &a [*a]\n", "line 1: a value contains itself"),
    "two documents": (f"rows: [{{{YAML_ROW}}}]\n---\nrows: []\n", "a.yaml line 2: "),
    "a tab": (f"rows:\n\t- {{{YAML_ROW}}}\n", "a.yaml line 2: "),
    "a bracket": ("rows: [{", "a.yaml line 2: did not find"),
    "a colon in a prompt": ("rows:\n- task: text_to_image\n  prompt: a seven: red\n", "a.yaml line 3: "),
    "a comma in a prompt": (f"rows:\n- {{{YAML_ROW} seven, on white}}\n", "line 2: the key 'on white' has no value"),
    "a decimal comma": (f"rows:\n- {{{YAML_ROW}, guidance: 7,5}}\n", "line 2: the key '5' has no value"),
    "base 8": (f"rows:\n- {{{YAML_ROW}, seed: 010}}\n", "line 2: the number '010' begins with 0: YAML reads base 8"),
    "base 60": (f"rows:\n- {{{YAML_ROW}, seed: 1:30}}\n", "line 2: the number '1:30' has colons"),
    "a key twice": (f"rows:\n- {{{YAML_ROW}, seed: 1, seed: 2}}\n", "line 2: the key 'seed' is given twice"),
    "a key that is a list": ("? [a]\n: b\n", "a.yaml"),
    "a key that is a number": ("rows:\n- {1: 2}\n", "a.yaml row 1: "),
    "a date as an id": (f"rows:\n- {{{YAML_ROW}, id: 2024-01-02}}\n", "row 1: 'id' must be text"),
    "a date that is none": (f"rows:\n- {{{YAML_ROW}, id: 2024-13-45}}\n", "a.yaml: not YAML"),
    "yes as a prompt": ("rows:\n- {task: text_to_image, prompt: yes}\n", "row 1: 'prompt' must be text, was True"),
    "a number as a prompt": ("rows:\n- {task: text_to_image, prompt: 7}\n", "row 1: 'prompt' must be text, was 7"),
    "infinity": (f"rows:\n- {{{YAML_ROW}, guidance: .inf}}\n", "row 1: 'guidance' must be a finite number, was inf"),
    "not a number": (f"rows:\n- {{{YAML_ROW}, guidance: .nan}}\n", "row 1: 'guidance' must be a finite number, was na"),
    "cp1252": ("rows: [caf\xe9]".encode("cp1252"), "wanted text in UTF-8"),
    "NULs": (bytes(100), "a.yaml: not YAML"),
    "noise": (NOISE, "a.yaml"),
    "a PNG": (png(24), "a.yaml"),
    "the language of a cluster": ("apiVersion: ray.io/v1\nkind: RayJob\n", "unknown top-level key 'apiVersion'"),
}  # fmt: skip


def parquet(table: pa.Table) -> bytes:
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd")
    return sink.getvalue()


def rows(count: int = 1, **columns: object) -> bytes:
    return parquet(pa.table({"task": ["text_to_image"] * count, "prompt": ["a"] * count, **columns}))


PARQUET: dict[str, tuple[bytes, str]] = {
    "nothing": (b"", "a.parquet: "),
    "letters": (b"PAR1 and no more PAR1", "a.parquet: not a readable Parquet file"),
    "cut off": (rows()[:-9], "a.parquet: not a readable Parquet file"),
    "without a beginning": (rows()[40:], "a.parquet: not a readable Parquet file"),
    "no rows": (parquet(pa.table({"task": pa.array([], pa.string())})), "a.parquet: the manifest has no rows"),
    "no columns": (parquet(pa.table({"a": [1]}).select([])), "a.parquet: there are no columns"),
    "a column twice": (
        parquet(pa.table([["text_to_image"], ["a"], ["b"]], names=["task", "prompt", "prompt"])),
        "a.parquet: the column 'prompt' is there 2 times",
    ),
    "an index of pandas": (rows(__index_level_0__=[0]), "'__index_level_0__' is an index that pandas wrote"),
    "a misspelt column of nulls": (rows(sed=pa.array([None], pa.int64())), "the column 'sed' is none that a task"),
    "bytes that are no text": (parquet(pa.table({"task": ["text_to_image"], "prompt": [b"\xff"]})), "row 1: "),
    "seeds that were rounded": (rows(seed=[2.0**60]), "row 1: 'seed' must be written as a whole number"),
    "seeds without a sign": (rows(seed=pa.array([2**64 - 1], pa.uint64())), "row 1: 'seed' must be at most"),
    "seeds of dates": (rows(seed=pa.array([0], pa.timestamp("s"))), "row 1: 'seed' must be a number"),
    "seeds of truths": (rows(seed=[True]), "row 1: 'seed' must be a number, was True"),
    "decimals": (rows(guidance=pa.array([7]).cast(pa.decimal128(21, 2))), "row 1: 'guidance' must be a number"),
    "not a number": (rows(guidance=[float("nan")]), "row 1: 'guidance' must be a finite number"),
    "a map": (rows(stage2=pa.array([[("a", 1)]], pa.map_(pa.string(), pa.int64()))), "row 1: 'stage2'"),
    "a list of nulls": (rows(seed=pa.array([[None]])), "row 1: 'seed' must be a number"),
    "a time beyond any": (rows(id=pa.array([2**62], pa.timestamp("ms"))), "row 1: "),
    "a date": (rows(id=pa.array([0], pa.date32())), "row 1: 'id' must be text"),
    "a footer of zeros": (rows()[:-200] + bytes(192) + rows()[-8:], "a.parquet: not a readable Parquet file"),
    "a page of zeros": (rows(100)[:20] + bytes(60) + rows(100)[80:], "a.parquet: not a readable Parquet file"),
    "JSON lines": (json.dumps(TEXT).encode(), "a.parquet: not a readable Parquet file"),
}  # fmt: skip

TEXTS: dict[str, tuple[str, Content, str]] = {
    "txt of nothing": ("a.txt", "", "a.txt: the manifest has no rows"),
    "txt of comments": ("a.txt", "# prompts\n\n", "a.txt: the manifest has no rows"),
    "txt in cp1252": ("a.txt", "a\ncaf\xe9".encode("cp1252"), "a.txt line 2: is not UTF-8"),
    "txt in UTF-16": ("a.txt", "a seven".encode("utf-16"), "a.txt: the text is UTF-16"),
    "txt of noise": ("a.txt", NOISE, "a.txt line 1: is not UTF-8"),
    "txt with half a sign": ("a.txt", b"a \xe2\x82\n", "a.txt line 1: is not UTF-8"),
    "tsv of commas": ("a.tsv", "prompt,seed\na,1\n", "line 1: the columns are separated by commas, wanted tabs"),
    "tsv of capitals": ("a.tsv", "Prompt\tSeed\na\t1\n", "'Prompt' is none that a task takes, did you"),
    "tsv of too many cells": ("a.tsv", "prompt\na\tb\n", "line 2: has 2 cells, the header has 1"),
    "csv of prompts with commas": ("a.csv", "prompt\na, b\n", "1; a text with commas stands in"),
    "csv of an index read twice": ("a.csv", "Unnamed: 0,prompt\n0,a\n", "'Unnamed: 0' is one without a nam"),
    "csv of WebUI": ("a.csv", "prompt,cfg_scale\na,7\n", "'cfg_scale' is none that a task takes, did you mean 'gui"),
    "json of nothing": ("a.json", "", "a.json: not JSON: Expecting value at character 1"),
    "json of an object": ("a.json", '{"prompt": "a"}', "a.json: wanted a list of rows or of prompts, [...], was"),
    "json of numbers": ("a.json", "[1]", "a.json row 1: a row is an object or a prompt, was 1"),
    "json of lines": ("a.json", '{"prompt": "a"}\n{"prompt": "b"}\n', "a file with a row on each line is .jsonl"),
    "json, deep": ("a.json", "[" * 100_000, "a.json: not JSON: nested too deeply"),
    "json of NaN": ("a.json", '[{"seed": NaN}]', "a.json: not JSON: NaN is not a JSON number"),
    "json with a key twice": ("a.json", '[{"seed": 1, "seed": 2}]', "the key 'seed' is given twice"),
    "json in cp1252": ("a.json", '["caf\xe9"]'.encode("cp1252"), "a.json: is not UTF-8"),
    "json of a long number": ("a.json", f"[{'9' * 5000}]", "a.json: not JSON: "),
    "gzip cut short": ("a.txt.gz", gzip.compress(b"a red seven\n" * 99)[:-9], "a.txt.gz: the gzip file is cut short"),
    "gzip that is none": ("a.csv.gz", "prompt\na\n", "from here on: not a gzip file, or a damaged"),
    "gzip in gzip": ("a.txt.gz", gzip.compress(gzip.compress(b"a")), "a.txt.gz line 1: is not UTF-8"),
    "gzip of a document": ("a.docx.gz", gzip.compress(b"a"), "a.docx.gz: unsupported suffix: wanted one of .jsonl"),
    "gzip of Parquet": ("a.parquet.gz", b"", "a Parquet file packs its own columns: wanted it without .gz"),
}  # fmt: skip

LISTS: dict[str, tuple[str, Content, dict[str, list[str]], str]] = {
    "nothing": ("a.txt", "", {}, "a.txt has no row with a key of a manifest"),
    "blanks": ("a.txt", "\n \n", {}, "a.txt has no row with a key of a manifest"),
    "columns of other names": ("a.csv", "Words,Kind\na,b\n", {}, "its columns are 'Words', 'Kind'"),
    "a column for no key": ("a.txt", "a\n", {"column": ["prompt=promt"]}, "no task takes 'promt', did you mean 'prom"),
    "half a column": ("a.txt", "a\n", {"column": ["prompt"]}, "--column prompt: wanted two names with = between"),
    "a default for no key": ("a.txt", "a\n", {"default": ["tsk=a"]}, "--default tsk=a: no task takes 'tsk', did you m"),
    "a list of numbers": ("a.json", "[1]", {}, "a.json: wanted a list of objects or of prompts"),
    "a number": ("a.json", "5", {}, "a.json: wanted a list of objects or of prompts"),
    "a bracket": ("a.json", "[", {}, "a.json: not JSON"),
    "deep JSON": ("a.json", "[" * 100_000, {}, "a.json: not JSON: nested too deeply"),
    "NaN": ("a.json", '[{"seed": NaN}]', {}, "a.json: not JSON: NaN is not a JSON number"),
    "a document": ("a.docx", b"PK\3\4", {}, "a.docx: wanted a list that ends in .txt"),
    "cp1252": ("a.txt", "caf\xe9".encode("cp1252"), {}, "is not UTF-8"),
    "noise": ("a.txt", NOISE, {}, "is not UTF-8"),
    "a gzip file that is cut": ("a.txt.gz", gzip.compress(b"a" * 99)[:-9], {}, "a.txt.gz: the gzip file is cut short"),
    "no gzip file": ("a.txt.gz", "a red seven\n", {}, "a.txt.gz"),
    "a gzip bomb": ("a.txt.gz", later(lambda: gzip.compress(bytes(300 * 2**20), 1)), {}, "more than 64 MiB unpacked"),
    "a gzip file of a document": ("a.docx.gz", gzip.compress(b"a"), {}, "a.docx: wanted a list that ends in .txt"),
    "a long cell": ("a.csv", "prompt\n" + "a" * 200_000, {}, "a.csv: field larger"),
    "another manifest's name": ("a.txt", "a\n", {"out": "jobs.csv"}, "wanted a name that ends in .jsonl"),
}  # fmt: skip

PIPELINE = """name: digits
out: out
registry: registry
data: {kind: mnist}
train: {recipe: mnist-flow-class}
gate: {class_accuracy: {at_least: 0.9}}
"""

PIPELINES: dict[str, tuple[str, str]] = {
    "nothing": ("", "a.yaml: wanted a mapping of name, out"),
    "a list": ("- a\n", "a.yaml: wanted a mapping of name, out"),
    "a bracket": ("name: [", "a.yaml line 2: did not find"),
    "a tag of Python": ("name: !!python/object/apply:os.system [true]\n", "a.yaml line 1: "),
    "base 8": (PIPELINE + "keep: 012\n", "a.yaml line 7: the number '012' begins with 0"),
    "a name that climbs": (PIPELINE.replace("digits", "../digits"), "line 1: name: must match pattern"),
    "an unknown key": (PIPELINE + "kep: 3\n", "line 7: kep: unknown key 'kep', did you mean 'keep'?"),
    "an unknown recipe": (PIPELINE.replace("mnist-flow-class", "mnist-flow-clas"), "line 5: train.recipe: "),
    "an unknown setting": (PIPELINE.replace("class}", "class, settings: {hiden: 4}}"), "line 5: train.settings"),
    "a gate of nothing": (PIPELINE.replace("{at_least: 0.9}", "{}"), "line 6: gate"),
    "an unknown metric": (PIPELINE.replace("class_accuracy", "accuracy"), "line 6: gate.accuracy: unknown metric"),
    "cron in words": (PIPELINE + "schedule: {cron: every night}\n", "'every night' has 2 fields, a cron line has five"),
    "cron above its range": (PIPELINE + "schedule: {cron: '0 25 * * *'}\n", "line 7: schedule.cron: "),
    "cron steps above it": (PIPELINE + "schedule: {cron: '*/90 * * * *'}\n", "line 7: schedule.cron: "),
    "a zone that is none": (PIPELINE + "schedule: {cron: '0 2 * * *', time_zone: Mars/Base}\n", "schedule.time_zone"),
    "a manifest that is not there": (PIPELINE + "smoke: nowhere.yaml\n", "line 7: smoke: there is no manifest"),
}  # fmt: skip


def cases() -> dict[str, Case]:
    found = {}
    for kind, table in (("csv", CSV), ("yaml", YAML), ("parquet", PARQUET)):
        found |= {f"{kind}: {name}": Case(says, {f"a.{kind}": content}) for name, (content, says) in table.items()}
    for name, (file, content, says) in TEXTS.items():
        found[name] = Case(says, {file: content})
    for name, (file, content, options, says) in LISTS.items():
        found[f"list: {name}"] = Case(says, {file: content}, "convert", options=options)
    for name, (text, says) in PIPELINES.items():
        found[f"pipeline: {name}"] = Case(says, {"a.yaml": text}, "retrain", options={"check": True})
    return found
