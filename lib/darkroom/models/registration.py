"""A trained model put into a registry by hand, and promoted by hand: no pipeline trained it, and no gate judged it.

The version's record and the history say so: where it was copied from, by whom, why. The next tick of a pipeline of that
name holds its candidate against a champion by hand as against any other.
"""

from __future__ import annotations

from typing import Any

from darkroom import __version__
from darkroom.models.catalog import open_model
from darkroom.models.errors import ModelError
from darkroom.models.network import Network
from darkroom.models.registry import Pointer, RegisteredModel
from darkroom.storage.lease import actor


def add(registry: str, name: str, source: str, reason: str = "") -> int:
    """Copies the model directory at `source`, a path or s3:// uri, into the registry as a new version, whose number it
    returns. It is not live yet.

    ModelError where it is no whole network of our own, or not of the kind that `name` is; StorageError.
    """
    model, network = RegisteredModel(registry, name), _network(source)
    network.load()  # what cannot be opened is no version
    champion = model.champion()
    if champion is not None and champion.version is not None:
        _check_like(f"{name}@{champion.version}", _network(model.folder(champion.version)), source, network)
    number, place = model.claim(), network.address
    record = {"added": {"from": place, "by": actor(), "reason": reason, "revision": network.revision}}
    model.register(number, place, {**record, "code": __version__}, by_hand=True, reason=reason, **{"from": place})
    return number


def promote(registry: str, name: str, number: int, reason: str = "", seen: int | None = None) -> Pointer:
    """Makes that version the champion. seen: the number of the last move that the caller knows of, 0 for none.

    ModelError where it is the champion already, is not there, or another process was faster.
    """
    model = RegisteredModel(registry, name)
    before = model.champion()
    if seen is not None and (before.move if before else 0) != seen:
        raise model.moved_meanwhile()
    if before is not None and before.version == number:
        raise ModelError(f"{name}@{number} is the champion already")
    moved = model.promote(number, before, by_hand=True, reason=reason)
    if moved is None:
        raise model.moved_meanwhile()
    return moved


def _network(source: str) -> Network:
    model = open_model(source)
    if not isinstance(model, Network):
        raise ModelError(
            f"{source} is no network that was trained here: a registry holds model directories of config.json and "
            "model.safetensors, as `darkroom train` writes them"
        )
    return model


def _check_like(live_name: str, live: Network, source: str, given: Network) -> None:
    """Manifests that ask for registry://NAME must go on working, and a gate hold like against like."""
    its, wanted = _kind(given), _kind(live)
    if differ := [what for what in wanted if its.get(what) != wanted[what]]:
        said = ", ".join(f"{what} {its.get(what)} in place of {wanted[what]}" for what in differ)
        raise ModelError(
            f"{source} is another kind of model than the champion {live_name}: {said}; give it another name"
        )


def _kind(network: Network) -> dict[str, Any]:
    """What rows that ask for the model rely on. process: None of a denoiser, which makes no pictures."""
    if network.config.get("process") is None:
        return {"process": None}
    stage = network.stages[0]
    return {
        "process": stage.process.kind, "pixels": stage.size, "channels": stage.channels, "classes": network.num_classes
    }  # fmt: skip
