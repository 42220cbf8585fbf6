"""Lists of prompts as people share them become manifests."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from darkroom.manifest import Abilities, open_manifest, read_rows
from darkroom.manifest.prompt_lists import Converted, convert

TEXT = Abilities("if-xs", (24, 48), 48, "text", "diffusion", 1000, upscale=True)
CASES = Path(__file__).parents[1] / "cases/prompt-lists"
TASK = ["task=text_to_image"]


def converted(folder: Path, name: str, content: str | bytes, columns: list[str] = [], defaults: list[str] = TASK):  # noqa: B006
    (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)
    found = convert(str(folder / name), str(folder / "jobs.jsonl"), defaults, columns)
    return found, list(open_manifest(str(folder / "jobs.jsonl"), TEXT).tasks())


LISTS = {
    "prompts.txt": ("a red seven\n\n  a blue nine \n", []),
    "parti.tsv": ("Prompt\tCategory\na red seven\tAbstract\na blue nine\tAbstract\n", ["Prompt=prompt"]),
    "draw.csv": ('Prompts;Category\n"a red seven";Colors\na blue nine;Colors\n', ["Prompts=prompt"]),
    "array.json": ('["a red seven", {"prompt": "a blue nine"}]', []),
    "array.jsonl": ('[{"prompt": "a red seven"}, {"prompt": "a blue nine"}]', []),
    "lines.jsonl": ('{"text": "a red seven"}\n{"text": "a blue nine"}\n', ["text=prompt"]),
    "prompts.txt.gz": (gzip.compress(b"a red seven\na blue nine", mtime=0), []),
}


@pytest.mark.parametrize("name", LISTS)
def test_a_list_becomes_rows(name: str, tmp_path: Path) -> None:
    content, columns = LISTS[name]
    found, tasks = converted(tmp_path, name, content, columns)
    assert [task.prompt for task in tasks] == ["a red seven", "a blue nine"]
    assert found == Converted(2, {"Category": 2} if "Category" in str(content) else {})


def test_values_and_what_is_left_out(tmp_path: Path) -> None:
    row = {"prompt": "7", "num_inference_steps": 20, "guidance_scale": 7.5, "num_images_per_prompt": 4, "seed": None}
    columns = ["num_inference_steps=steps", "guidance_scale=guidance"]
    found, (task,) = converted(tmp_path, "a.jsonl", json.dumps(row), columns, [*TASK, "seed=5", "guidance=3"])
    assert (task.prompt, task.steps, task.guidance, task.seed) == ("7", 20, 7.5, 5)
    assert found.left_out == {"num_images_per_prompt": 1}


READ_AS_GENERATE_DOES = {
    "one.csv": 'prompt\n"a red seven, on grass"\n"he said ""hi"""\n"two\nlines"\n',
    "marks.csv": "prompt,seed\na\vb\u2028c,1\r\n\u0085d\fe,2\r\n",
    "marks.txt": "one\u2028still one\ntwo\u0085still two\r\nthree\fstill three",
    "remarks.txt": "# of sevens\none\n\n  # of twos\ntwo # 2\n",
    "switches.csv": "prompt,karras,steps,sampler\na,TRUE,5,euler\nb,false,5,euler\n",
    "marks.jsonl": '{"prompt": "one\u2028still one"}\n{"prompt": "two"}\n',
}


