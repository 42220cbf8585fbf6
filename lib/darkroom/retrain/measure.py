"""Measures a model for the gate: the evaluation of `darkroom evaluate`, and for each seed what that measures once.

Candidate and champion are measured by one version of this module, with the same seeds, on the same data, in one tick.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict
from typing import Any

import torch

from darkroom.evaluation import denoiser
from darkroom.evaluation import sample_measures as measures
from darkroom.evaluation.denoising import psnr_table
from darkroom.evaluation.network import SEEDS, Evaluation, Sampling, evaluate_network
from darkroom.evaluation.validation import validation_loss
from darkroom.models.catalog import open_model
from darkroom.models.network import WEIGHTS, Network
from darkroom.ray_cluster import ClusterError, free
from darkroom.report.evaluation import write_evaluation
from darkroom.retrain.gate_metrics import psnr_name
from darkroom.retrain.schema import Evaluate
from darkroom.storage import StorageError
from darkroom.training.data import load_images

EVALUATOR = 1  # another number for another meaning of any measure
SAID_SECONDS, SILENCE_SECONDS = 60.0, 3600.0  # that a GPU is waited for, as a training's workers are
TRIES = 3
_NO_ERROR = 200.0  # decibels, in place of an infinity


def measure(model: str, data: str, how: Evaluate, out: str) -> dict[str, Any]:
    """Measures the model directory `model` against the data set `data`; the page of the evaluation goes to `out`.

    Returns {"evaluator", "settings", "data", "revision", "page", "metrics": {name: {"mean", "by_seed", "interval"}}}.
    Raises ValueError for samples that are no finite numbers, or a model that does not fit the data.
    """
    network = open_model(model)
    assert isinstance(network, Network), "recipes of networks alone are retrained"
    sampling = Sampling(how.count, how.steps, how.guidance, how.sampler, how.seed)
    evaluation = evaluate_network(network, data, sampling, say=lambda line: None)
    write_evaluation(evaluation, out)
    denoiser = network.config.get("process") is None
    found = _of_denoiser(network, data) if denoiser else _of_generator(network, data, evaluation)
    found["size"] = measures.measured([network.store.size(WEIGHTS)])
    return {
        "evaluator": EVALUATOR,
        "settings": asdict(sampling),
        "data": {split: evaluation.record["data"][split] for split in ("train", "test")},
        "revision": network.revision,
        "page": out,
        "metrics": found,
    }


def measure_where_fast(model: str, data: str, how: Evaluate, out: str, say: Callable[[str], None]) -> dict[str, Any]:
    """`measure`, on a GPU of the joined cluster if it has any, else here: the machine of a scheduler rarely has one.

    Raises what `measure` raises, and ClusterError where no GPU becomes free, or those that are there keep being lost.
    """
    import ray

    if not ray.is_initialized() or not ray.cluster_resources().get("GPU"):
        return measure(model, data, how, out)
    # Not by Ray's own retries: a second try may find no GPU left, and would wait for one without end.
    task = ray.remote(num_gpus=1, max_retries=0)(_measure_in_two)
    for _ in range(TRIES):
        try:
            parts = task.remote(model, data, how, out)
            _await_begin(parts, say)
            return [ray.get(part) for part in parts][-1]
        except ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, (ValueError, StorageError)):
                raise error.cause from None
            raise ClusterError(f"a model could not be measured: {_in_a_line(error.cause or error)}") from error
        except ray.exceptions.RayError as error:
            lost = error
    raise ClusterError(f"the worker that measures a model was lost {TRIES} times: {_in_a_line(lost)}") from lost


def _measure_in_two(model: str, data: str, how: Evaluate, out: str) -> Iterator[dict[str, Any] | None]:
    """Nothing, as soon as it has a GPU; then what it measures."""
    yield None
    yield measure(model, data, how, out)


def _await_begin(parts: Any, say: Callable[[str], None]) -> None:
    """Until the first part is there. ClusterError where there is no GPU for it in all the time it may take."""
    import ray

    if ray.wait([parts], timeout=SAID_SECONDS)[0]:
        return
    say(f"no GPU is free to measure a model, waiting for up to {SILENCE_SECONDS:.0f} s; {free()}")
    if not ray.wait([parts], timeout=SILENCE_SECONDS - SAID_SECONDS)[0]:
        ray.cancel(parts, force=True)
        raise ClusterError(f"no GPU became free to measure a model within {SILENCE_SECONDS:.0f} s; {free()}")


def _in_a_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {(str(error).strip() or 'no reason given').splitlines()[0]}"


def _of_generator(network: Network, data: str, evaluation: Evaluation) -> dict[str, Any]:
    taken = evaluation.record["measures"]
    found = {name: taken[name] for name in ("frechet_distance", "precision", "recall") if name in taken}
    found = {name: measures.measured(value["by_seed"]) for name, value in found.items()}
    if accuracy := taken.get("class_accuracy"):
        found["class_accuracy"] = measures.measured(accuracy["by_seed"])
        found["worst_class_accuracy"] = measures.measured(accuracy["worst_by_seed"])
    train, test = load_images(data, "train"), load_images(data, "test")
    near = [measures.nearest_training_picture(made, train, test) for made in evaluation.made]
    found["nearest_training_picture"] = measures.measured([one["mean"] for one in near])
    found["nearest_training_minimum"] = measures.measured([one["minimum"] for one in near])
    found["seconds_per_sample"] = measures.measured(taken["seconds_per_sample"]["by_seed"])
    found["validation_loss"] = measures.measured(_losses(network, test))
    return found


def _losses(network: Network, test: Any) -> list[float]:
    """The validation loss under the noise of each seed."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    chosen = measures.evenly(len(test.labels), measures.HELD_OUT)
    images = measures.as_tensor(test.images[chosen]).float() / 127.5 - 1
    labels, stage = torch.from_numpy(test.labels[chosen]), network.stages[0]
    asked = network.predictor(1, device).network
    return [
        validation_loss(asked, stage.process, images, labels, seed=seed, times=measures.TIMES) for seed in range(SEEDS)
    ]


def _of_denoiser(network: Network, data: str) -> dict[str, Any]:
    """PSNR by sigma. Noise belongs to a picture's number, so turning the pictures round gives each another."""
    test = load_images(data, "test")
    chosen = measures.evenly(len(test.labels), measures.HELD_OUT)
    clean = measures.as_tensor(test.images[chosen]).float() / 255
    denoise = denoiser.as_function(network, torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    tables = [psnr_table(denoise, clean.roll(seed, 0)) for seed in range(SEEDS)]
    return {
        psnr_name(lines[0][0]): measures.measured([min(after, _NO_ERROR) for _, _, after in lines])
        for lines in zip(*tables, strict=True)
    }
