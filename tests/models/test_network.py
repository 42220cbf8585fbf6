"""Networks in model directories: saved and opened anywhere, asked by the engine, sampled from memory."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from darkroom.models.catalog import address, open_model
from darkroom.models.errors import ModelError
from darkroom.models.network import Network, NetworkPredictor, build_network, sample, save_network
from darkroom.sampling import noise
from darkroom.sampling.diffusion import Diffusion
from darkroom.storage import open_store
from toys import network_config, save_toy_network

CPU = torch.device("cpu")
TINY_DDPM = {"architecture": "ddpm-unet", "channels": 1, "size": 8, "width": 8, "multipliers": [1, 2], "blocks": 1}


def ddpm_config(**network: Any) -> dict[str, Any]:
    shape = {**TINY_DDPM, "attention": [4], "num_classes": 3, **network}
    return {**network_config(), "network": shape, "process": Diffusion.linear(clip=1.0).to_config()}


def row(**more: Any) -> dict[str, Any]:
    return {"task": "text_to_image", "negative_prompt": "", "seed": 0, "guidance": 5.0, "steps": 4, **more}


def test_saved_and_opened_it_is_the_same(store_uri: str) -> None:
    torch.manual_seed(0)
    config = network_config(hidden=4)
    network = build_network(config["network"]).eval().to(memory_format=torch.channels_last)
    save_network(open_store(store_uri), network.state_dict(), config, folder="versions/1")
    model = open_model(f"{store_uri}/versions/1")
    assert isinstance(model, Network) and model.config == config
    assert (model.kind, model.name, model.conditioning, model.num_classes) == ("network", "toy-network", "label", 10)
    assert (model.sizes, model.default_size, model.stages[0].channels) == ((28,), 28, 1)
    x, t, label = torch.randn(2, 1, 28, 28), torch.tensor([0.2, 0.9]), torch.tensor([7, 10])
    made = model.predictor(1, CPU)(x, t, label, torch.zeros(2, dtype=torch.int64))
    torch.testing.assert_close(made, network(x, t, label).detach())
    assert not made.requires_grad


def test_the_revision_changes_with_weights_and_process_only(tmp_path: Path) -> None:
    def revision(config: dict[str, Any], seed: int = 0) -> str:
        return open_model(save_toy_network(str(tmp_path), config, seed)).revision

    first = revision(network_config())
    assert first == revision(network_config() | {"metrics": {"loss": 1.0}, "name": "other"})
    assert len({first, revision(network_config(), seed=1), revision(ddpm_config())}) == 3
    clipped_else = ddpm_config() | {"process": Diffusion.linear(clip=2.0).to_config()}
    assert revision(ddpm_config()) != revision(clipped_else)


def test_what_a_condition_key_is_to_a_network(tmp_path: Path) -> None:
    classes = open_model(save_toy_network(str(tmp_path / "classes")))
    flow = open_model(save_toy_network(str(tmp_path / "flow"), network_config(conditioning="time", num_classes=0)))
    told = [model.condition(key) for model, key in ((classes, "label 7"), (classes, ""), (flow, ""))]
    assert [int(value) for value in told] == [7, 10, 0]
    assert {(value.dtype, value.shape) for value in told} == {(torch.int64, ())}
    assert (flow.conditioning, flow.num_classes) == ("none", None)


def test_sample_is_eulers_method_with_guidance(toy_network: str) -> None:
    """v = v_no_class + 5 (v_class - v_no_class) at t = 0, 1/4, 1/2, 3/4, x += v / 4; arXiv 2207.12598, eq. 6."""
    model = open_model(toy_network)
    rows = [row(label=label, seed=seed) for label, seed in ((3, 1), (0, 2), (9, 3))]
    made = sample(model.predictor(1, CPU), model.stages[0], rows, capacity=4)
    network = model.load()
    for picture, asked in zip(made, rows, strict=True):
        x = torch.from_numpy(noise.normal(asked["seed"], 1, noise.START, 0, (1, 28, 28)))[None]
        for step in range(4):
            t = torch.tensor([step / 4])
            none = network(x, t, torch.tensor([10]))
            x = x + (none + 5.0 * (network(x, t, torch.tensor([asked["label"]])) - none)) / 4
        torch.testing.assert_close(picture, x[0], atol=1e-5, rtol=0)


def test_sample_keeps_the_order_of_the_rows(toy_network: str) -> None:
    model = open_model(toy_network)
    predictor, stage = model.predictor(1, CPU), model.stages[0]
    rows = [row(label=1, steps=5), row(label=2, steps=1), row(label=3, steps=3, guidance=1.0)]
    together = sample(predictor, stage, rows, capacity=4)
    alone = [sample(predictor, stage, [asked], capacity=4)[0] for asked in rows]
    assert torch.equal(together, torch.stack(alone))
    assert sample(predictor, stage, []).shape == (0, 1, 28, 28)


def test_sample_makes_smaller_passes_where_memory_ends(toy_network: str) -> None:
    """Of a large network a thousand evaluations, as `evaluate` asks on a GPU, may be more than that holds."""
    (stage,), rows = Network.open(toy_network).stages, [row(label=label, seed=label) for label in range(9)]
    predictor = Network.open(toy_network).predictor(1, CPU)
    wanted, passes, room = sample(predictor, stage, rows, 4), [], 4

    def short(network: Any, inputs: tuple[torch.Tensor, ...]) -> None:
        passes.append(len(inputs[0]))
        if passes[-1] > room:
            raise torch.OutOfMemoryError("CUDA out of memory")

    predictor.network.register_forward_pre_hook(short)
    assert torch.equal(sample(predictor, stage, rows, 16), wanted) and passes[:3] == [16, 8, 4]
    room = 0
    with pytest.raises(torch.OutOfMemoryError):
        sample(predictor, stage, rows, 2)


def test_guidance_of_nothing_is_no_class_and_no_class_is_zeros(toy_network: str) -> None:
    model = open_model(toy_network)
    made = sample(model.predictor(1, CPU), model.stages[0], [row(label=3, guidance=0.0), row(guidance=1.0)], capacity=3)
    torch.testing.assert_close(made[0], made[1])


def test_a_ddpm_network_walks_by_timesteps(tmp_path: Path) -> None:
    model = open_model(save_toy_network(str(tmp_path), ddpm_config()))
    predictor, seen = model.predictor(1, CPU), []
    predictor.network.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[1]))
    made = sample(predictor, model.stages[0], [row(label=2, sampler="ddim", steps=2)], capacity=2)
    assert made.shape == (1, 1, 8, 8) and made.isfinite().all()
    assert [step.tolist() for step in seen] == [[500, 500], [0, 0]] and seen[0].dtype == torch.float32


def test_times_between_timesteps_reach_a_network_as_they_are(tmp_path: Path) -> None:
    """In sixteen bits too, which can count no further than 256."""
    model = open_model(save_toy_network(str(tmp_path), ddpm_config()))
    seen: list[torch.Tensor] = []
    network = model.load().to(torch.bfloat16)
    network.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[1]))
    predictor = NetworkPredictor(network, model.stages[0].process, CPU)
    rows = [row(label=2, sampler="euler", steps=4, guidance=1.0), row(label=2, sampler="unipc", steps=4, guidance=1.0)]
    made = sample(predictor, model.stages[0], rows, capacity=2)
    assert made.isfinite().all()
    assert torch.cat(seen).tolist() == pytest.approx([999, 999, 666, 749, 333, 500, 0, 250])


def test_the_predictor_takes_the_network_over() -> None:
    network = build_network(network_config()["network"]).train()
    NetworkPredictor(network, Diffusion.linear(), CPU)
    assert not network.training and not any(parameter.requires_grad for parameter in network.parameters())
    assert network.head[0][0][0].weight.is_contiguous(memory_format=torch.channels_last)


def test_a_denoiser_generates_nothing_but_can_be_loaded(tmp_path: Path) -> None:
    config = network_config(conditioning="none", num_classes=0) | {"name": "mnist-denoiser", "process": None}
    model = open_model(save_toy_network(str(tmp_path), config))
    with pytest.raises(ModelError, match="'mnist-denoiser' is a denoiser.* cannot generate"):
        model.predictor(1, CPU)
    assert model.revision and model.load()(torch.rand(1, 1, 28, 28)).shape == (1, 1, 28, 28)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (network_config(architecture="course-net"), "unknown architecture 'course-net', did you mean 'course-unet'?"),
        (network_config(heads=3), "not what a course-unet is made from.*'heads'"),
        (network_config(size=30), "must be divisible by 4; got 30"),
        (network_config() | {"process": {"kind": "walk"}}, "unknown kind of process 'walk'"),
        (network_config() | {"process": Diffusion.linear().to_config()}, "a course-unet walks a flow"),
    ],
)
def test_a_configuration_that_cannot_be_used(tmp_path: Path, config: dict[str, Any], message: str) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match=f"config.json of the model 'toy-network' cannot be used: .*{message}"):
        open_model(str(tmp_path)).sizes  # noqa: B018 (asking is what fails)


def test_weights_that_are_gone_damaged_or_of_another_network(tmp_path: Path) -> None:
    model = open_model(save_toy_network(str(tmp_path)))
    weights = tmp_path / "model.safetensors"
    whole = weights.read_bytes()
    for data, message in ((whole[:-1], "is damaged"), (b"", "is damaged"), (None, "has no file")):
        weights.unlink() if data is None else weights.write_bytes(data)
        with pytest.raises(ModelError, match=f"{message}.*" if data is None else f"model.safetensors {message}"):
            open_model(str(tmp_path)).load()
    weights.write_bytes(whole)
    model.config["network"]["hidden"] = 5
    with pytest.raises(ModelError, match="does not fit the network of its config.json"):
        model.load()


def test_what_no_model_is(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"no model .*neither one .* by name \(if-xs, .*\) nor a folder or s3:// uri"):
        open_model(str(tmp_path))
    for content, message in (("{", "is not JSON"), ("[]", "is not a JSON object"), ("{}", "neither a network nor a")):
        (tmp_path / "config.json").write_text(content)
        with pytest.raises(ModelError, match=message):
            open_model(str(tmp_path))
    (tmp_path / "config.json").write_text('{"kind": "network"}')
    with pytest.raises(ModelError, match="wants a 'name' and a 'network'"):
        open_model(str(tmp_path))


def test_an_address_is_the_same_from_everywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    save_toy_network("runs/mnist")
    assert [address(name, open_model(name)) for name in ("if-xs", "runs/mnist")] == ["if-xs", f"{tmp_path}/runs/mnist"]