@pytest.mark.parametrize("name", READ_AS_GENERATE_DOES)
def test_no_row_is_cut_within_its_text(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(READ_AS_GENERATE_DOES[name].encode())
    wanted = [row.data for row in read_rows(str(tmp_path / name))]
    convert(str(tmp_path / name), str(tmp_path / "jobs.jsonl"))
    assert [row.data for row in read_rows(str(tmp_path / "jobs.jsonl"))] == wanted and len(wanted) in (2, 3)


def test_lines_of_old_spreadsheets(tmp_path: Path) -> None:
    _, tasks = converted(tmp_path, "old.csv", "prompt;Note\ra red seven;\ra blue nine;;\r")
    assert [task.prompt for task in tasks] == ["a red seven", "a blue nine"], (
        "empty cells beyond the header say nothing"
    )


KEPT = {
    "PartiPrompts.tsv": (["Prompt=prompt"], ["bond"]),
    "a1111.jsonl": (["cfg_scale=guidance"], ["a red seven"]),
    "array.json": ([], ["a"]),
    "array.jsonl": ([], ["a", "b"]),
    "diffusers.jsonl": (["num_inference_steps=steps", "guidance_scale=guidance"], ["a red seven"]),
    "drawbench.csv": (
        ["Prompts=prompt"],
        ["A red colored car.", "A triangular purple flower pot, with (word:1.3)"],
    ),
    "prompts.txt": ([], ["a red seven", "a blue nine"]),
}


@pytest.mark.parametrize("name", KEPT)
def test_lists_as_they_are_shared(name: str, tmp_path: Path) -> None:
    columns, prompts = KEPT[name]
    convert(str(CASES / name), str(tmp_path / "jobs.jsonl"), TASK, columns)
    rows = [json.loads(line) for line in (tmp_path / "jobs.jsonl").read_text().splitlines()]
    assert [row["prompt"][:44] for row in rows] == [prompt[:44] for prompt in prompts]
    assert all(row["task"] == "text_to_image" for row in rows)


WRONG = [
    (
        "a.csv",
        "id,prompt\nx,a seven\ny,a red seven, on grass, at dawn\n",
        [],
        "a.csv line 3: has 4 cells, the header has 2; a text with commas stands in quotes",
    ),
    ("a.csv", "prompt,id,prompt\na,x,b\n", [], "a.csv line 1: the column 'prompt' is there 2 times"),
    (
        "a.csv",
        "prompt,Prompt\na,\n,b\nc,d\n",
        ["Prompt=prompt"],
        "a.csv: 'prompt' and 'Prompt' are both 'prompt', and a row has both: leave one out",
    ),
    ("a.csv", "sep=;\nprompt;id;id\na;x;y\n", [], "a.csv line 2: the column 'id' is there 2 times"),
    ("a.csv", "sep=;\nprompt;id\na;x\na;x;y\n", [], "a.csv line 4: has 3 cells, the header has 2"),
    ("a.csv", "sep=;\r\n\r\n\r\nprompt;id\r\na;x\r\na;x;y\r\n", [], "a.csv line 6: has 3 cells, the header has 2"),
    ("a.csv", "", [], "a.csv has no row with a key of a manifest: name one by"),
    ("a.csv", "prompt,seed\na,1.23457E+11\n", [], "a.csv: 'seed' is '1.23457E+11': a spreadsheet's way to show a rou"),
    ("a.csv", 'prompt\na\n\n"b\nc\n', [], "a.csv: quotes that open after line 2 are never closed"),
    ("a.csv", 'prompt,id\n"b,1\nc,2', [], "a.csv: quotes that open after line 1 are never closed"),
    ("a.tsv", "id\tprompt\nx\ta seven\tmore\n", [], "a.tsv line 2: has 3 cells, the header has 2"),
    (
        "a.csv",
        "Prompts,Category\na,b\n",
        [],
        "a.csv has no row with a key of a manifest; its columns are 'Prompts', 'Cat",
    ),
    ("a.txt", "a\n", ["prompt=promt"], "--column prompt=promt: no task takes 'promt', did you mean 'prompt'"),
    ("a.txt", "a\n", ["prompt"], "--column prompt: wanted two names with = between them"),
    ("a.json", "[1]", [], "a.json: wanted a list of objects or of prompts, one of its items is '1'"),
    ("a.json", "{", [], "a.json: not JSON"),
    ("a.docx", "x", [], "a.docx: wanted a list that ends in .txt"),
    ("a.txt", "café".encode("cp1252"), [], "is not UTF-8"),
    ("a.txt.gz", gzip.compress(b"a" * 99, mtime=0)[:-9], [], "a.txt.gz: the gzip file is cut short"),
]


@pytest.mark.parametrize(("name", "content", "columns", "said"), WRONG)
def test_what_is_no_list_is_a_sentence(name: str, content: str, columns: list[str], said: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError) as caught:
        converted(tmp_path, name, content, columns)
    assert said in str(caught.value)
