"""The gate: whether a candidate may become the champion, metric by metric, with the numbers that decided it.

A bound is held against the candidate's mean. A margin is a test of non-inferiority: the difference to the champion is
taken seed by seed, as both were asked the same questions, and the worse end of its 95 % interval must not lie beyond
the margin; a metric measured once has no interval, and its difference itself must not.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict

from darkroom.evaluation.distances import bootstrap_interval
from darkroom.retrain.gate_metrics import METRICS

Measures = Mapping[str, Mapping[str, Any]]  # metric -> {"mean", "by_seed", "interval"}


class Rule(BaseModel):
    """at_least, at_most: the floor or ceiling; margin: how much worse than the champion it may be, in its own unit."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    at_least: float | None = None
    at_most: float | None = None
    margin: float | None = None

    @property
    def bound(self) -> float | None:
        return self.at_least if self.at_most is None else self.at_most


@dataclass(frozen=True)
class Check:
    """One line of the gate's table. gain: how much better than the champion (negative: worse), and the worse end of its
    interval; reason: why it did not pass."""

    metric: str
    value: float
    bound: str
    champion: float | None
    margin: float | None
    gain: float | None
    worst_gain: float | None
    passed: bool
    reason: str


def rule_problems(metric: str, rule: Rule) -> list[str]:
    """What can never be meant, in sentences."""
    known, found = METRICS[metric], []
    if rule.at_least is None and rule.at_most is None and rule.margin is None:
        found.append("wanted a bound, a margin or both")
    wrong, right = ("at_most", "at_least") if known.better == "higher" else ("at_least", "at_most")
    if getattr(rule, wrong) is not None:
        found.append(f"takes no '{wrong}': {known.better} is better, so its bound is '{right}'")
    for name in (right, "margin"):
        if (value := getattr(rule, name)) is not None and (problem := _impossible(name, value, metric)):
            found.append(f"'{name}' {problem}, was {value:g}")
    return found


def _impossible(name: str, value: float, metric: str) -> str:
    known = METRICS[metric]
    if not math.isfinite(value):
        return "must be a finite number"
    if value < 0 and (name == "margin" or not known.signed):
        return "must be at least 0"
    if known.most is not None and name == "margin" and value >= known.most:
        return f"must be below {known.most:g}, else no difference could ever fail it"
    if known.most is not None and value > known.most:
        return f"must be at most {known.most:g}, the best there is"
    return ""


def judge(rules: Mapping[str, Rule], candidate: Measures, champion: Measures | None) -> list[Check]:
    """The gate's table, a line for each rule; the candidate may pass if every line has. champion: None for the first
    model, which is held against bounds alone."""
    return [
        _check(metric, rule, candidate[metric], None if champion is None else champion[metric])
        for metric, rule in rules.items()
    ]


def _check(metric: str, rule: Rule, candidate: Mapping[str, Any], champion: Mapping[str, Any] | None) -> Check:
    value, reasons, gain, worst = candidate["mean"], [], None, None
    word = "at least" if rule.at_most is None else "at most"
    bound = "" if rule.bound is None else f"{word} {rule.bound:,.10g}"
    if rule.bound is not None and (value < rule.bound if word == "at least" else value > rule.bound):
        reasons.append(f"{_said(value)} is not {bound}")
    if champion is not None and rule.margin is not None:
        gain, worst = _gain(METRICS[metric].better, candidate["by_seed"], champion["by_seed"])
        if worst < -rule.margin:
            spread = "" if worst == gain else f", and by {_said(-worst)} at the end of its interval"
            reasons.append(
                f"{_said(value)} is worse than the champion's {_said(champion['mean'])} by {_said(-gain)}{spread}; "
                f"the margin is {rule.margin:.10g}"
            )
    return Check(metric, value, bound, champion and champion["mean"], rule.margin, gain, worst, not reasons,
                 " and ".join(reasons))  # fmt: skip


def _gain(better: str, candidate: Sequence[float], champion: Sequence[float]) -> tuple[float, float]:
    """How much better the candidate is in the mean, and the worse end of the 95 % interval of that."""
    sign = 1 if better == "higher" else -1
    gains = [sign * (mine - its) for mine, its in zip(candidate, champion, strict=True)]
    mean = sum(gains) / len(gains)
    return mean, min(mean, bootstrap_interval(gains)[0]) if len(gains) > 1 else mean


def _said(value: float) -> str:
    return f"{value:.4g}"
