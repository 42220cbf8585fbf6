from __future__ import annotations

import pytest

from darkroom.retrain.gate import Rule, judge, rule_problems
from darkroom.retrain.gate_metrics import METRICS


def of(*by_seed: float) -> dict[str, object]:
    return {"mean": sum(by_seed) / len(by_seed), "by_seed": list(by_seed)}


def test_the_first_model_meets_bounds_alone() -> None:
    rules = {"class_accuracy": Rule(at_least=0.9, margin=0.01), "validation_loss": Rule(margin=0.1)}
    (accuracy, loss) = judge(rules, {"class_accuracy": of(0.9, 0.9, 0.9), "validation_loss": of(7.0)}, None)
    assert accuracy.passed and loss.passed and loss.gain is None
    (low, _) = judge(rules, {"class_accuracy": of(0.8, 0.9, 0.9), "validation_loss": of(7.0)}, None)
    assert not low.passed and low.reason == "0.8667 is not at least 0.9"


def test_a_margin_is_held_against_the_worse_end_of_the_paired_interval() -> None:
    rule, champion = {"class_accuracy": Rule(margin=0.02)}, {"class_accuracy": of(0.90, 0.94, 0.98)}
    (shifted,) = judge(rule, {"class_accuracy": of(0.89, 0.93, 0.97)}, champion)
    assert shifted.passed and shifted.gain == pytest.approx(-0.01), "the seeds differ more than the models do"
    (uneven,) = judge(rule, {"class_accuracy": of(0.90, 0.94, 0.95)}, champion)
    assert not uneven.passed and uneven.gain == pytest.approx(-0.01) and uneven.worst_gain == pytest.approx(-0.03)
    assert uneven.reason == (
        "0.93 is worse than the champion's 0.94 by 0.01, and by 0.03 at the end of its interval; the margin is 0.02"
    )


def test_where_lower_is_better() -> None:
    rule, champion = {"frechet_distance": Rule(at_most=20, margin=1)}, {"frechet_distance": of(10.0)}
    passed = [judge(rule, {"frechet_distance": of(v)}, champion)[0].passed for v in (5.0, 11.0, 11.5, 25.0)]
    assert passed == [True, True, False, False]
    (both,) = judge(rule, {"frechet_distance": of(25.0)}, champion)
    assert both.reason.startswith("25 is not at most 20 and 25 is worse than the champion's 10 by 15;")


@pytest.mark.parametrize(
    ("metric", "rule", "said"),
    [
        ("class_accuracy", Rule(), "wanted a bound, a margin or both"),
        ("class_accuracy", Rule(at_most=0.9), "takes no 'at_most': higher is better"),
        ("frechet_distance", Rule(at_least=3), "takes no 'at_least': lower is better"),
        ("class_accuracy", Rule(at_least=90), "'at_least' must be at most 1, the best there is, was 90"),
        ("class_accuracy", Rule(margin=1.0), "'margin' must be below 1, else no difference could ever fail it"),
        ("frechet_distance", Rule(margin=-1), "'margin' must be at least 0, was -1"),
        ("frechet_distance", Rule(at_most=float("nan")), "'at_most' must be a finite number"),
    ],
)
def test_impossible_rules(metric: str, rule: Rule, said: str) -> None:
    (problem,) = rule_problems(metric, rule)
    assert problem.startswith(said)


def test_rules_that_can_be_meant() -> None:
    assert rule_problems("psnr_1", Rule(at_least=-3, margin=0.5)) == []
    assert rule_problems("size", Rule(at_most=1e7)) == []
    assert {metric.better for metric in METRICS.values()} == {"higher", "lower"}
