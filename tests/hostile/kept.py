"""Inputs that somebody met with (tests/cases), each as it came."""

from __future__ import annotations

from pathlib import Path

from hostile.case import ROW, Case

FOLDER = Path(__file__).parents[1] / "cases"
COMMA = "in braces a comma begins the next key"

# What is said of each; of several mistakes the last.
MANIFESTS = {
    "csv-of-a-spreadsheet/caps.csv": "line 1: the column 'Seed' is none that a task takes, did you mean 'seed'?",
    "csv-of-a-spreadsheet/cp1252.csv": "line 2: cannot be read from here on: is not UTF-8: byte 20 is 0xe9 (in Windows",
    "csv-of-a-spreadsheet/excel_bom_semicolon.csv": "line 1: the columns are separated by ';', wanted commas",
    "csv-of-a-spreadsheet/excel_semicolon.csv": "line 1: the columns are separated by ';', wanted commas",
    "csv-of-a-spreadsheet/pandas_index.csv": "line 1: the first column has no name; an index that pandas wrote",
    "csv-of-a-spreadsheet/sep.csv": "line 1: 'sep=' is for a spreadsheet alone: take this line out",
    "csv-of-a-spreadsheet/utf16.csv": "UTF-16, wanted UTF-8 (spreadsheets call it 'CSV UTF-8')",
    "hostile/deep_obj.jsonl": "line 1: nested too deeply",
    "hostile/matrix_1e30.yaml": "combinations; all of a file may have 10,000,000",
    "hostile/patch_good.jsonl": "line 7: view 2: 'patch_permute' cuts 100 pieces a side and takes pictures of 100 px",
    "hostile/pq_zip.parquet": "pq_zip.parquet: ",
    "hostile/yaml_bomb_views.yaml": "its aliases (*name) make",
    "hostile/yaml_template.yaml": "row 1: id template '{seed:>99999999999}': the format '>99999999999' is not offered",
    "hostile/yaml_template3.yaml": "row 5: id template '{seed:zz}'",
    "picture-by-url/paths.jsonl": "line 6: 'image' must be a path, file:///path or s3://bucket/key",
    "prompt-lists/PartiPrompts.tsv": "PartiPrompts.tsv",
    "prompt-lists/a1111.jsonl": "line 1: 'seed' must be at least 0, was -1",
    "prompt-lists/array.jsonl": "a row is an object of its own, on its own line",
    "prompt-lists/diffusers.jsonl": "unknown key 'num_inference_steps', did you mean 'steps'?",
    "prompt-lists/drawbench.csv": "line 1: the column 'Prompts' is none that a task takes, did you mean 'prompt'?",
    "seed-precision/bigfloat.jsonl": "line 3: 'seed' must be written as a whole number: as a decimal one it was rounde",
    "seed-precision/excel_bigseed.csv": "line 3: 'seed' is '9.00720E+15': a spreadsheet's way to show a rounded number",
    "seed-precision/pandas_nullseed.parquet": "'seed' must be written as a whole number",
    "unknown-key-null/unknown_empty.csv": "the column 'seeed' is none that a task takes, did you mean 'seed'?",
    "unknown-key-null/unknown_null.jsonl": "unknown key 'negative_promt', did you mean 'negative_prompt'?",
    "yaml-flow-comma/flow_comma.yaml": f"line 4: the key 'oil painting' has no value: {COMMA}",
    "yaml-flow-comma/flow_comma2.yaml": f"line 1: the key 'jpeg artifacts' has no value: {COMMA}",
    "yaml-octal/octal_matrix.yaml": "line 4: the number '012' begins with 0: YAML reads base 8",
    "yaml-octal/octal_seed.yaml": "line 3: the number '0010' begins with 0: YAML reads base 8",
    "yaml-octal/sexagesimal.yaml": "line 2: the number '20:30:15' has colons, which YAML reads in base 60",
    "yaml-octal/strength_str.yaml": "line 4: the number '010' begins with 0: YAML reads base 8",
}
ROWS = {
    "mask-all-black": "the mask m_black.png selects nothing",
    "mask-outside-crop": "the mask m_wide_edge.png selects nothing",
}
PIPELINES = {
    "pipeline-octal/octal.yaml": "line 6: the number '012' begins with 0: YAML reads base 8",
    "cron-for-kubernetes/pipeline.yaml": "no cron line: day-of-week '7' is not within 0 to 6 (Sunday is 0)",
}
GOOD = {  # and what is said of them
    "prompt-lists/array.json": "1 row",
    "prompt-lists/prompts.txt": "2 rows",
    "csv-of-a-spreadsheet/blankrows.csv": "1 row",
    "duplicate-rows/dups.jsonl": "4 lines, 3 of them the same as another",
    "strength-rounds-to-nothing/row.jsonl": "'strength' 0.01 of 10 steps is none of them: the picture stays as it is",
    "yaml-hash/hash.yaml": "line 3: what follows ' #' is a comment and no part of the text before it",
}


def cases() -> dict[str, Case]:
    found = {}
    for name, says in {**MANIFESTS, **GOOD}.items():
        files = {Path(name).name: (FOLDER / name).read_bytes()}
        found[f"kept: {name}"] = Case(says, files, code=0 if name in GOOD else 2)
    for name, says in ROWS.items():
        files = {path.name: path.read_bytes() for path in sorted((FOLDER / name).iterdir())}
        found[f"kept: {name}"] = Case(says, files, "row", ROW, given="row.jsonl")
    for name, says in PIPELINES.items():
        files = {Path(name).name: (FOLDER / name).read_bytes()}
        found[f"kept: {name}"] = Case(says, files, "retrain", options={"check": True})
    return found
