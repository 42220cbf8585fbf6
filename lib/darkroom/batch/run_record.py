"""run.json, what a run is made with; and refusing a job that would take a run's good rows away by mistake."""

from __future__ import annotations

import importlib.metadata
import json
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from darkroom import __version__
from darkroom.batch.order import Order
from darkroom.batch.planning import Work
from darkroom.sampling.plans import SAMPLER_VERSION

PACKAGES = ("ray", "torch", "diffusers", "transformers", "pyarrow", "numpy")
OF_ALL_ROWS = ("model", "watermark", "scorer", "sampler_version")  # what has a say in every row


class WrongRun(ValueError):
    """The folder asked for holds another run."""


def refuse_other_folder(order: Order) -> None:
    """Where there is no run nothing may look like one: its owner deletes shards that it does not know."""
    store = order.store
    if not store.exists("run.json") and any(True for key in ("metadata/", "commits/") for _ in store.list(key)):
        raise WrongRun(f"{order.options.out} holds a metadata or commits folder but no run.json; choose another --out")


def refuse_to_empty(order: Order, work: Work) -> None:
    """Without --replace, good rows are neither made anew because of another model than the run's, nor replaced and
    withdrawn by another manifest than the run's, if that costs most of them: that is a typing error in --out."""
    options, out = order.options, order.options.out
    if options.replace or not work.before:
        return
    before, now = json.loads(order.store.read("run.json")), run_record(order, work)
    good, lost = f"of its {work.good_before:,} good rows", work.superseded + len(work.leavers)
    advice = "choose another --out, or say --replace"
    if work.done + work.changed == 0:
        raise WrongRun(f"{out} holds {work.before:,} rows, none of them of this manifest; {advice}")
    differing = [name for name in OF_ALL_ROWS if _differs(before.get(name), now[name])]
    if differing and work.superseded:
        others = "; ".join(f"{name} {_short(before.get(name))}, not {_short(now[name])}" for name in differing)
        raise WrongRun(f"{out} was made with {others}: {work.superseded:,} {good} would be made anew; {advice}")
    same = before["manifest"]["uri"] == order.manifest.uri or before["manifest"]["sha256"] == order.manifest.digest
    if not same and 2 * lost > work.good_before:
        costs = f"replace {work.superseded:,} and withdraw {len(work.leavers):,} {good}"
        raise WrongRun(f"{out} is the run of {before['manifest']['uri']}: {order.manifest.uri} would {costs}; {advice}")


def _differs(was: Any, now: Any) -> bool:
    if isinstance(was, dict) and isinstance(now, dict):
        return was["revision"] != now["revision"]
    return was != now


def _short(value: Any) -> str:
    """What a run's record says of a model, a scorer or another thing, in a word or two."""
    if isinstance(value, dict):
        return f"{value.get('name') or value['address']} ({value['revision'][:12]})"
    return "none" if value is None else str(value)


def run_record(order: Order, work: Work) -> dict[str, Any]:
    options, model, manifest = order.options, order.model, order.manifest
    scorer = {"address": options.scorer, "revision": order.maker.judge} if options.scorer else None
    return {
        "created_at": datetime.now(UTC).isoformat(),
        "plan": work.plan,
        "manifest": {"uri": manifest.uri, "sha256": manifest.digest, "rows": work.rows},
        "checked": order.rows.mark if options.limit is None else None,
        "model": {"name": model.name, "revision": model.revision, "address": order.address},
        "sampler_version": SAMPLER_VERSION,
        "scorer": scorer,
        "safety": options.safety,
        "watermark": "on" if order.judging.watermark else "off",
        "options": asdict(options),
        "code": __version__,
        "packages": {name: importlib.metadata.version(name) for name in PACKAGES},
    }
