"""From the model's answers to one prediction per row, and from a stepped state to one that keeps its constraint.

    prediction = sum over branches k of   w_k C_k( V_k^-1( u_k + gamma (c_k - u_k) ) )

vectorised over all branches of all rows of a pass: loops run over distinct views and components, never over rows.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from darkroom.sampling import bitwise
from darkroom.sampling.device import numbers, places
from darkroom.sampling.plans import Branch, Constraint
from darkroom.sampling.processes import Process
from darkroom.sampling.solvers import per_sample
from darkroom.sampling.views import View


@dataclass(frozen=True, eq=False)
class Answers:
    """One row's move: its active branches, and the questions asked with the model's answers, [C or 2C, H, W] each.

    added: of each branch the conditional answer less the unconditional one, where the latter is not asked again.
    """

    branches: tuple[Branch, ...]
    questions: tuple[tuple[View, str], ...]
    outputs: list[Tensor]
    guidance: float
    rescale: float = 0.0
    added: tuple[Tensor, ...] = ()


def combine(rows: list[Answers], process: Process) -> tuple[Tensor, Tensor | None]:
    """R rows' answers -> prediction [R, C, H, W] and, with a learned variance, its fraction [R, C, H, W].

    A learned variance is the conditional answer's, goes through its view's rearrangement only, and is averaged over
    the branches.
    """
    flat = [(row, branch, place) for row in rows for place, branch in enumerate(row.branches)]
    owner = [index for index, row in enumerate(rows) for _ in row.branches]
    conditional = torch.stack([_conditional(row, branch) for row, branch, _ in flat])
    unconditional = torch.stack([_unconditional(row, branch, place) for row, branch, place in flat])
    variance = None
    if process.learned_variance:
        conditional, variance = conditional.chunk(2, dim=1)
        unconditional = unconditional.chunk(2, dim=1)[0]
        variance = variance.contiguous()
    device = conditional.device
    gamma = per_sample(numbers([row.guidance for row, _, _ in flat], device), conditional)
    guided = unconditional + gamma * (conditional - unconditional)
    # Where guidance has no say nothing is to be brought back, to the bit.
    calmed = [i for i, (row, _, _) in enumerate(flat) if row.rescale and row.guidance != 1.0]
    if calmed:
        at = places(calmed, device)
        phi = per_sample(numbers([flat[i][0].rescale for i in calmed], device), conditional)
        guided.index_copy_(0, at, rescale(guided[at], conditional[at], phi))
    for view, chosen in group(branch.view for _, branch, _ in flat).items():
        if view.name != "identity":
            at = places(chosen, device)
            guided.index_copy_(0, at, view.undo(guided[at]))
            if variance is not None:
                variance.index_copy_(0, at, view.undo_variance(variance[at]))
    for component, chosen in group(branch.component for _, branch, _ in flat).items():
        if component.name != "whole":
            at = places(chosen, device)
            guided.index_copy_(0, at, component(guided[at]))
    guided = guided * per_sample(numbers([branch.weight for _, branch, _ in flat], device), guided)
    order = [place for _, _, place in flat]
    prediction = _sum_by_owner(guided, owner, order, len(rows))
    if variance is not None:
        share = numbers([1.0 / len(row.branches) for row, _, _ in flat], device)
        variance = _sum_by_owner(variance * per_sample(share, variance), owner, order, len(rows))
    return prediction, variance


def added_by_guidance(row: Answers) -> tuple[Tensor, ...]:
    """Of each branch of a move that asks both, what a later one may add again, [C or 2C, H, W]."""
    pairs = ((_conditional(row, branch), _unconditional(row, branch, 0)) for branch in row.branches)
    return tuple(conditional - unconditional for conditional, unconditional in pairs)


def rescale(guided: Tensor, conditional: Tensor, phi: Tensor) -> Tensor:
    """Guided predictions [N, C, H, W] brought back by a share phi [N, 1, 1, 1] to the deviation of the prompt's own,
    which strong guidance exceeds (arXiv 2305.08891, section 3.4)."""
    factor = bitwise.deviation(conditional) / bitwise.deviation(guided)
    return phi * (guided * factor) + (1 - phi) * guided


def constrain(x: Tensor, constraints: list[Constraint], levels: Tensor, drawn: Tensor) -> Tensor:
    """States [R, C, H, W] with the held parts replaced by their references, noised to where the states stand.

    levels: float32 [R, 2], (a, b) of x_t = a x_0 + b noise at the rows' times (RePaint, arXiv 2201.09865, eq. 8); at
    the clean end that is (1, 0), so the known pixels are the picture's own, exactly. drawn: [R, C, H, W], the noise of
    those that have none of their own.
    """
    reference = torch.stack([constraint.reference for constraint in constraints]).to(x.device)
    drawn = torch.stack(
        [own if held.noise is None else held.noise for held, own in zip(constraints, drawn, strict=True)]
    )
    signal, spread = (per_sample(part, x) for part in levels.unbind(1))
    target = signal * reference + spread * drawn
    result = x.clone()
    for component, chosen in group(constraint.component for constraint in constraints).items():
        at = places(chosen, x.device)
        if component is None:
            paint = torch.stack([constraints[i].mask for i in chosen]).to(x.device)
            result.index_copy_(0, at, torch.where(paint, x[at], target[at]))
        else:
            result.index_copy_(0, at, x[at] + component(target[at] - x[at]))
    return result


def group(items: Iterable[Hashable]) -> dict[Any, list[int]]:
    """Positions by item, in order of first appearance."""
    groups: dict[Any, list[int]] = {}
    for position, item in enumerate(items):
        groups.setdefault(item, []).append(position)
    return groups


def _answer(row: Answers, view: View, prompt: str) -> Tensor:
    return row.outputs[row.questions.index((view, prompt))]


def _conditional(row: Answers, branch: Branch) -> Tensor:
    """At guidance 0 the conditional prediction has no say, and is asked for only where its learned variance has."""
    asked = row.guidance != 0.0 or (branch.view, branch.prompt) in row.questions
    return _answer(row, branch.view, branch.prompt if asked else branch.negative)


def _unconditional(row: Answers, branch: Branch, place: int) -> Tensor:
    """At guidance 1 the unconditional prediction has no say and was not asked for."""
    if row.added:
        return _conditional(row, branch) - row.added[place]
    return _answer(row, branch.view, branch.prompt if row.guidance == 1.0 else branch.negative)


def _sum_by_owner(parts: Tensor, owner: list[int], order: list[int], rows: int) -> Tensor:
    """Sums [N, C, H, W] into [rows, C, H, W], the branches of a row always in the same order.

    One addition per place in the row, each touching a row at most once: `index_add_` over everything at once would
    add in an order that CUDA does not fix, and the picture would differ from run to run.
    """
    total = parts.new_zeros(rows, *parts.shape[1:])
    for place in range(max(order) + 1):
        chosen = [i for i, at in enumerate(order) if at == place]
        owners = places([owner[i] for i in chosen], parts.device)
        total.index_copy_(0, owners, total[owners] + parts[places(chosen, parts.device)])
    return total
