"""Rows of a manifest that no task takes, and files that are no manifest: JSON lines."""

from __future__ import annotations

import gzip
import json
import random
from typing import Any

from hostile.case import Case, folder, link, pipe, sparse
from runs import png

TEXT = {"task": "text_to_image", "prompt": "a red seven"}
EDIT = {"task": "image_to_image", "prompt": "a", "image": "a.png", "strength": 0.5}
PAINT = {"task": "inpaint", "prompt": "a", "image": "a.png", "mask": "m.png"}
BLURRED = {"task": "denoise", "image": "a.png", "timestep": 500, "method": "blur"}
NOISED = {"task": "forward", "image": "a.png", "timestep": 500}
LARGER = {"task": "upscale", "prompt": "a", "image": "a.png", "size": 48}


def anagram(*views: Any, **more: Any) -> dict[str, Any]:
    return {"task": "anagram", "views": list(views), **more}


def hybrid(*components: Any, **more: Any) -> dict[str, Any]:
    return {"task": "hybrid", "components": list(components), **more}


def view(name: Any, **more: Any) -> dict[str, Any]:
    return {"view": name, "prompt": "a", **more}


def part(name: Any, **more: Any) -> dict[str, Any]:
    return {"component": name, "prompt": "a", **more}


LOW, HIGH = part("low_pass"), part("high_pass")

