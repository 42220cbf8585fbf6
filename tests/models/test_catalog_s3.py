"""A cascade in a bucket: fetched once per machine, going on where it broke off, and never trusted half."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from conftest import S3Server
from darkroom.models.catalog import address, open_model
from darkroom.models.errors import ModelError
from darkroom.models.node_cache import S3Listing, fetch_from_s3
from darkroom.sampling.prompt_keys import PromptKey, prompt_key
from darkroom.storage import LocalStore, StorageError, open_store
from darkroom.storage.s3 import S3Store
from slow_link import SlowLink

CPU = torch.device("cpu")
BIG = os.urandom(1 << 20)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DARKROOM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("darkroom.models.node_cache._PIECE", 1 << 18)
    return tmp_path / "cache"


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """(key, start) of every piece that is asked of the server."""
    requests: list[tuple[str, int]] = []
    read_range = S3Store.read_range

    def counted(self: S3Store, key: str, start: int, count: int, etag: str) -> bytes:
        requests.append((key, start))
        return read_range(self, key, start, count, etag)

    monkeypatch.setattr(S3Store, "read_range", counted)
    return requests


def upload(folder: str, uri: str) -> None:
    source, target = LocalStore(folder), open_store(uri)
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda name: target.write(name, source.read(name)), source.list()))


def test_a_cascade_in_a_bucket_is_that_of_the_folder(toy_deepfloyd: str, s3_env: str, cache: Path, asked: list) -> None:
    upload(toy_deepfloyd, s3_env)
    local, model = open_model(toy_deepfloyd), open_model(s3_env)
    assert (model.sizes, model.encoders) == (local.sizes, local.encoders)
    assert address(s3_env, model) == model.address
    assert len(model.revision) == 16 and model.memory(1, "bfloat16", 4).weights > 0
    assert not asked and not (cache / "s3").exists()  # to plan, no weight is fetched
    x, prompts, level = torch.randn(1, 3, 8, 8), torch.randn(1, 77, 32), torch.tensor([0])
    made = [one.predictor(1, CPU)(x, torch.tensor([500]), prompts, level) for one in (local, model)]
    assert torch.equal(*made)
    encoded = [one.text_encoder("stage3", CPU).encode(["a red one"]) for one in (local, model)]
    assert torch.equal(*encoded)
    fetched = {path.name for path in (cache / "s3").rglob("*") if path.is_file() and path.suffix != ".lock"}
    assert {"diffusion_pytorch_model.safetensors", "model.safetensors", "vocab.json"} <= fetched
    assert not any("fp16" in name for name in fetched)


def test_its_address_holds_its_revision(toy_deepfloyd: str, s3_env: str, cache: Path) -> None:
    upload(f"{toy_deepfloyd}/stage1", s3_env)
    model = open_model(s3_env)
    assert model.address.startswith(f"{s3_env}@") and open_model(model.address).revision == model.revision
    open_store(s3_env).write("unet/other.json", b"{}")
    with pytest.raises(ModelError, match="has the revision .*, and .* was asked for"):
        open_model(model.address)


def test_many_workers_fetch_a_file_once(s3_env: str, cache: Path, asked: list) -> None:
    open_store(s3_env).write("unet/weights", BIG)
    listing = S3Listing.of(s3_env)
    with ThreadPoolExecutor(6) as threads:
        folders = set(threads.map(lambda _: fetch_from_s3(listing, ["unet/weights"]), range(6)))
    assert len(folders) == 1 and (folders.pop() / "unet/weights").read_bytes() == BIG
    assert sorted(start for _, start in asked) == [0, 1 << 18, 2 << 18, 3 << 18]


def test_a_broken_off_download_goes_on_and_a_wrong_one_begins_again(s3_env: str, cache: Path, asked: list) -> None:
    open_store(s3_env).write("weights", BIG)
    listing = S3Listing.of(s3_env)
    path = fetch_from_s3(listing, []) / "weights"
    part = path.with_name("weights.part")
    path.parent.mkdir(parents=True)
    part.write_bytes(BIG[: 3 << 18])
    assert (fetch_from_s3(listing, ["weights"]) / "weights").read_bytes() == BIG and not part.exists()
    assert [start for _, start in asked] == [3 << 18]
    path.unlink()
    part.write_bytes(bytes(3 << 18))  # as a disk may leave it after a power cut
    assert (fetch_from_s3(listing, ["weights"]) / "weights").read_bytes() == BIG
    assert asked[1] == ("weights", 3 << 18)
    assert sorted(start for _, start in asked[2:]) == [0, 1 << 18, 2 << 18, 3 << 18]


@pytest.fixture
def proxy(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[SlowLink]:
    """The way to the server; what is asked of it passes through here."""
    with SlowLink(s3.port) as link:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", f"http://127.0.0.1:{link.port}")
        yield link


def test_the_ranges_of_a_file_come_at_once_by_one_head(s3_env: str, cache: Path, proxy: SlowLink) -> None:
    open_store(s3_env).write("weights", BIG)
    listing = S3Listing.of(s3_env)
    proxy.requests.clear()
    proxy.wait_for = 4  # the first bodies are let through when that many are asked for: never, if one waits for another
    assert (fetch_from_s3(listing, ["weights"]) / "weights").read_bytes() == BIG
    assert sorted(request.partition(" ")[0] for request in proxy.requests) == ["GET"] * 4 + ["HEAD"]


def test_a_cut_connection_costs_only_its_own_range(s3_env: str, cache: Path, proxy: SlowLink) -> None:
    open_store(s3_env).write("weights", BIG)
    listing = S3Listing.of(s3_env)
    proxy.requests.clear()
    proxy.cut = 1
    assert (fetch_from_s3(listing, ["weights"]) / "weights").read_bytes() == BIG
    assert sorted(request.partition(" ")[0] for request in proxy.requests) == ["GET"] * 5 + ["HEAD"]


def test_what_arrives_is_held_against_the_sums_that_lie_beside_it(s3_env: str, cache: Path) -> None:
    store = open_store(s3_env)
    store.write("stage1/weights", BIG)
    store.write("SHA256SUMS", f"{hashlib.sha256(BIG).hexdigest()}  ./stage1/weights\n".encode())
    right = S3Listing.of(s3_env).within("stage1")
    assert (fetch_from_s3(right, ["weights"]) / "weights").read_bytes() == BIG
    store.write("SHA256SUMS", f"{'0' * 64} *stage1/weights\n".encode())
    wrong = S3Listing.of(s3_env)
    with pytest.raises(StorageError, match="stage1/weights did not arrive as it should: its checksum differs"):
        fetch_from_s3(wrong, ["stage1/weights"])
    assert not list(cache.rglob("weights.part")) and not (fetch_from_s3(wrong, []) / "stage1/weights").exists()


def test_objects_that_change_meanwhile_are_noticed(s3_env: str, cache: Path) -> None:
    store = open_store(s3_env)
    store.write("weights", BIG)
    listing = S3Listing.of(s3_env)
    for other in (BIG[::-1], BIG[:100]):
        store.write("weights", other)
        with pytest.raises(StorageError, match="weights has changed since the run began; start the run again"):
            fetch_from_s3(listing, ["weights"])
    store.delete("weights")
    with pytest.raises(StorageError, match="weights has changed since the run began"):
        fetch_from_s3(listing, ["weights"])
    with pytest.raises(ModelError, match="no model 's3://.*': neither one that is known by name"):
        open_model(s3_env)


def test_stable_diffusion_xl_in_a_bucket_is_that_of_the_folder(toy_sd: str, s3_env: str, cache: Path) -> None:
    upload(f"{toy_sd}/sdxl", s3_env)
    local, model = open_model(f"{toy_sd}/sdxl"), open_model(s3_env)
    assert (model.sizes, model.encoders, model.stages[0].step) == (local.sizes, local.encoders, 4)
    keys = ["a red one", prompt_key("a red one", "a blue two", 1), PromptKey("", nothing=True).write()]
    assert torch.equal(*(one.text_encoder("text_encoder", CPU).encode(keys) for one in (local, model)))
    states = torch.randn(1, 4, 8, 8)
    assert torch.equal(*(one.predictor(1, CPU).latents.decode(states) for one in (local, model)))
