"""What is measured of a generative network's samples, each measure as the JSON values that evaluation.json holds."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from darkroom.evaluation.distances import frechet_of_features, measured, nearest, precision_and_recall
from darkroom.evaluation.validation import as_tensor, evenly
from darkroom.models.classifier import Classifier
from darkroom.training.data import Images


def feature_distances(
    classifier: Classifier, samples: list[Tensor], train: Images, test: Images
) -> dict[str, dict[str, Any]]:
    """Frechet distance, precision, recall in the classifier's features; and, as a yardstick, those of as many training
    pictures in place of the generated ones. samples: for each seed uint8 [N, C, H, W]."""
    count = min(len(samples[0]), len(test.labels), len(train.labels))
    real, generated = classifier.features(as_tensor(test.images)), list(map(classifier.features, samples))
    some = real[evenly(len(real), count)]
    stand_in = classifier.features(as_tensor(train.images[evenly(len(train.labels), count)]))
    shares = [precision_and_recall(features[:count], some) for features in generated]
    yardstick = precision_and_recall(stand_in, some)
    frechet = {
        **measured([frechet_of_features(features, real) for features in generated]),
        "generated": len(samples[0]),
        "real": len(real),
        "of_training_pictures": frechet_of_features(stand_in, real),
        "training": count,
        "features": real.shape[1],
    }
    both = {
        name: measured([share[place] for share in shares])
        | {"generated": count, "real": count, "of_training_pictures": yardstick[place]}
        for place, name in enumerate(("precision", "recall"))
    }
    return {"frechet_distance": frechet, **both}


def nearest_training_picture(samples: list[Tensor], train: Images, test: Images) -> dict[str, Any]:
    """How far generated pictures (for each seed uint8 [N, C, S, S]) are from the nearest training picture: the first
    seed's, and by seed. Of as many generated pictures as real ones, because the least of more is less."""
    count, training = min(len(samples[0]), len(test.labels)), as_tensor(train.images)
    generated = [nearest(pictures[:count], training) for pictures in samples]
    real = nearest(as_tensor(test.images[evenly(len(test.labels), count)]), training)
    return {
        "mean": generated[0].mean,
        "minimum": generated[0].minimum,
        "mean_by_seed": [found.mean for found in generated],
        "minimum_by_seed": [found.minimum for found in generated],
        "of_test_pictures": {"mean": real.mean, "minimum": real.minimum},
        "pictures": count,
        "training": len(training),
    }
