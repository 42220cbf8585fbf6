"""The page of a retraining pipeline: OUT/index.html, its ticks, the last gate, and every metric across the ticks."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from darkroom.report.curves import metric_curve
from darkroom.report.grids import page_size
from darkroom.report.sections import moment, render
from darkroom.storage import NotFound, Store, open_store

LISTED, DRAWN = 60, 400  # ticks in the table; measured ticks in a curve
_HEAD = ["metric", "candidate", "interval", "bound", "champion", "better by", "at the worse end", "margin", ""]
Tick = Mapping[str, Any]


@dataclass(frozen=True)
class Titles:
    """How metrics are called, in the order in which they are drawn."""

    by_metric: Mapping[str, str]

    def of(self, metric: str) -> str:
        return self.by_metric.get(metric, metric)


def write_ticks_page(out: str, titles: Mapping[str, str]) -> str:
    """Draws the ticks of the pipeline whose folder is `out`; where the page lies. titles: of the metrics."""
    store, named = open_store(out), Titles(titles)
    names = (name for name in store.files("ticks") if name.endswith(".json"))
    ticks = [json.loads(store.read(f"ticks/{name}")) for name in names]
    measured = [tick for tick in ticks if tick["rounds"] and "passed" in tick["rounds"][-1]][-DRAWN:]
    drawings = _drawings(store, measured, named)
    html = render(
        "ticks.html",
        name=next((tick["pipeline"] for tick in ticks if "pipeline" in tick), "a pipeline"),
        facts=_facts(ticks, measured),
        count=len(ticks),
        ticks=[_line(tick, out) for tick in reversed(ticks[-LISTED:])],
        gate=_gate(measured[-1], named) if measured else None,
        drawings=drawings,
        sheet=_sheet(store, measured[-1]) if measured else None,
    )
    store.write("index.html", html.encode())
    return store.uri("index.html")


def _facts(ticks: list[Tick], measured: list[Tick]) -> list[tuple[str, str]]:
    outcomes = [tick["outcome"] or "not over" for tick in ticks]
    told = ", ".join(f"{outcomes.count(kind)} {kind.replace('_', ' ')}" for kind in dict.fromkeys(outcomes))
    promoted = [tick for tick in ticks if tick["outcome"] == "promoted"]
    newest = f"{promoted[-1]['reason']}, by the tick of {_moment(promoted[-1]['id'])}" if promoted else "none"
    facts = [("ticks", told or "none"), ("last promoted", newest)]
    if measured:
        evaluation = measured[-1]["steps"]["evaluate"]
        how, rows = evaluation["settings"], measured[-1]["steps"]["snapshot"]["rows"]
        if how:  # adapters are measured by their loss alone
            drawn = f"3 x {how['count']} pictures, {how['steps']} steps, guidance {how['guidance']:g}"
            facts.append(("measured with", drawn))
        held = f", {rows['test']:,} for tests" if "test" in rows else ""
        facts.append(("evaluator", f"version {evaluation['evaluator']}"))
        facts.append(("data", f"{rows['train']:,} pictures for training{held}"))
    return facts


def _line(tick: Tick, out: str) -> dict[str, Any]:
    snapshot = tick["steps"].get("snapshot")
    pages = [result for result in (tick["steps"].get("evaluate"), *_champions(tick)) if result]
    links = [_below(result["page"], out) for result in pages if result["page"]]
    return {
        "id": tick["id"],
        "time": _moment(tick["id"]),
        "outcome": tick["outcome"].replace("_", " "),
        "reason": tick["reason"],
        "rows": f"{snapshot['rows']['train']:,}" if snapshot else "",
        "bad": f"{snapshot['bad']:,}" if snapshot else "",
        "took": _took(tick),
        "pages": [{"link": f"{link}/index.html", "name": link.rpartition("/")[2]} for link in links],
    }


def _champions(tick: Tick) -> list[dict[str, Any] | None]:
    return [round.get("measured") for round in tick["rounds"]]


def _below(uri: str, out: str) -> str:
    """A link from the page, which may have been copied elsewhere with its folder."""
    return uri.removeprefix(open_store(out).root).lstrip("/")


def _took(tick: Tick) -> str:
    if not tick.get("ended_at"):
        return ""
    seconds = (datetime.fromisoformat(tick["ended_at"]) - datetime.fromisoformat(tick["began_at"])).total_seconds()
    return f"{seconds / 60:,.0f} min" if seconds >= 600 else f"{seconds:,.0f} s"


def _gate(tick: Tick, titles: Titles) -> dict[str, Any]:
    last = tick["rounds"][-1]
    against = "no champion, so bounds alone counted" if last["champion"] is None else f"version {last['champion']}"
    rows = []
    for check in last["table"]:
        low, high = tick["steps"]["evaluate"]["metrics"][check["metric"]]["interval"]
        spread = "" if low == high else f"{_number(low)} to {_number(high)}"
        numbers = [_number(check[key]) for key in ("champion", "gain", "worst_gain", "margin")]
        cells = [titles.of(check["metric"]), _number(check["value"]), spread, check["bound"], *numbers]
        rows.append({"cells": [*cells, "" if check["passed"] else "failed"], "failed": not check["passed"]})
    verdict = "passed" if last["passed"] else "refused"
    return {"about": f"The tick of {_moment(tick['id'])}: {verdict}, against {against}.", "head": _HEAD, "rows": rows}


def _drawings(store: Store, measured: list[Tick], titles: Titles) -> list[dict[str, Any]]:
    """A curve for each metric that two ticks measured (one dot shows nothing), written as page/METRIC.png."""
    found = {metric for tick in measured for metric in tick["steps"]["evaluate"]["metrics"]}
    drawings = []
    for metric in [name for name in titles.by_metric if name in found]:
        having = [tick for tick in measured if metric in tick["steps"]["evaluate"]["metrics"]]
        if len(having) < 2:
            continue
        rules = [check for check in having[-1]["rounds"][-1]["table"] if check["metric"] == metric and check["bound"]]
        png = metric_curve(
            titles.of(metric),
            [datetime.fromisoformat(tick["id"]) for tick in having],
            [tick["steps"]["evaluate"]["metrics"][metric] for tick in having],
            [tick["outcome"] == "promoted" for tick in having],
            [_champion_mean(tick, metric) for tick in having],
            float(rules[0]["bound"].rpartition(" ")[2].replace(",", "")) if rules else None,
        )
        name = f"page/{metric}"
        store.write(f"{name}.png", png)
        drawings.append({"name": name, "size": page_size(png), "alt": f"{titles.of(metric)} across ticks"})
    return drawings


def _champion_mean(tick: Tick, metric: str) -> float | None:
    measured = tick["rounds"][-1].get("measured") or {"metrics": {}}
    return measured["metrics"].get(metric, {}).get("mean")


def _sheet(store: Store, tick: Tick) -> dict[str, Any] | None:
    """The newest candidate's contact sheet, where its evaluation put it."""
    key = f"ticks/{tick['id']}/candidate/samples.png"
    try:
        png = store.read(key)
    except NotFound:
        return None
    about = f"The candidate of {_moment(tick['id'])}; what the classifier takes for another digit is framed."
    return {"link": key, "size": page_size(png), "about": about}


def _moment(tick: str) -> str:
    """The page says once that its times are UTC."""
    return moment(tick).removesuffix(" UTC")


def _number(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,.0f}" if abs(value) >= 10_000 else f"{round(value, 9) + 0:.4g}"  # + 0: no -0
