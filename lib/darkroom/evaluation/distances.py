"""How far two sets of pictures are from each other: as distributions, as manifolds, picture by picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from darkroom.models.classifier import Classifier, mnist_classifier

NEIGHBOURS = 3
RESAMPLES = 2000
_CHUNK, _TRAINING_CHUNK = 500, 5000


@dataclass(frozen=True)
class Nearest:
    """L2 distances of pictures to the nearest of another set, pixels in 0..1: over all pictures the mean, the least."""

    mean: float
    minimum: float
    distances: Tensor


def frechet_distance(generated: Tensor, real: Tensor, classifier: Classifier | None = None) -> float:
    """Between two sets of pictures, float [N, C, H, W] in 0..1 (clamped), in the classifier's features: by default that
    of MNIST's digits."""
    features = (classifier or mnist_classifier()).features
    return frechet_of_features(features(generated.float().clamp(0, 1)), features(real.float().clamp(0, 1)))


def frechet_of_features(generated: Tensor, real: Tensor) -> float:
    """|m1 - m2|^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2)) of two sets of features [N, D] (arXiv 1706.08500).

    Biased: the fewer the features, the larger, even for two sets of one distribution (arXiv 1911.07023). Say how many.
    ValueError for fewer than two features, or some that are not finite.
    """
    for name, found in (("generated", generated), ("real", real)):
        if len(found) < 2 or not bool(found.isfinite().all()):
            raise ValueError(f"a Frechet distance wants two or more finite features; the {name} are {len(found)}")
    from torchmetrics.image.fid import FrechetInceptionDistance  # costs seconds, and every report imports this module

    metric = FrechetInceptionDistance(feature=_AsGiven(real.shape[1]), normalize=True)
    metric.update(real, real=True)
    metric.update(generated, real=False)
    # Not below zero: where both sets lie in a plane, as those of few pictures do, rounding takes it there.
    return max(0.0, metric.compute().item())


def precision_and_recall(generated: Tensor, real: Tensor, neighbours: int = NEIGHBOURS) -> tuple[float, float]:
    """Precision: the share of generated features [N, D] on the manifold of the real ones; recall: the other way round.

    A set's manifold is the union of balls around its features, each out to its k-th neighbour (arXiv 1904.06991).
    Both depend on how many features there are: compare sets of one size. ValueError for fewer than k + 1.
    """
    if min(len(generated), len(real)) <= neighbours:
        raise ValueError(
            f"precision and recall by {neighbours} neighbours want more than {neighbours} pictures of either kind; "
            f"got {len(generated)} and {len(real)}"
        )
    generated, real = generated.double(), real.double()
    return _share_on_manifold(generated, real, neighbours), _share_on_manifold(real, generated, neighbours)


def nearest(pictures: Tensor, others: Tensor) -> Nearest:
    """pictures [N, ...] and others [M, ...] of the same shape, float or uint8 (then taken as 0..255)."""
    found = torch.cat([_nearest_of(_flat(part), others) for part in pictures.split(_CHUNK)])
    return Nearest(found.mean().item(), found.min().item(), found)


def bootstrap_interval(values: Sequence[float], level: float = 0.95, seed: int = 0) -> tuple[float, float]:
    """The interval in which the mean of as many draws with replacement falls with probability `level`.

    Of three values it is their range: all three draws are the least of them in 1 of 27 cases, more than 2.5 %.
    """
    drawn = np.random.default_rng(seed).choice(np.asarray(values, np.float64), (RESAMPLES, len(values)))
    low, high = np.quantile(drawn.mean(axis=1), [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def measured(values: Sequence[float]) -> dict[str, Any]:
    """A value for each seed, their mean, and the interval of that."""
    return {"mean": float(np.mean(values)), "interval": list(bootstrap_interval(values)), "by_seed": list(values)}


class _AsGiven(nn.Module):
    """Stands where torchmetrics expects the network: the features are known already, and wanted more than once.

    Doubles, because the distance comes back in the features' own type, and is a small difference of large numbers.
    """

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.num_features = num_features

    def forward(self, found: Tensor) -> Tensor:
        return found.double()


def _share_on_manifold(points: Tensor, manifold: Tensor, neighbours: int) -> float:
    """Distances without a matrix product, whose rounding would tell a point from its own copy."""
    exact = "donot_use_mm_for_euclid_dist"
    count = neighbours + 1  # the first neighbour of each is itself
    between = (torch.cdist(part, manifold, compute_mode=exact) for part in manifold.split(_CHUNK))
    radii = torch.cat([distance.kthvalue(count).values for distance in between])
    inside = [(torch.cdist(part, manifold, compute_mode=exact) <= radii).any(dim=1) for part in points.split(_CHUNK)]
    return torch.cat(inside).double().mean().item()


def _nearest_of(pictures: Tensor, others: Tensor) -> Tensor:
    """[N, P] -> the distance of each to the nearest of the others, [N].

    Found by a matrix product, 20 times as fast, and measured anew without, because its rounding makes a copy of a
    picture look 0.01 away from it.
    """
    least = torch.full((len(pictures),), torch.inf)
    which = torch.zeros(len(pictures), dtype=torch.long)
    for start in range(0, len(others), _TRAINING_CHUNK):
        distance, place = torch.cdist(pictures, _flat(others[start : start + _TRAINING_CHUNK])).min(dim=1)
        closer = distance < least
        least, which = torch.where(closer, distance, least), torch.where(closer, place + start, which)
    return (pictures - _flat(others[which])).norm(dim=1)


def _flat(pictures: Tensor) -> Tensor:
    values = pictures.flatten(1).float()
    return values / 255 if pictures.dtype == torch.uint8 else values
