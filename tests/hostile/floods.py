"""A few bytes that ask for much, and much that says little: manifests that would take all time and memory."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable

import pyarrow as pa

from hostile.case import Case, later
from hostile.rows import TEXT
from hostile.tables import YAML_ROW, parquet


def row(**more: object) -> str:
    return json.dumps(TEXT | more)


def bomb() -> str:
    """Each level names the one before ten times."""
    lines = ["x0: &l0 {a: 1}"]
    lines += [f"x{n}: &l{n} {{{', '.join(f'k{k}: *l{n - 1}' for k in range(10))}}}" for n in range(1, 9)]
    return "\n".join([*lines, f"rows: [{{{YAML_ROW}, stage2: *l8}}]"])


def nested(depth: int) -> pa.Table:
    value, kind = 1, pa.int64()
    for _ in range(depth):
        value, kind = {"a": value}, pa.struct([("a", kind)])
    return pa.table({"task": ["text_to_image"], "stage2": pa.array([value], kind)})


def one_text(rows: int, length: int) -> pa.Table:
    """A text that is stored once and that every row has."""
    prompts = pa.DictionaryArray.from_arrays(pa.array([0] * rows, pa.int32()), pa.array(["a" * length]))
    return pa.table({"task": ["text_to_image"] * rows, "prompt": prompts.cast(pa.string()) if rows < 10 else prompts})


HOSTILE: dict[str, tuple[str, str | Callable[[], bytes], str]] = {
    "deep JSON": ("a.jsonl", '{"a":' * 900 + "1" + "}" * 900, "line 1: nested too deeply, in more than 16 levels"),
    "deeper JSON": ("a.jsonl", '{"a":' * 100_000 + "1", "line 1: not a JSON object: nested too deeply"),
    "deep views": ("a.jsonl", row(views=json.loads("[" * 40 + "]" * 40)), "line 1: nested too deeply"),
    "deep CSV": ("a.csv", "task,views\nanagram," + "[" * 5000 + "]" * 5000, "line 2: the cell of 'views' is not JSON"),
    "deep YAML in brackets": ("a.yaml", "rows: " + "[" * 100_000, "line 1: nested too deeply, in more than 64 levels"),
    "deep YAML in braces": ("a.yaml", "rows: " + "{a: " * 20_000, "line 1: nested too deeply, in more than 64 levels"),
    "deep YAML in dashes": ("a.yaml", "rows:\n" + "- " * 50_000 + "1", "line 2: nested too deeply"),
    "deep YAML in aliases": (
        "a.yaml",
        "\n".join(["x0: &a0 [1]", *(f"x{n}: &a{n} [*a{n - 1}]" for n in range(1, 1000)), "rows: [*a999]"]),
        "nested too deeply",
    ),
    "aliases that flood a value": ("a.yaml", bomb(), "its aliases (*name) make"),
    "a large YAML file": (
        "a.yaml",
        lambda: b"#" * (17 * 2**20),
        "a YAML file may have 16 MiB; for more rows there is JSONL",
    ),
    "many values in YAML": (
        "a.yaml",
        lambda: b"rows: [" + b"1," * 2_000_000 + b"1]",
        "more than 1,000,000 values in a YAML file",
    ),
    "a template of templates": (
        "a.yaml",
        f'rows: [{{{YAML_ROW}, id: "{"{prompt}" * 9000}"}}]',
        "row 1: id template of",
    ),
    "many keys": ("a.jsonl", row(**{f"key{n}": n for n in range(100_000)}), "and 99,980 more mistakes in this row"),
    "many nulls": ("a.jsonl", row(**{f"key{n}": None for n in range(100_000)}), "and 99,980 more mistakes in this row"),
    "a long key": ("a.jsonl", row(**{"k" * 10**6: 1}), "line 1: unknown key 'kkk"),
    "a long line": (
        "a.jsonl",
        row(id="a") + "\n" + row(prompt="a" * 5_000_000),
        "line 2: has more than 4 MiB; nothing was",
    ),
    "a long prompt": ("a.jsonl", row(prompt="a" * 20_001), "'prompt' must have at most 20000 characters, was 'aaa"),
    "many views": (
        "a.jsonl",
        json.dumps({"task": "anagram", "views": [{"view": "identity", "prompt": "a"}] * 50_000}),
        "line 1: 'views' must be at most 64, was [{'view'",
    ),
    "many components": (
        "a.jsonl",
        json.dumps({"task": "hybrid", "components": [{"component": "scale", "prompt": "a", "weight": 0.1}] * 10_000}),
        "line 1: 'components' must be at most 64, was [{'component'",
    ),
    "a view that is too fine": (
        "a.jsonl",
        json.dumps({"task": "anagram", "views": [{"view": "patch_permute", "pieces": 100, "prompt": "a"}]}),
        "line 1: view 1: 'patch_permute' cuts 100 pieces a side and takes pictures of 100 px or more",
    ),
    "a long cell": (
        "a.csv",
        "task,prompt\ntext_to_image," + "a" * 200_000,
        "cannot be read from here on: field larger",
    ),
    "a CSV without an end of line": ("a.csv", "task,prompt," + "a" * 5_000_000, "a line has more than 4 MiB"),
    "many columns": (
        "a.csv",
        ",".join(f"c{n}" for n in range(200_000)),
        "line 1: the column 'c19' is none that a task",
    ),
    "a quote that never ends": (
        "a.csv",
        'task,prompt\ntext_to_image,"a\n' + "b\n" * 500_000,
        "field larger than field limit",
    ),
    "a text that unpacks": ("a.parquet", lambda: parquet(one_text(1, 50_000_000)), "1 of its rows unpack to 50,0"),
    "a text that unpacks among rows": (
        "a.parquet",
        lambda: parquet(one_text(100_000, 300_000)),
        "holds a text of 300,000 bytes, wanted at most 131,072",
    ),
    "a text that is repeated": (
        "a.parquet",
        lambda: parquet(one_text(5_000, 100_000)),
        "row 1: 'prompt' must have at most 20000 characters",
    ),
    "empty lines in gzip": (
        "a.jsonl.gz",
        lambda: gzip.compress(b"\n" * 80_000_000, 6),
        "a.jsonl.gz: the gzip file unpacks to more than 300 times its size, and was read no further",
    ),
    "empty lines of a table": (
        "a.csv",
        lambda: b"prompt\n" + b"\n" * 8_000_000,
        "cannot be read from here on: 2,097,152 lines with nothing in them",
    ),
    "zeros in gzip": ("a.txt.gz", lambda: gzip.compress(bytes(300 * 2**20), 1), "line 1: has more than 4 MiB"),
    "zeros in a gzip of JSON": ("a.json.gz", lambda: gzip.compress(bytes(300 * 2**20), 1), "may have 32 MiB"),
    "zeros in a gzip of YAML": ("a.yaml.gz", lambda: gzip.compress(bytes(300 * 2**20), 1), "may have 16 MiB"),
    "many values in JSON": ("a.json", lambda: b"[" + b"{}," * 2_000_000 + b"{}]", "and 2,000,000 values; for more"),
    "a template of long words": (
        "a.yaml",
        f'matrix: {{prompt: "{"{word}" * 3000}", word: ["{"a" * 20_000}"]}}',
        "matrix 1 combination 1: 'prompt' becomes longer than 20,000 characters",
    ),
    "a range without an end": ("a.yaml", f"matrix: {{{YAML_ROW}, seed: 0..{'9' * 5000}}}", "matrix 1: "),
    "a range of 10^12": ("a.yaml", f"matrix: {{{YAML_ROW}, seed: 0..999999999999}}", "1,000,000,000,000 combinations"),
    "a row's range of 10^12": ("a.yaml", f"rows: [{{{YAML_ROW}, seed: 0..999999999999}}]", "combinations; all"),
    "a deep table": ("a.parquet", lambda: parquet(nested(60)), "row 1: nested too deeply"),
}


def cases() -> dict[str, Case]:
    found = {}
    for name, (file, content, says) in HOSTILE.items():
        found[f"flood: {name}"] = Case(says, {file: content if isinstance(content, str) else later(content)})
    return found