# A row, or what stands beside TEXT's task and prompt, and what is said of it, after "line 1: ".
ROWS: dict[str, tuple[dict[str, Any], str]] = {
    "seed, a text": ({"seed": "7"}, "'seed' must be a number, was '7'"),
    "seed, true": ({"seed": True}, "'seed' must be a number, was True"),
    "seed, below 0": ({"seed": -1}, "'seed' must be at least 0, was -1"),
    "seed, a fraction": ({"seed": 1.5}, "'seed' must be a whole number, was 1.5"),
    "seed, too large": ({"seed": 2**63}, "'seed' must be at most 9223372036854775807, was 9223372036854775808"),
    "seed, far too large": ({"seed": 10**100}, "'seed' must be at most 9223372036854775807"),
    "seed, a list": ({"seed": [1]}, "'seed' must be a number, was [1]"),
    "seed, a mapping": ({"seed": {"a": 1}}, "'seed' must be a number"),
    "seed, 1e300": ({"seed": 1e300}, "'seed' must be written as a whole number"),
    "steps, none": ({"steps": 0}, "'steps' must be at least 1, was 0"),
    "steps, too many": ({"steps": 1001}, "'steps' must be at most 1000, was 1001"),
    "steps, a fraction": ({"steps": 2.5}, "'steps' must be a whole number, was 2.5"),
    "steps, a text": ({"steps": "30"}, "'steps' must be a number, was '30'"),
    "stride, none": ({"stride": 0}, "'stride' must be at least 1, was 0"),
    "stride, all": ({"stride": 1000}, "'stride' must be at most 999, was 1000"),
    "steps and stride": ({"steps": 3, "stride": 3}, "'steps' and 'stride' are given, wanted at most one"),
    "three schedules": ({"steps": 3, "stride": 3, "timesteps": "fast27"}, "'steps' and 'stride' and 'timesteps' are"),
    "timesteps, unknown": ({"timesteps": "fast99"}, "fast99"),
    "timesteps, a path": ({"timesteps": "../../etc/passwd"}, "'../../etc/passwd'"),
    "timesteps, a number": ({"timesteps": 27}, "'timesteps' must be text, was 27"),
    "guidance, below 0": ({"guidance": -1}, "'guidance' must be at least 0, was -1"),
    "guidance, too high": ({"guidance": 101}, "'guidance' must be at most 100, was 101"),
    "guidance, a comma": ({"guidance": "7,5"}, "'guidance' must be a number, was '7,5'"),
    "guidance, a list": ({"guidance": [7]}, "'guidance' must be a number, was [7]"),
    "negative prompt, a number": ({"negative_prompt": 5}, "'negative_prompt' must be text, was 5"),
    "negative prompt, long": ({"negative_prompt": "a" * 20_001}, "'negative_prompt' must have at most 20000 char"),
    "size, none": ({"size": 0}, "'size' must be at least 1, was 0"),
    "size, another": ({"size": 25}, "the size 25 is not one the model 'if-xs' makes: 24, 48"),
    "size, a word": ({"size": "large"}, "'size' must be a number, was 'large'"),
    "size, no such stage": ({"size": "stage9"}, "the size 'stage9' is not one the model makes: stage1 (24 px)"),
    "size, below 0": ({"size": -48}, "'size' must be at least 1, was -48"),
    "size, huge": ({"size": 2**40}, "'size' must be at most 65536"),
    "sampler, unknown": ({"sampler": "dpm"}, "'sampler' must be one of 'ddpm', 'ddim'"),
    "sampler, capitals": ({"sampler": "DDIM"}, "was 'DDIM', did you mean 'ddim'?"),
    "sampler, a number": ({"sampler": 3}, "'sampler' must be one of"),
    "sampler of flows": ({"sampler": "midpoint"}, "the sampler 'midpoint' does not fit the diffusion model 'if-xs'"),
    "eta without ddim": ({"eta": 0.5}, "'eta' is for the sampler 'ddim', this row names no sampler"),
    "eta, above 1": ({"eta": 2, "sampler": "ddim"}, "'eta' must be at most 1, was 2"),
    "id, empty": ({"id": ""}, "'id' must not be empty"),
    "id, a number": ({"id": 5}, "'id' must be text, was 5"),
    "id, two lines": ({"id": "a\nb"}, "'id' must not hold control characters"),
    "id, a NUL": ({"id": "a\0b"}, "'id' must not hold control characters"),
    "id, long": ({"id": "a" * 201}, "'id' must have at most 200 characters"),
    "id, half a sign": ({"id": "\ud800"}, "'id' must be valid Unicode text"),
    "id, a list": ({"id": ["a"]}, "'id' must be text"),
    "prompt, a number": ({"prompt": 5}, "'prompt' must be text, was 5"),
    "prompt, a list": ({"prompt": ["a", "b"]}, "'prompt' must be text, was ['a', 'b']"),
    "prompt, null": ({"prompt": None}, "'prompt' is missing, the model 'if-xs' takes a prompt"),
    "prompt, half a sign": ({"prompt": "\udfff"}, "'prompt' must be valid Unicode text"),
    "label, of a text model": ({"label": 3, "prompt": None}, "'label' is given, the model 'if-xs' takes a prompt"),
    "label and prompt": ({"label": 3}, "'prompt' and 'label' are both given, wanted one of them"),
    "task, missing": ({"task": None, "mask": "a.png"}, "'task' is missing, wanted one of text_to_image"),
    "task, of another tool": ({"task": "txt2img", "seed": -1}, "line 1: 'seed' must be at least 0, was -1"),
    "task, unknown": ({"task": "text_to_imge"}, "unknown task 'text_to_imge', did you mean 'text_to_image'?"),
    "task, a number": ({"task": 5}, "unknown task 5"),
    "task, a list": ({"task": []}, "unknown task []"),
    "task, a mapping": ({"task": {}}, "unknown task {}"),
    "candidates, none": ({"best_of": 0}, "'best_of' must be at least 1, was 0"),
    "candidates, too many": ({"best_of": 65}, "'best_of' must be at most 64, was 65"),
    "candidates, unjudged": ({"best_of": 4}, "'best_of' is 4, and there is no scorer to choose by"),
    "candidates beyond the last seed": ({"best_of": 4, "seed": 2**63 - 2}, "'seed' must be at most 92233720368547758"),
    "stage, a list": ({"stage2": []}, "'stage2' must be a mapping, was []"),
    "stage, no steps": ({"stage2": {"steps": 0}, "size": 48}, "stage2: 'steps' must be at least 1, was 0"),
    "stage, misspelt": ({"stage2": {"stepz": 5}, "size": 48}, "stage2: unknown key 'stepz', did you mean 'steps'?"),
    "stage, never reached": ({"stage2": {"steps": 5}, "size": 24}, "'stage2' is given, a picture of 24 px never"),
    "stage, not there": ({"stage3": {"steps": 5}}, "'stage3' is given, the model 'if-xs' has 2 stages"),
    "a misspelt key": ({"promt": "a", "prompt": None}, "unknown key 'promt', did you mean 'prompt'?"),
    "another tool's key": ({"cfg_scale": 7}, "unknown key 'cfg_scale', did you mean 'guidance'?"),
    "a key in capitals": ({"Seed": 7}, "unknown key 'Seed', did you mean 'seed'?"),
    "a key of Python's": ({"__class__": "a"}, "unknown key '__class__', which text_to_image does not take"),
    "a key of another task": ({"mask": "m.png"}, "unknown key 'mask', which text_to_image does not take"),
    "an empty key": ({"": 1}, "unknown key ''"),
    "a key of two lines": ({"a\nb": 1}, "unknown key 'a\\nb'"),
    "a key, half a sign": ({"\ud800": 1}, "keys and texts must be valid Unicode"),
    "picture, missing": (EDIT | {"image": None}, "'image' is missing"),
    "picture, empty": (EDIT | {"image": ""}, "'image' must not be empty"),
    "picture, a number": (EDIT | {"image": 5}, "'image' must be text, was 5"),
    "picture, a NUL": (EDIT | {"image": "a\0b.png"}, "'image' must not hold control characters"),
    "picture, long": (EDIT | {"image": "a" * 4097}, "'image' must have at most 4096 characters"),
    "picture by https": (EDIT | {"image": "https://example.org/a.png"}, "'image' must be a path, file:///path or s3"),
    "picture as data": (EDIT | {"image": "data:image/png;base64,AAAA"}, "'image' must be a path, file:///path or s3:"),
    "picture of a drive": (EDIT | {"image": "C:\\a.png"}, "'image' must be a path, file:///path or s3://bucket/key"),
    "picture, HEIC": (EDIT | {"image": "a.HEIC"}, "as .HEIC is not read"),
    "picture, a film": (EDIT | {"image": "a.mp4"}, "as .mp4 is not read"),
    "start and strength": (EDIT | {"start": 3}, "wanted one of 'start' and 'strength', both are given"),
    "neither of them": (EDIT | {"strength": None}, "wanted one of 'start' and 'strength', neither is given"),
    "strength, above 1": (EDIT | {"strength": 2}, "'strength' must be at most 1, was 2"),
    "strength, below 0": (EDIT | {"strength": -0.1}, "'strength' must be at least 0, was -0.1"),
    "strength, a percentage": (EDIT | {"strength": "50%"}, "'strength' must be a number, was '50%'"),
    "start, below 0": (EDIT | {"strength": None, "start": -1}, "'start' must be at least 0, was -1"),
    "start, behind the end": (EDIT | {"strength": None, "start": 99}, "'start' is an index into a schedule of 34 step"),
    "fit, unknown": (EDIT | {"fit": "squash"}, "'fit' must be one of 'crop', 'pad' or 'stretch', was 'squash'"),
    "mask, missing": (PAINT | {"mask": None}, "'mask' is missing"),
    "mask ids, none": (PAINT | {"mask_value": []}, "'mask_value' must not be empty"),
    "mask ids, a colour": (PAINT | {"mask_value": "red"}, "mask_value: must be a number, was 'red'"),
    "mask ids, below 0": (PAINT | {"mask_value": -1}, "must be at least 0, was -1"),
    "mask, another verdict": (PAINT | {"empty_mask": "ignore"}, "'empty_mask' must be one of 'fail' or 'flag'"),
    "resample, a number": (PAINT | {"resample": 5}, "'resample' must be a mapping, was 5"),
    "resample, half": (PAINT | {"resample": {"jump": 1}}, "resample: 'times' is missing"),
    "resample, no jump": (PAINT | {"resample": {"jump": 0, "times": 1}}, "resample: 'jump' must be at least 1, was 0"),
    "resample, too far": (PAINT | {"resample": {"jump": 50, "times": 2}}, "resample: 'jump' must be at most 33"),
    "views, none": (anagram(), "'views' must not be empty"),
    "views, missing": ({"task": "anagram", "prompt": None}, "'views' is missing"),
    "views, a mapping": ({"task": "anagram", "views": {}, "prompt": None}, "'views' must be a list, was {}"),
    "view, a text": (anagram("identity"), "must be a mapping, was 'identity'"),
    "view, unknown": (anagram(view("rotate_80")), "view 1: unknown view 'rotate_80', did you mean 'rotate_180'?"),
    "view, a number": (anagram(view(5)), "view 1: 'view' must be text, was 5"),
    "view, a misspelt prompt": (anagram({"view": "identity", "promt": "a"}), "view 1: unknown key 'promt', did you"),
    "view, no pieces": (anagram(view("patch_permute", pieces=0)), "view 1: "),
    "view, pieces as a text": (anagram(view("patch_permute", pieces="eight")), "view 1: "),
    "view, too many pieces": (anagram(view("patch_permute", pieces=100)), "cuts 100 pieces a side"),
    "view, a circle too large": (anagram(view("inner_circle", diameter=2)), "view 1: "),
    "view, no such parameter": (anagram(view("jigsaw", pieces=4)), "view 1: "),
    "reduction, unknown": (anagram(view("identity"), reduction="sum"), "'reduction' must be one of 'mean' or 'altern"),
    "a prompt beside views": (anagram(view("identity"), prompt="a"), "unknown key 'prompt', which anagram does not"),
    "components, none": (hybrid(), "'components' must not be empty"),
    "components, half": (hybrid(LOW), "needs its other half, high_pass"),
    "component, unknown": (hybrid(part("low_pas"), HIGH), "component 1: unknown component 'low_pas', did you mean 'lo"),
    "component, no blur": (hybrid(part("low_pass", sigma=0), HIGH), "component 1: "),
    "component, an even kernel": (hybrid(part("low_pass", kernel=4), part("high_pass", kernel=4)), "component 1: "),
    "components of other blurs": (hybrid(part("low_pass", sigma=1), HIGH), "needs its other half, high_pass (sigma 1)"),
    "weights below 1": (hybrid(part("scale", weight=0.5), part("scale", weight=0.4)), "sum"),
    "weight, a text": (hybrid(part("scale", weight="half"), part("scale", weight=0.5)), "component 1: "),
    "two held to pictures": (
        hybrid({"component": "low_pass", "image": "a.png"}, {"component": "high_pass", "image": "a.png"}),
        "at most one component may be held to an 'image', 2 are",
    ),
    "held, and asked": (hybrid(part("low_pass", image="a.png"), HIGH), "component 1: a component held to an 'image' t"),
    "time, missing": (NOISED | {"timestep": None}, "'timestep' is missing"),
    "time, too late": (NOISED | {"timestep": 1000}, "'timestep' must be at most 999, was 1000"),
    "time, a word": (NOISED | {"timestep": "late"}, "'timestep' must be a number, was 'late'"),
    "noised at another stage": (NOISED | {"size": 48}, "the size 48 is not one that forward is made at"),
    "method, unknown": (BLURRED | {"method": "magic"}, "'method' must be one of 'blur', 'one_step' or 'iterative'"),
    "sigma without a blur": (BLURRED | {"method": "one_step", "prompt": "a", "sigma": 2}, "'sigma' is for the method"),
    "until, of a blur": (BLURRED | {"until": 5}, "'until' is for the method 'iterative', this row has 'blur'"),
    "until, above the start": (BLURRED | {"method": "iterative", "prompt": "a", "until": 900}, "line 1: "),
    "upscaled to the first size": (LARGER | {"size": 24}, "the size 24 is not one the model 'if-xs' upscales to: 48"),
    "upscaled from nothing": (LARGER | {"image": None}, "'image' is missing"),
}  # fmt: skip

