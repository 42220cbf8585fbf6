"""Pydantic's findings in plain sentences."""

from __future__ import annotations

import re
from typing import Any

from pydantic import ValidationError

from darkroom.manifest.branches import AdapterUse, NetUse, Resample, UpperStage
from darkroom.manifest.keys import ROW_KEYS, did_you_mean, sampler_meant, task_meant
from darkroom.manifest.tasks import TASKS, parse_task
from darkroom.sampling.names import nearest
from darkroom.storage import without_secrets

_NESTED = {"resample": Resample, "stage2": UpperStage, "stage3": UpperStage}
_ITEMS = {"adapters": AdapterUse, "control": NetUse}  # of lists; views and components take keys of their own
BRANCH_NAMES = {"views": "view", "components": "component", "adapters": "adapter", "control": "control"}
LISTED = 20  # findings of a row


def sentences(error: ValidationError, row: dict[str, Any]) -> list[str]:
    """Pydantic's findings about a row, one plain sentence each, with the value that was given."""
    count, findings = error.error_count(), error.errors(include_url=False)[:LISTED]
    if findings[0]["type"] in ("union_tag_invalid", "union_tag_not_found"):
        return [*dict.fromkeys([_task_sentence(row), *_beside_the_task(row)])]
    found = [_sentence(finding, row) for finding in findings]
    # A misspelt key is one mistake, not also the absence of the one that was meant.
    hints = [re.fullmatch(r"(.*)unknown key '.*', did you mean ('.*')\?", text) for text in found]
    meant = {f"{hint[1]}{hint[2]} is missing" for hint in hints if hint}
    rest = [f"and {count - LISTED:,} more mistakes in this row"] if count > LISTED else []
    return [text for text in found if text not in meant] + rest


def _sentence(finding: Any, row: dict[str, Any]) -> str:
    kind, place, context, given = finding["type"], list(finding["loc"]), finding.get("ctx", {}), finding["input"]
    task = place.pop(0)
    model, present, prefix, taker = TASKS[task], row, "", task
    if len(place) > 1 and place[0] in BRANCH_NAMES:
        name, at = place.pop(0), place.pop(0)
        prefix, model, present = f"{BRANCH_NAMES[name]} {at + 1}: ", _ITEMS.get(name, model), row[name][at]
        taker = f"'{name}'"
    if kind == "value_error":
        return prefix + str(context["error"])
    field = place.pop() if place else ""
    prefix += "".join(f"{name}: " for name in place)
    if kind == "extra_forbidden":
        if place:
            model, present = _NESTED[place[-1]], row[place[-1]]
        return prefix + _unknown_key(field, taker, model, present)
    if kind == "missing":
        return f"{prefix}'{field}' is missing"
    bounds = {name: _written(bound) for name, bound in context.items()}
    must = _MUST[kind].format_map(bounds) if kind in _MUST else _otherwise(finding)
    subject = f"{prefix}'{field}' " if field else prefix
    hint = ""
    if kind == "literal_error":
        hint = nearest(given, re.findall(r"'(.*?)'", context["expected"]))
        hint = (sampler_meant(given) or hint) if field == "sampler" else hint
    return f"{subject}{must}, was {shown(without_secrets(given) if kind == 'no_path' else given)}{hint}"


def _otherwise(finding: Any) -> str:
    """Our own validators say it themselves; what of pydantic's is not listed here is told in its words."""
    text = finding["msg"]
    return text if text.startswith("must ") else f"is wrong: {text}"


def _task_sentence(row: dict[str, Any]) -> str:
    if "task" not in row:
        meant = next((key for key in row if str(key).strip().lower() == "task"), None)
        if meant is not None:
            return f"unknown key {shown(meant)}, did you mean 'task'?"
        return f"'task' is missing, wanted one of {', '.join(TASKS)}"
    meant = task_meant(row["task"])
    hint = f", did you mean '{meant}'?" if meant else f", wanted one of {', '.join(TASKS)}"
    return f"unknown task {shown(row['task'])}{hint}"


def _beside_the_task(row: dict[str, Any]) -> list[str]:
    """What else is wrong with a row whose task is none: by the one that was meant, or what is wrong in any."""
    if meant := task_meant(row.get("task", "")):
        error = _refusal(row, meant)
        return sentences(error, row) if error else []
    errors = {name: error for name in TASKS if (error := _refusal(row, name))}
    if len(errors) < len(TASKS):
        return []
    nearest_task = min(errors, key=lambda name: errors[name].error_count())
    takes = f", which {nearest_task} does not take"
    found = []
    for finding in errors[nearest_task].errors(include_url=False)[:LISTED]:
        kind, place = finding["type"], finding["loc"][1:]
        if kind == "missing" or not place or (kind == "extra_forbidden" and place[0] in ROW_KEYS):
            continue  # which another task may want, or take
        found.append(_sentence(finding, row).replace(takes, ", which no task takes"))
    return found


def _refusal(row: dict[str, Any], task: str) -> ValidationError | None:
    try:
        parse_task(row | {"task": task})
    except ValidationError as error:
        return error
    return None


def _unknown_key(key: str, taker: str, model: Any, present: dict[str, Any]) -> str:
    # A key of another task is rightly spelt: 'mask' must not be taken for a misspelt 'task'.
    if not any(key in other.model_fields for other in TASKS.values()):
        hint = did_you_mean(key, model.model_fields.keys() - present.keys())
        if hint:
            return f"unknown key {shown(key)}{hint}"
    return f"unknown key {shown(key)}, which {taker} does not take"


def _written(bound: Any) -> Any:
    """A bound as one writes it: a float field's 100.0 is 100."""
    return int(bound) if isinstance(bound, float) and bound.is_integer() else bound


def shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


_MUST = {
    "literal_error": "must be one of {expected}",
    "greater_than_equal": "must be at least {ge}",
    "less_than_equal": "must be at most {le}",
    "number_type": "must be a number",
    "int_from_float": "must be a whole number",
    "finite_number": "must be a finite number",
    "control_character": "must not hold control characters",
    "string_type": "must be text",
    "string_unicode": "keys and texts must be valid Unicode",
    "not_unicode": "must be valid Unicode text",
    "string_too_long": "must have at most {max_length} characters",
    "too_long": "must have at most {max_length} characters",
    "string_too_short": "must not be empty",
    "too_short": "must not be empty",
    "less_than": "must be less than {lt}",
    "view_type": "must be a view's name, or a view and its parameters",
    "tuple_type": "must be a list",
    "bool_type": "must be true or false",
    "no_items": "must not be empty",
    "model_type": "must be a mapping",
    "model_attributes_type": "must be a mapping",
    "invalid_key": "is not a key, keys must be text",
}
