"""Names and addresses, and the hub: asked at a small server of its own making that speaks its language."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import huggingface_hub
import pytest
import torch

from darkroom.models.catalog import address, open_model
from darkroom.models.cogvideox_wan import PRESETS as COGVIDEOX_WAN
from darkroom.models.deepfloyd import PRESETS
from darkroom.models.errors import ModelError
from darkroom.models.sd3_flux import PRESETS as SD3_FLUX
from darkroom.models.stable_diffusion import PRESETS as STABLE_DIFFUSION
from darkroom.storage import StorageError

COMMIT = "0123456789abcdef0123456789abcdef01234567"
TOKEN = "hf_of_nobody"


class Hub(BaseHTTPRequestHandler):
    """One repository, toy/stage1, and a gated one; a list of what was asked for."""

    root: Path
    asked: list[str]

    def do_GET(self) -> None:  # noqa: N802
        self._answer(body=True)

    def do_HEAD(self) -> None:  # noqa: N802
        self._answer(body=False)

    def _answer(self, body: bool) -> None:
        self.asked.append(f"{self.command} {self.path}")
        path = self.path.partition("?")[0].strip("/")
        if path.startswith("api/models/"):
            repository, kind, revision = path.removeprefix("api/models/").rsplit("/", 2)
            if revision not in (COMMIT, "main"):
                return self._send(404, b"{}", {"X-Error-Code": "RevisionNotFound"}, body)
            names = [p.relative_to(self.root).as_posix() for p in self.root.rglob("*") if p.is_file()]
            names.append("unet/diffusion_pytorch_model.bin")
            if kind == "tree":
                told = [{"type": "file", "path": name, "oid": "0" * 40, "size": 1} for name in names]
                return self._send(200, json.dumps(told).encode(), {"Content-Type": "application/json"}, body)
            told = {"id": repository, "sha": COMMIT, "siblings": [{"rfilename": name} for name in names]}
            return self._send(200, json.dumps(told).encode(), {"Content-Type": "application/json"}, body)
        repository, _, rest = path.partition("/resolve/")
        if repository == "toy/gated" and self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self._send(401, b"", {"X-Error-Code": "GatedRepo"}, body)
        file = self.root / rest.partition("/")[2]
        if not file.is_file():
            return self._send(404, b"", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT}, body)
        data = file.read_bytes()
        facts = {"ETag": f'"{hashlib.sha256(data).hexdigest()}"', "X-Repo-Commit": COMMIT}
        return self._send(200, data, facts, body)

    def _send(self, status: int, data: bytes, headers: dict[str, str], body: bool) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(data))}.items():
            self.send_header(name, value)
        self.end_headers()
        if body:
            self.wfile.write(data)

    def log_message(self, *ignored: object) -> None:
        pass


@pytest.fixture
def hub(toy_deepfloyd: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Hub]]:
    handler = type("Handler", (Hub,), {"root": Path(toy_deepfloyd) / "stage1", "asked": []})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    Thread(target=server.serve_forever, daemon=True).start()
    where = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", where)
    monkeypatch.setattr(
        "huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", where + "/{repo_id}/resolve/{revision}/{filename}"
    )
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)  # as the Makefile has it for all the others
    monkeypatch.delenv("HF_TOKEN", raising=False)
    huggingface_hub.utils.disable_progress_bars()
    yield handler
    server.shutdown()
    server.server_close()


def test_a_repository_of_the_hub_is_pinned_planned_and_only_then_fetched(hub: type[Hub], toy_deepfloyd: str) -> None:
    model = open_model("hf://toy/stage1")
    assert (model.address, model.name, model.sizes) == (f"hf://toy/stage1@{COMMIT}", "stage1", (8,))
    assert address("hf://toy/stage1", model) == open_model(model.address).address == model.address
    assert len(model.revision) == 16 and model.memory(1, "float32", 1).weights
    assert not any(".safetensors" in path for path in hub.asked)
    made = model.predictor(1, torch.device("cpu")).unet.state_dict()
    local = open_model(f"{toy_deepfloyd}/stage1").predictor(1, torch.device("cpu")).unet.state_dict()
    assert all(torch.equal(made[name], local[name]) for name in local)
    weights = {path.partition("?")[0].rpartition("/")[2] for path in hub.asked if "/resolve/" in path}
    assert "diffusion_pytorch_model.safetensors" in weights
    assert not {"diffusion_pytorch_model.bin", "diffusion_pytorch_model.fp16.safetensors"} & weights


def test_a_licence_not_accepted_is_said_before_any_work(hub: type[Hub], monkeypatch: pytest.MonkeyPatch) -> None:
    page = r"https://huggingface.co/toy/gated"
    with pytest.raises(
        ModelError, match=rf"toy/gated is given only to those .* do so at {page}, then set HF_TOKEN"
    ) as e:
        open_model("hf://toy/gated")
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert open_model("hf://toy/gated").sizes == (8,)
    assert TOKEN not in str(e.value) + open_model("hf://toy/gated").address


def test_a_wrong_revision_and_an_unreachable_hub_are_told_apart(
    hub: type[Hub], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(
        ModelError, match="toy/stage1 has no revision v9; see https://huggingface.co/toy/stage1/commits"
    ):
        open_model("hf://toy/stage1@v9")
    known, cpu = open_model("hf://toy/stage1"), torch.device("cpu")
    embedded = known.text_encoder("text_encoder", cpu).encode(["a hat"])
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    again = open_model(known.address)  # what was fetched before is enough
    assert torch.equal(again.text_encoder("text_encoder", cpu).encode(["a hat"]), embedded)
    with pytest.raises(ModelError, match="no file hf://toy/stage1@.*/unet/diffusion_pytorch_model.safetensors, nor an"):
        again.predictor(1, cpu)
    with pytest.raises(StorageError, match="the hub cannot be reached for toy/other, and this machine's cache lacks"):
        open_model("hf://toy/other")
    with pytest.raises(StorageError, match="the hub cannot be reached for DeepFloyd/IF-I-XL-v1.0"):
        open_model("deepfloyd-xl")


def test_a_network_is_held_against_the_revision_it_was_asked_for_by(toy_network: str) -> None:
    found = open_model(toy_network).revision
    assert open_model(f"{toy_network}@{found}").revision == found == open_model(f"{toy_network}@{found[:7]}").revision
    with pytest.raises(ModelError, match=rf"toy-network.* has the revision {found}, and deadbeef was asked for"):
        open_model(f"{toy_network}@deadbeef")


def test_addresses_that_name_nothing() -> None:
    with pytest.raises(ModelError, match="'hf://gpt2' names no repository: wanted hf://owner/name"):
        open_model("hf://gpt2")
    with pytest.raises(
        ModelError,
        match=r"no model 'if-m': neither one .*\(if-xs, sd-xs, deepfloyd-xl, deepfloyd-l, deepfloyd-m, sd15, ",
    ):
        open_model("if-m")


def test_the_presets_are_three_stages_each() -> None:
    for name, size in (("deepfloyd-xl", "XL"), ("deepfloyd-l", "L"), ("deepfloyd-m", "M")):
        first, second, third = (source.partition("@") for source in PRESETS[name])
        assert first[0] == f"hf://DeepFloyd/IF-I-{size}-v1.0"
        assert second[0] == f"hf://DeepFloyd/IF-II-{'M' if size == 'M' else 'L'}-v1.0"
        assert third[0] == "hf://stabilityai/stable-diffusion-x4-upscaler" and len(third[2]) == 40


def test_stable_diffusion_is_pinned_to_the_commit() -> None:
    assert set(STABLE_DIFFUSION) == {"sd15", "sd15-inpaint", "sd2", "sdxl"}
    flux = {"flux-dev", "flux-schnell", "flux-fill", "flux-kontext"}
    assert set(SD3_FLUX) == {"sd3", "sd35", "sd35-large"} | flux
    for (source,) in (STABLE_DIFFUSION | SD3_FLUX).values():
        assert re.fullmatch(r"hf://[\w.-]+/[\w.-]+@[0-9a-f]{40}", source)


def test_videos_by_name_are_resolved_to_a_commit_when_a_run_begins() -> None:
    assert set(COGVIDEOX_WAN) == {"cogvideox-2b", "cogvideox-5b", "wan21-1.3b", "wan21-14b", "wan22-14b"}
    assert all(re.fullmatch(r"hf://[\w.-]+/[\w.-]+", source) for (source,) in COGVIDEOX_WAN.values())
    with pytest.raises(StorageError, match="CogVideoX-2b"):  # offline, as all tests are
        open_model("cogvideox-2b")