_GOOD = json.dumps(TEXT)
NOISE = random.Random(0).randbytes(4096)

# A file's name, what it holds, and what is said of it.
FILES: dict[str, tuple[str, str | bytes, str]] = {
    "no JSON": ("a.jsonl", "red seven\n", "a.jsonl line 1: not a JSON object: "),
    "a list of rows": ("a.jsonl", f"[{_GOOD}]", "a.jsonl line 1: not a JSON object, was [{"),
    "a list over lines": ("a.jsonl", f"[\n{_GOOD},\n{_GOOD}\n]\n", "a.jsonl line 1: not a JSON object: "),
    "a number": ("a.jsonl", "5", "a.jsonl line 1: not a JSON object, was 5"),
    "a text": ("a.jsonl", '"a red seven"', "a.jsonl line 1: not a JSON object, was"),
    "null": ("a.jsonl", "null", "a.jsonl line 1: not a JSON object, was null"),
    "two rows in a line": ("a.jsonl", _GOOD + _GOOD, "a.jsonl line 1: not a JSON object: Extra data at character"),
    "a comma behind": ("a.jsonl", _GOOD[:-1] + ",}", "a.jsonl line 1: not a JSON object: "),
    "single quotes": ("a.jsonl", "{'task': 'text_to_image'}", "a.jsonl line 1: not a JSON object: "),
    "a comment": ("a.jsonl", f"// rows\n{_GOOD}", "a.jsonl line 1: not a JSON object: "),
    "NaN": ("a.jsonl", _GOOD[:-1] + ', "guidance": NaN}', "NaN is not a JSON number"),
    "minus infinity": ("a.jsonl", _GOOD[:-1] + ', "guidance": -Infinity}', "-Infinity is not a JSON number"),
    "1e999": ("a.jsonl", _GOOD[:-1] + ', "guidance": 1e999}', "'guidance' must be a finite number"),
    "a seed of 5,000 digits": ("a.jsonl", _GOOD[:-1] + f', "seed": {"9" * 5000}}}', "a.jsonl line 1: "),
    "a key twice": ("a.jsonl", _GOOD[:-1] + ', "prompt": "b"}', "the key 'prompt' is given twice"),
    "a line that is cut off": ("a.jsonl", f"{_GOOD}\n{_GOOD[:30]}", "a.jsonl line 2: not a JSON object: "),
    "an id twice": ("a.jsonl", 2 * (_GOOD[:-1] + ', "id": "x"}\n'), "line 2: the id 'x' is given twice, first in a.j"),
    "an id three times": ("a.jsonl", 3 * (_GOOD[:-1] + ', "id": "x"}\n'), "line 2: the id 'x' is given 3 times"),
    "nothing": ("a.jsonl", "", "a.jsonl: the manifest has no rows"),
    "blanks": ("a.jsonl", "\n  \n\t\n", "a.jsonl: the manifest has no rows"),
    "a byte order mark": ("a.jsonl", b"\xef\xbb\xbf", "a.jsonl: the manifest has no rows"),
    "UTF-16": ("a.jsonl", _GOOD.encode("utf-16"), "a.jsonl: the text is UTF-16, wanted UTF-8"),
    "UTF-32": ("a.jsonl", _GOOD.encode("utf-32"), "a.jsonl: the text is UTF-16, wanted UTF-8"),
    "cp1252": ("a.jsonl", '{"prompt": "caf\xe9"}'.encode("cp1252"), "line 1: is not UTF-8: byte 16 is 0xe9"),
    "NULs": ("a.jsonl", bytes(1000), "a.jsonl line 1: not a JSON object: "),
    "noise": ("a.jsonl", NOISE, "a.jsonl line 1: "),
    "a PNG": ("a.jsonl", png(24), "a.jsonl line 1: is not UTF-8: byte 1 is 0x89"),
    "a gzip file": ("a.jsonl", gzip.compress(_GOOD.encode()), "a.jsonl line 1: is not UTF-8"),
    "a page": ("a.jsonl", "<!DOCTYPE html>\n<html><body>Not found</body></html>\n", "line 1: not a JSON object: "),
    "a pointer of Git LFS": ("a.jsonl", "version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "line 1: not a"),
    "a merge that stopped": ("a.jsonl", f"<<<<<<< ours\n{_GOOD}\n=======\n{_GOOD}\n>>>>>>> theirs", "line 1: not a JS"),
    "CSV": ("a.jsonl", "task,prompt\ntext_to_image,a\n", "a.jsonl line 1: not a JSON object: "),
    "YAML": ("a.jsonl", "rows:\n- task: text_to_image\n", "a.jsonl line 1: not a JSON object: "),
    "JSON over lines": ("a.jsonl", json.dumps(TEXT, indent=2), "a.jsonl line 1: not a JSON object: "),
    "a name of no kind": ("manifest", _GOOD, "manifest"),
    "a page of Markdown": ("a.md", "a red seven\n", "a.md: unsupported suffix: wanted one of .jsonl, "),
    "a spreadsheet": ("a.xlsx", b"PK\3\4" + NOISE, "a.xlsx"),
    "a pickle": ("a.pkl", b"\x80\x04N.", "a.pkl"),
}  # fmt: skip

# No plain file, or none: what is put there, what is given, and what is said.
PLACES: dict[str, Case] = {
    "a pipe": Case("it is no file (a device, a pipe or a socket)", {"a.jsonl": pipe}),
    "a link to a pipe": Case("it is no file", {"b": pipe, "a.jsonl": link("b")}, given="a.jsonl"),
    "a link to a device": Case("it is no file", {"a.jsonl": link("/dev/zero")}),
    "a link to itself": Case("a.jsonl", {"a.jsonl": link("a.jsonl")}),
    "a link to nothing": Case("a.jsonl", {"a.jsonl": link("b.jsonl")}),
    "a device": Case("it is no file", {}, given="/dev/zero"),
    "a folder without a manifest": Case("jobs", {"jobs": folder}),
    "a folder of YAML": Case("jobs", {"jobs/a.yaml": "rows: []"}, given="jobs"),
    "a folder with a bad part": Case("a.jsonl line 1: not a ", {"jobs/a.jsonl": "x", "jobs/b.csv": ""}, given="jobs"),
    "a folder that ends in .jsonl": Case("a.jsonl", {"a.jsonl": folder}),
    "a name that is not there": Case("nothing is there", {}, given="nowhere.jsonl"),
    "a name that is too long": Case("a" * 20, {}, given="a" * 300 + ".jsonl"),
    "a glob of nothing": Case("x*.jsonl", {"a.jsonl": _GOOD}, given="x*.jsonl"),
    "a bucket with one slash": Case("did you mean s3://bucket/a.jsonl?", {}, given="s3:/bucket/a.jsonl"),
    "a bucket alone": Case("s3://bucket", {}, given="s3://b"),
    "another scheme": Case("unknown scheme 'https'", {}, given="https://example.org/a.jsonl"),
    "a line of 300 MB": Case("line 1: has more than 4 MiB", {"a.jsonl": sparse(300 * 2**20)}),
    "YAML of 300 MB": Case("may have 16 MiB", {"a.yaml": sparse(300 * 2**20)}),
    "a list of 300 MB": Case("a.txt", {"a.txt": sparse(300 * 2**20)}, job="convert"),
}  # fmt: skip


def cases() -> dict[str, Case]:
    """A row that names a task is whole, another stands beside TEXT's words."""
    rows = {
        name: Case(says, {"a.jsonl": json.dumps(row if isinstance(row.get("task"), str) else TEXT | row)})
        for name, (row, says) in ROWS.items()
    }
    files = {name: Case(says, {file: content}) for name, (file, content, says) in FILES.items()}
    return rows | files | PLACES
