"""Prompt embeddings: each distinct prompt is encoded once and kept in the run, looked up by what it depends on.

RUN/embeddings/REVISION/NAME.safetensors    tensors by the digest of their prompt
RUN/embeddings/REVISION/NAME.json           {digest: prompt} of that shard, written last
"""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Iterable

import torch
from safetensors.torch import load, save

from darkroom.storage import NotFound, Store, open_store


class EmbeddingStore:
    """The embeddings of one text encoder in one run; pickles as its address, reads shards as they are needed."""

    def __init__(self, run: str, revision: str) -> None:
        self.run, self.revision = run, revision
        self._shards: dict[str, str] | None = None
        self._tensors: dict[str, torch.Tensor] = {}

    def __getstate__(self) -> dict[str, str]:
        return {"run": self.run, "revision": self.revision}

    def __setstate__(self, state: dict[str, str]) -> None:
        self.__init__(state["run"], state["revision"])

    def missing(self, prompts: Iterable[str]) -> list[str]:
        """Those that have no embedding yet, shortest first."""
        known = self._index()
        return sorted(
            (prompt for prompt in prompts if _digest(prompt) not in known), key=lambda text: (len(text), text)
        )

    def put(self, prompts: list[str], embeddings: torch.Tensor) -> None:
        """Stores [N, length, width] for N prompts."""
        name = secrets.token_hex(8)
        tensors = {_digest(prompt): embedding.clone() for prompt, embedding in zip(prompts, embeddings, strict=True)}
        store = self._store()
        store.write(f"{self._folder}/{name}.safetensors", save(tensors))
        index = {_digest(prompt): prompt for prompt in prompts}
        store.write(f"{self._folder}/{name}.json", json.dumps(index, ensure_ascii=False).encode())

    def get(self, prompt: str) -> torch.Tensor:
        """One prompt's embedding, [length, width]. NotFound if it was never put, which no row is to blame for."""
        digest = _digest(prompt)
        if digest not in self._tensors:
            self._tensors |= load(self._store().read(f"{self._folder}/{self._shard(digest, prompt)}.safetensors"))
        return self._tensors[digest]

    def _shard(self, digest: str, prompt: str) -> str:
        if digest not in self._index():
            self._shards = None  # put since the index was read
        if digest not in self._index():
            raise NotFound(f"no embedding of {prompt!r} in {self._store().uri(self._folder)}")
        return self._index()[digest]

    @property
    def _folder(self) -> str:
        return f"embeddings/{self.revision}"

    def _store(self) -> Store:
        return open_store(self.run)

    def _index(self) -> dict[str, str]:
        """Shard by digest."""
        if self._shards is None:
            store = self._store()
            keys = [key for key in store.list(f"{self._folder}/") if key.endswith(".json")]
            names = {key: key.rpartition("/")[2].removesuffix(".json") for key in keys}
            self._shards = {digest: names[key] for key in keys for digest in json.loads(store.read(key))}
        return self._shards


def _digest(prompt: str) -> str:
    return hashlib.sha256(prompt.encode()).hexdigest()[:32]
