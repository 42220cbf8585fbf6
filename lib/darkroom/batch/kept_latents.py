"""The last latents of videos, kept in the run while they are decoded: sampling takes minutes or hours, and where
decoding fails, or its worker is lost, the next try begins with them.

RUN/latents/KEY.safetensors    by the row's key; gone when the video is there
"""

from __future__ import annotations

from contextlib import suppress

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from darkroom.runs import latents_key
from darkroom.storage import NotFound, StorageError, Store


def keep_latents(store: Store, row_key: str, latents: Tensor) -> None:
    """latents: float32 [C, F, h, w] on the host. What cannot be kept is a net less, and no row's failure; what is no
    number would only fail again."""
    if not latents.isfinite().all():
        return
    with suppress(StorageError):
        store.write(latents_key(row_key), save({"latents": latents.contiguous()}))


def kept_latents(store: Store, row_key: str) -> Tensor | None:
    """What was kept; None where nothing was, or not all of it, or by a version that kept what is no number."""
    with suppress(NotFound, SafetensorError, KeyError):
        latents = load(store.read(latents_key(row_key)))["latents"]
        return latents if latents.isfinite().all() else None
    return None
