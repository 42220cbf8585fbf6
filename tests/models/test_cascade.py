"""DeepFloyd IF and the x4 upscaler, from the hub's layout, answer as diffusers' own pipelines do."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from diffusers import DDIMScheduler, IFPipeline, StableDiffusionUpscalePipeline, UNet2DConditionModel

from darkroom.models.catalog import open_model
from darkroom.models.errors import ModelError
from darkroom.models.stages import process_from_scheduler
from darkroom.sampling.diffusion import Diffusion

CPU = torch.device("cpu")
PLAIN = {"low_cpu_mem_usage": False, "local_files_only": True, "torch_dtype": torch.float32}


@pytest.fixture(scope="module")
def toy(toy_deepfloyd: str):
    return open_model(toy_deepfloyd)


@pytest.fixture
def copy(toy_deepfloyd: str, tmp_path: Path) -> Path:
    return Path(shutil.copytree(toy_deepfloyd, tmp_path / "copy"))


def edit(path: Path, **more: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | more))


def test_a_stage_is_what_its_files_say_with_the_pipelines_defaults(toy) -> None:
    one, two, three = toy.stages
    assert [(s.number, s.size, s.channels, s.factor) for s in toy.stages] == [
        (1, 8, 3, 1),
        (2, 16, 3, 1),
        (3, 64, 4, 4),
    ]
    assert (one.steps, one.guidance, one.noise_level) == (None, None, None)
    assert (two.steps, two.guidance, two.noise_level) == (50, 4.0, 250)
    assert (three.steps, three.guidance, three.noise_level, three.sampler) == (75, 9.0, 20, "ddim")
    assert (one.process.threshold, two.process.threshold) == ((0.95, 1.5), (0.95, 1.0))
    assert (three.process.prediction, three.process.clip, three.noising.schedule["schedule"]) == (
        "v",
        None,
        "scaled_linear",
    )
    assert two.noising is None  # its own process noises alike
    assert (toy.sizes, toy.default_size, toy.default_dtype, toy.conditioning) == ((8, 16, 64), 8, "bfloat16", "text")
    assert toy.encoders == ("text_encoder", "stage3")
    assert [toy.encoder_of(number) for number in (1, 2, 3)] == ["text_encoder", "text_encoder", "stage3"]


def test_a_list_of_sources_is_the_same_cascade(toy, toy_deepfloyd: str) -> None:
    listed = open_model(",".join(f"{toy_deepfloyd}/stage{number}" for number in (1, 2, 3)))
    assert (listed.sizes, listed.revision, listed.address) == (toy.sizes, toy.revision, toy.address)
    assert open_model(toy.address).sizes == toy.sizes
    alone = open_model(f"{toy_deepfloyd}/stage1")
    assert (alone.sizes, alone.encoders, alone.name) == ((8,), ("text_encoder",), "stage1")


@pytest.mark.parametrize("number", [1, 2])
def test_a_unet_answers_as_diffusers_reads_it(toy, toy_deepfloyd: str, number: int) -> None:
    theirs = UNet2DConditionModel.from_pretrained(f"{toy_deepfloyd}/stage{number}/unet", **PLAIN).eval()
    size = toy.stages[number - 1].size
    x, prompts = torch.randn(2, 3 * number, size, size), torch.randn(2, 77, 32)
    times, levels = torch.tensor([990, 30]), torch.tensor([250, 20])
    more = {"class_labels": levels} if number == 2 else {}
    with torch.inference_mode():
        made = toy.predictor(number, CPU)(x, times, prompts, levels)
        wanted = theirs(x, times, encoder_hidden_states=prompts, **more).sample
        half = toy.predictor(number, CPU, "bfloat16")(x, times, prompts, levels)
    torch.testing.assert_close(made, wanted, rtol=0, atol=1e-5)
    assert half.dtype == torch.float32 and 0 < (half - wanted).abs().max() < 0.1 * wanted.abs().max()


def test_prompts_are_embedded_as_if_embeds_them(toy, toy_deepfloyd: str) -> None:
    pipeline = IFPipeline.from_pretrained(f"{toy_deepfloyd}/stage1", safety_checker=None, **PLAIN)
    prompts = ["  An oil painting of an OLD man ", "", "a photo " * 60]
    wanted, _ = pipeline.encode_prompt(prompts, do_classifier_free_guidance=False)
    encoder = toy.text_encoder("text_encoder", CPU)
    made = encoder.encode(prompts)
    assert made.shape == (3, 77, 32)
    torch.testing.assert_close(made, wanted, rtol=0, atol=1e-5)
    assert torch.equal(encoder.encode(prompts[:1]), made[:1])  # whatever it was batched with
    assert toy.text_encoder("text_encoder", CPU, "bfloat16").encode(prompts[:1]).dtype == torch.bfloat16
    words = pipeline.tokenizer([prompt.lower().strip() for prompt in prompts]).input_ids
    assert toy.encoder_tokens("text_encoder", prompts) == [len(ids) for ids in words]
    assert words[1] == [1] and len(words[2]) > toy.encoder_length("text_encoder") == 77


def test_the_tokenizer_reads_its_pieces_as_sentencepiece_does(toy, toy_deepfloyd: str) -> None:
    from sentencepiece import SentencePieceProcessor

    pieces = SentencePieceProcessor(model_file=f"{toy_deepfloyd}/stage1/tokenizer/spiece.model")
    for prompt in ("an oil painting of people around a campfire", "waterfalls,  a  hat"):
        assert toy.encodings["text_encoder"].tokenizer(prompt).input_ids == [*pieces.encode(prompt), pieces.eos_id()]


def test_the_upscaler_asks_and_decodes_as_its_pipeline_does(toy, toy_deepfloyd: str) -> None:
    """One step of the pipeline, seen from within: what its UNet is asked and answers, and what its VAE decodes."""
    pipeline = StableDiffusionUpscalePipeline.from_pretrained(f"{toy_deepfloyd}/stage3", **PLAIN)
    pipeline.set_progress_bar_config(disable=True)
    asked: list[tuple] = []
    pipeline.unet.register_forward_hook(
        lambda module, args, kwargs, out: asked.append((*args, kwargs, out[0])), with_kwargs=True
    )
    seed, low_res, latents = torch.Generator().manual_seed(0), torch.rand(1, 3, 16, 16), torch.randn(1, 4, 16, 16)
    how = {"num_inference_steps": 1, "generator": seed, "latents": latents}
    final = pipeline("a red one", low_res, output_type="latent", **how).images
    x, t, kwargs, wanted = asked[0]
    embedded = toy.text_encoder("stage3", CPU).encode(["", "a red one"])
    torch.testing.assert_close(embedded, kwargs["encoder_hidden_states"], rtol=0, atol=1e-5)
    predictor = toy.predictor(3, CPU)
    with torch.inference_mode():
        made = predictor(x, t.expand(2), embedded, kwargs["class_labels"])
    torch.testing.assert_close(made, wanted, rtol=0, atol=1e-5)
    with torch.inference_mode():
        pictures = pipeline.vae.decode(final / pipeline.vae.config.scaling_factor).sample
    torch.testing.assert_close(predictor.latents.decode(final), pictures, rtol=0, atol=1e-5)
    assert pictures.shape == (1, 3, 64, 64)


def test_scaled_linear_betas_are_diffusers() -> None:
    scheduler = DDIMScheduler(beta_schedule="scaled_linear", beta_start=0.0001, beta_end=0.02, clip_sample=False)
    process = process_from_scheduler(dict(scheduler.config))
    torch.testing.assert_close(process.alphas_cumprod.float(), scheduler.alphas_cumprod, rtol=1e-5, atol=1e-7)
    again = Diffusion.from_config(process.to_config())
    assert torch.equal(again.alphas_cumprod, process.alphas_cumprod)


def test_the_revision_and_the_encoders_key_follow_what_has_a_say(toy, copy: Path) -> None:
    assert (open_model(str(copy)).revision, open_model(str(copy)).name) == (toy.revision, "copy")
    (copy / "stage1/README.md").write_text("words have no say")
    assert open_model(str(copy)).revision == toy.revision
    key = open_model(str(copy)).encoder_key("text_encoder", "float32")
    assert key == toy.encoder_key("text_encoder", "float32") != toy.encoder_key("text_encoder", "bfloat16")
    edit(copy / "stage2/scheduler/scheduler_config.json", sample_max_value=1.25)
    changed = open_model(str(copy))
    assert changed.revision != toy.revision and changed.encoder_key("text_encoder", "float32") == key
    edit(copy / "stage1/tokenizer/tokenizer_config.json", note="other")
    assert open_model(str(copy)).encoder_key("text_encoder", "float32") != key


def test_the_embedded_cascade_is_what_it_was() -> None:
    """Rows of every run so far hold this revision; the second number is of a weight as diffusers loaded it."""
    model = open_model("if-xs")
    assert (model.revision, model.default_dtype, model.encoders) == ("83bdef07e2318f39", "float32", ("text_encoder",))
    assert [stage.guidance_interval for stage in model.stages] == [(0.0, 0.8), (0.0, 1.0)]
    assert (model.encoder_length("text_encoder"), model.stages[1].start, model.stages[1].noising) == (12, 9, None)
    old = UNet2DConditionModel.from_pretrained(model.root.root / "stage1/unet", **PLAIN).state_dict()
    new = model.predictor(1, CPU).unet.state_dict()
    assert old.keys() == new.keys() and all(torch.equal(old[name], new[name]) for name in old)
    assert torch.equal(
        model.text_encoder(CPU).encode(["a red two"]), model.text_encoder("text_encoder", CPU).encode(["a red two"])
    )


def test_a_revision_that_does_not_match_is_named(toy, copy: Path) -> None:
    right = open_model(f"{copy}/stage1").sources[0].digest([""])
    assert open_model(f"{copy}/stage1@{right[:12]},{copy}/stage2").sizes == (8, 16)
    with pytest.raises(ModelError, match=rf"copy/stage1 has the revision {right[:16]}, and 0123456789 was asked for"):
        open_model(f"{copy}/stage1@0123456789,{copy}/stage2")


def test_folders_that_are_no_cascade_are_told_apart(copy: Path) -> None:
    with pytest.raises(ModelError, match="stage 1 must paint from noise, and the one in .*/stage2 enlarges"):
        open_model(f"{copy}/stage2,{copy}/stage1")
    with pytest.raises(ModelError, match="stage 2 must enlarge a picture, and the one in .*/stage1 paints from noise"):
        open_model(f"{copy}/stage1,{copy}/stage1")
    with pytest.raises(ModelError, match="the model in .*/stage1/scheduler has no folder 'unet'"):
        open_model(f"{copy}/stage1/scheduler,{copy}/stage2")
    edit(copy / "stage2/scheduler/scheduler_config.json", beta_schedule="sigmoid")
    with pytest.raises(ModelError, match="stage2/scheduler/scheduler_config.json: beta_schedule 'sigmoid' is not one"):
        open_model(str(copy))
    (copy / "stage2/scheduler/scheduler_config.json").unlink()
    with pytest.raises(ModelError, match="the model has no file .*stage2/scheduler/scheduler_config.json"):
        open_model(str(copy))
    shutil.rmtree(copy / "stage1/text_encoder")
    with pytest.raises(ModelError, match="none of .*/stage1 has a text_encoder folder"):
        open_model(f"{copy}/stage1")
    (copy / "stage1/unet/config.json").write_text("{}")
    with pytest.raises(ModelError, match="stage1/unet/config.json is no UNet's"):
        open_model(f"{copy}/stage1")


def test_a_dtype_that_the_device_lacks_is_refused(toy) -> None:
    for make in (lambda: toy.predictor(1, CPU, "float16"), lambda: toy.text_encoder("text_encoder", CPU, "float16")):
        with pytest.raises(ModelError, match="float16 was asked for on a processor, which lacks it: use float32"):
            make()
    with pytest.raises(ModelError, match=r"dtype 'int4' is not one we know \(float32, bfloat16, float16, fp8, int8\)"):
        toy.predictor(1, CPU, "int4")
