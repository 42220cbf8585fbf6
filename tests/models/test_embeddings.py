from __future__ import annotations

import pickle

import pytest
import torch

from darkroom.models import embeddings as embeddings_module
from darkroom.models.embeddings import EmbeddingStore
from darkroom.storage import NotFound, StorageError, open_store


def test_what_is_put_comes_back(store_uri: str) -> None:
    store = EmbeddingStore(store_uri, "rev")
    embeddings = torch.arange(24, dtype=torch.float32).reshape(2, 3, 4)
    store.put(["a red one", "größer – 東京"], embeddings)
    fresh = EmbeddingStore(store_uri, "rev")
    assert torch.equal(fresh.get("größer – 東京"), embeddings[1])
    assert torch.equal(fresh.get("a red one"), embeddings[0])


def test_missing_names_what_has_no_embedding_shortest_first(tmp_path) -> None:
    store = EmbeddingStore(str(tmp_path), "rev")
    assert store.missing(["three", "", "one", "one", "two"]) == ["", "one", "two", "three"]
    store.put(["one"], torch.zeros(1, 3, 4))
    assert EmbeddingStore(str(tmp_path), "rev").missing(["three", "one"]) == ["three"]
    assert EmbeddingStore(str(tmp_path), "another model").missing(["one"]) == ["one"]


def test_it_pickles_as_its_address(tmp_path) -> None:
    store = EmbeddingStore(str(tmp_path), "rev")
    store.put(["one"], torch.ones(1, 1000, 100))
    store.get("one")
    pickled = pickle.dumps(store)
    assert len(pickled) < 1000
    assert torch.equal(pickle.loads(pickled).get("one"), torch.ones(1000, 100))


def test_a_shard_whose_index_was_not_written_does_not_count(tmp_path) -> None:
    store = EmbeddingStore(str(tmp_path), "rev")
    store.put(["one"], torch.zeros(1, 3, 4))
    files = open_store(str(tmp_path))
    files.delete(*(key for key in files.list() if key.endswith(".json")))
    assert EmbeddingStore(str(tmp_path), "rev").missing(["one"]) == ["one"]


def test_one_embedding_for_one_prompt(tmp_path) -> None:
    with pytest.raises(ValueError, match="shorter"):
        EmbeddingStore(str(tmp_path), "rev").put(["one", "two"], torch.zeros(1, 3, 4))


def test_one_put_later_is_found_and_one_never_put_is_named(tmp_path) -> None:
    reader, writer = EmbeddingStore(str(tmp_path), "rev"), EmbeddingStore(str(tmp_path), "rev")
    with pytest.raises(NotFound, match="no embedding of 'one'"):
        reader.get("one")
    writer.put(["one"], torch.ones(1, 3, 4))
    assert torch.equal(reader.get("one"), torch.ones(3, 4))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_it_is_kept_in_its_dtype_and_read_as_float32(tmp_path, dtype: torch.dtype) -> None:
    embeddings = torch.randn(2, 3, 4).to(dtype)
    EmbeddingStore(str(tmp_path), "rev").put(["one", "two"], embeddings)
    (shard,) = tmp_path.rglob("*.safetensors")
    assert shard.stat().st_size < 2 * 3 * 4 * 2 + 400
    found = EmbeddingStore(str(tmp_path), "rev").get("two")
    assert found.dtype == torch.float32 and torch.equal(found, embeddings[1].float())


def test_only_so_many_are_kept_and_a_kept_one_is_the_same_object(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embeddings_module, "CACHE_BYTES", 3 * 48)
    store = EmbeddingStore(str(tmp_path), "rev")
    store.put([str(n) for n in range(10)], torch.arange(120.0).reshape(10, 3, 4))
    first = store.get("0")
    for n in (1, 2, 0, 3):
        store.get(str(n))
    assert store.get("0") is first, "used lately"
    assert all(float(store.get(str(n))[0, 0]) == 12 * n for n in range(10))
    assert store._tensors.currsize == sum(t.nbytes for t in store._tensors.values()) == 3 * 48


def test_a_damaged_shard_is_named(tmp_path) -> None:
    EmbeddingStore(str(tmp_path), "rev").put(["one"], torch.ones(1, 3, 4))
    (shard,) = tmp_path.rglob("*.safetensors")
    whole = shard.read_bytes()
    for damaged in (whole[:-10], b"\xff" * 40):
        shard.write_bytes(damaged)
        with pytest.raises(StorageError, match=f"{shard} is damaged"):
            EmbeddingStore(str(tmp_path), "rev").get("one")
