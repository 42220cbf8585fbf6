"""What control networks see of a row's pictures: edges or depth, drawn where pictures are loaded, and kept in the run.

RUN/maps/SHA256.png      of every map once, whatever rows see it
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from darkroom.models.edges import canny
from darkroom.storage import Store, encode_png

if TYPE_CHECKING:
    from darkroom.models.depth import StoredDepth

FOLDER = "maps"


@dataclass(frozen=True)
class ControlMap:
    """What a network sees. net: what the row calls it; digest: of the network; key: of the map in the run, "" where
    there is no run; sha256: of that file; source_uri, source_sha256: of the picture that it was made of."""

    net: str
    digest: str
    key: str
    sha256: str
    source_uri: str
    source_sha256: str


def drawn(picture: np.ndarray, use: Mapping[str, Any], depth: StoredDepth | None) -> np.ndarray:
    """The map of a picture, both uint8 [H, W, 3], by a row's `preprocess`. ValueError where there is no depth model."""
    if use["preprocess"] == "canny":
        return canny(picture, use["low"], use["high"])
    if use["preprocess"] == "depth":
        from darkroom.models.depth import depth_map  # not at the top: only this way wants torch

        if depth is None:
            raise ValueError("'preprocess' is 'depth', and there is no model of depth: give one with --depth URI")
        return depth_map(depth, picture)
    return picture


def keep(store: Store | None, drawn: np.ndarray) -> tuple[str, str]:
    """Key and SHA-256 of a map's file, which is written where it is not there yet; no key without a store."""
    data = encode_png(drawn)
    sha256 = hashlib.sha256(data).hexdigest()
    if store is None:
        return "", sha256
    key = f"{FOLDER}/{sha256}.png"
    if not store.exists(key):
        store.write(key, data)
    return key, sha256
