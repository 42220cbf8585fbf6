"""The form of the page Make: what somebody chooses, as a manifest row. What the model cannot do is not offered."""

from __future__ import annotations

import io
from collections.abc import Callable
from inspect import signature
from typing import Any

import numpy as np
import streamlit as st
import torch
from PIL import Image, ImageOps

from darkroom.batch.control_maps import drawn
from darkroom.sampling.components import make_component
from darkroom.sampling.schedules import SAMPLERS
from darkroom.sampling.views import VIEWS, view_of
from darkroom.storage import decode, encode_png, to_uint8
from darkroom.studio.asked_rows import STYLES, styled
from darkroom.studio.components import mask
from darkroom.studio.desk import Desk
from darkroom.studio.text import plain
from darkroom.training.data import load_images, sample_uri

MOST_VARIANTS = 8
LONGEST = 10_000  # characters of a prompt
SHOWN = 160  # pixels a side, of previews
LARGEST = 1024  # pixels a side of a picture that was brought: larger ones are shrunk to it
PICTURES = ["png", "jpg", "jpeg", "webp", "bmp", "gif", "tif", "tiff"]
# Pairs of components that sum to the whole: what the first shows, and the second.
PAIRS: dict[str, tuple[tuple[str, str], tuple[str, str]]] = {
    "from afar, from near": (("low_pass", "from afar"), ("high_pass", "from near")),
    "in grey, in colour": (("grayscale", "in grey"), ("color", "in colour")),
    "in motion, at rest": (("motion", "in motion"), ("motion_residual", "at rest")),
}


def tasks_of(desk: Desk) -> list[str]:
    """Those that the model does, the usual first."""
    able = desk.abilities
    if able.video is not None:
        return ["text_to_video"]
    if able.inpaints:
        return ["inpaint"]
    offered = ["text_to_image", "image_to_image", "inpaint"]
    if not able.latent:
        offered += ["anagram", "hybrid"]
    return offered + (["upscale"] if able.upscale else []) + ["denoise"]


def form(desk: Desk) -> tuple[dict[str, Any] | None, int]:
    """The row as it stands, None while something is missing, and how many seeds of it are wanted."""
    task = st.selectbox("Task", tasks_of(desk), format_func=lambda name: name.replace("_", " "), key="make task")
    row: dict[str, Any] | None = {"task": task}
    parts: dict[str, Callable[[Desk], dict[str, Any] | None]] = {
        "text_to_image": _prompted, "image_to_image": _edited, "inpaint": _inpainted, "anagram": _turned,
        "hybrid": _mixed, "upscale": _upscaled, "denoise": _denoised, "text_to_video": _filmed,
    }  # fmt: skip
    asked = parts[task](desk)
    row = None if asked is None else row | asked
    with st.expander("Settings", key="make settings", icon=":material/tune:"):
        settings, count, style = _settings(desk, task)
    if row is None:
        return None, count
    return styled(row | settings, style), count


def _prompted(desk: Desk) -> dict[str, Any]:
    return _asked(desk, "Prompt", "prompt") | _controlled(desk)


def _filmed(desk: Desk) -> dict[str, Any]:
    video = desk.abilities.video
    assert video is not None, "of models of videos alone"
    frames = int(st.number_input(f"Frames, {video.fps} a second", 1, None, video.frames, video.step, key="make frames"))
    return _asked(desk, "Prompt", "prompt") | {"frames": frames}


def _asked(desk: Desk, label: str, key: str) -> dict[str, Any]:
    """A prompt, or a label where the model takes labels."""
    able = desk.abilities
    if able.conditioning == "none":
        return {}
    if able.conditioning == "label":
        return {"label": int(st.number_input(f"{label}: class", 0, (able.num_classes or 1) - 1, 0, key=f"make {key}"))}
    words = "a red seven" if key == "prompt" else ""
    return {"prompt": st.text_area(label, words, 68, LONGEST, key=f"make {key}")}


def _edited(desk: Desk) -> dict[str, Any] | None:
    picture = _picture("Picture")
    strength = st.slider("Strength: 0 keeps it all, 1 nothing", 0.0, 1.0, 0.6, 0.05, key="make strength")
    asked = _prompted(desk)
    return None if picture is None else {"image": _kept(desk, picture), "strength": strength} | asked


def _inpainted(desk: Desk) -> dict[str, Any] | None:
    picture = _picture("Picture")
    found = None
    if picture is not None:
        way = st.segmented_control("Mask", ["draw", "upload"], default="draw", key="make mask way")
        if way == "draw":
            found = mask(picture, "make mask")
            st.caption("Paint over what is to be made anew.")
        else:
            found = _uploaded("Mask: white is painted", "mask")
    asked = _prompted(desk)
    if picture is None or found is None:
        return None
    return {"image": _kept(desk, picture), "mask": desk.keep_picture(found)} | asked


def _turned(desk: Desk) -> dict[str, Any]:
    usual, names = ["identity", "rotate_180", "flip_vertical", "rotate_90"], list(VIEWS)
    views = []
    for number in range(int(st.number_input("Views", 2, len(usual), 2, key="make views"))):
        with st.container(border=True):
            chosen, shown = st.columns([3, 1], vertical_alignment="center")
            with chosen:
                name = st.selectbox("View", names, names.index(usual[number]), key=f"make view {number}")
                view = {"view": name} | _seeded(name, number)
                views.append(view | _asked(desk, "shows", f"view {number} prompt"))
            with shown:
                _preview(view_of(view).apply)
    return {"views": views}


def _seeded(name: str, number: int) -> dict[str, Any]:
    """What some views are told besides."""
    if "seed" not in signature(VIEWS[name]).parameters:
        return {}
    return {"seed": int(st.number_input("which of them", 0, 9999, 0, key=f"make view {number} seed"))}


def _mixed(desk: Desk) -> dict[str, Any]:
    pair = st.selectbox("Two things in one", list(PAIRS), key="make pair")
    told = {}
    if pair == "from afar, from near":
        told = {"sigma": st.slider("Where they part, pixels at 64", 1.0, 10.0, 5.0, 0.5, key="make sigma")}
    components = []
    for number, (name, label) in enumerate(PAIRS[pair]):
        with st.container(border=True):
            said, shown = st.columns([3, 1], vertical_alignment="center")
            component = {"component": name, **told}
            with said:
                components.append(component | _asked(desk, label, f"component {number} prompt"))
            with shown:
                _preview(make_component(name, **told))
    return {"components": components}


def _upscaled(desk: Desk) -> dict[str, Any] | None:
    picture = _picture("Picture")
    asked = _asked(desk, "Prompt", "prompt")
    return None if picture is None else {"image": _kept(desk, picture), "size": desk.abilities.sizes[-1]} | asked


def _denoised(desk: Desk) -> dict[str, Any] | None:
    picture = _picture("Picture")
    last = desk.abilities.num_timesteps - 1
    asked: dict[str, Any] = {"timestep": st.slider("Noised to timestep", 0, last, last // 2, key="make timestep")}
    asked["method"] = st.selectbox("and then", ["iterative", "one_step", "blur"], key="make method")
    if asked["method"] != "blur":
        asked |= _asked(desk, "Prompt", "prompt")
    return None if picture is None else {"image": _kept(desk, picture)} | asked


def _controlled(desk: Desk) -> dict[str, Any]:
    """Control networks, and what they will see of a picture, shown before anything is made."""
    nets = list(desk.abilities.nets or ())
    name = st.selectbox("Control", ["none", *nets], key="make net") if nets else "none"
    if name == "none":
        return {}
    picture = _picture("Picture that leads", "control")
    ways = ["none", "canny", *(["depth"] if desk.abilities.depth else [])]
    use = {"net": name, "preprocess": st.selectbox("of which it sees", ways, 1, key="make preprocess")}
    use["scale"] = st.slider("Scale", 0.0, 2.0, 1.0, 0.05, key="make net scale")
    if picture is None:
        return {}
    st.image(
        drawn(picture, {"low": 100, "high": 200, **use}, desk.model.depth), "what the network sees", width=2 * SHOWN
    )
    return {"control": [use | {"image": _kept(desk, picture)}]}


def _settings(desk: Desk, task: str) -> tuple[dict[str, Any], int, str]:
    """Settings of the row, the count of seeds, the style."""
    able, row = desk.abilities, dict[str, Any]()
    style = "none"
    if able.conditioning == "text" and task != "upscale":
        style = st.selectbox("Style", list(STYLES), key="make style")
        if negative := st.text_input("Negative prompt", key="make negative"):
            row["negative_prompt"] = negative
    usual = {"guidance": 7.0, "steps": 30} | able.usual
    row["guidance"] = st.slider("Guidance", 0.0, 20.0, float(usual["guidance"]), 0.5, key="make guidance")
    if task != "denoise":
        row["steps"] = int(st.number_input("Steps", 1, able.num_timesteps, usual["steps"], key="make steps"))
    solvers = ["the model's own", *(able.samplers or SAMPLERS[able.process])]
    solver = st.selectbox("Solver", solvers, key="make solver")
    if solver != solvers[0]:
        row["sampler"] = solver
    if task not in ("upscale", "denoise"):
        row |= _size(desk)
    row |= _adapters(desk)
    left, right = st.columns(2)
    row["seed"] = int(left.number_input("Seed", 0, 2**31, 0, key="make seed"))
    count = int(right.number_input("Pictures, a seed each", 1, MOST_VARIANTS, 1, key="make count"))
    return row, count, style


def _size(desk: Desk) -> dict[str, Any]:
    able = desk.abilities
    if able.step:
        sides = {}
        for column, name, usual in zip(st.columns(2), ("width", "height"), desk.model.stages[0].pixels, strict=True):
            most = usual // able.step * able.step * 2
            sides[name] = int(column.number_input(name, able.step, most, usual, able.step, key=f"make {name}"))
        return sides
    sizes = list(able.sizes)
    return {"size": st.selectbox("Size", sizes, sizes.index(able.default_size), key="make size")}


def _adapters(desk: Desk) -> dict[str, Any]:
    uses = []
    for name in desk.abilities.adapters or ():
        scale = st.slider(f"Adapter {plain(name)}: scale", 0.0, 2.0, 0.0, 0.05, key=f"make adapter {name}")
        if scale:
            uses.append({"adapter": name, "scale": scale})
    return {"adapters": uses} if uses else {}


def _picture(label: str, key: str = "picture") -> np.ndarray | None:
    """One that was brought, uint8 [H, W, 3], or one that was made here; None before."""
    data = st.session_state.get(f"make own {key}")
    if data is not None:
        left, right = st.columns([1, 2], vertical_alignment="center")
        left.image(data, width=SHOWN)
        right.button("Another picture", on_click=lambda: st.session_state.pop(f"make own {key}"), key=f"drop {key}")
    else:
        data = _uploaded(label, key)
    return None if data is None else np.asarray(_shrunk(decode(data, "the picture")))


def _uploaded(label: str, key: str) -> bytes | None:
    """The file that was brought; None before, and for what is no picture."""
    given = st.file_uploader(label, PICTURES, key=f"make upload {key}")
    if given is None:
        return None
    try:
        decode(given.getvalue(), given.name)
    except ValueError as error:
        st.error(plain(error, 1000))
        return None
    return given.getvalue()


def _shrunk(picture: np.ndarray) -> Image.Image:
    image = Image.fromarray(picture)
    image.thumbnail((LARGEST, LARGEST), Image.Resampling.LANCZOS)
    return image


def _kept(desk: Desk, picture: np.ndarray) -> str:
    return desk.keep_picture(encode_png(picture))


def _preview(see: Callable[[torch.Tensor], torch.Tensor]) -> None:
    """What a view or a component is of a picture."""
    example = torch.from_numpy(_example().copy()).permute(2, 0, 1)[None].float() / 127.5 - 1
    pixels = to_uint8(see(example)[0].numpy()).transpose(1, 2, 0)
    st.image(Image.fromarray(pixels).resize((SHOWN, SHOWN), Image.Resampling.NEAREST), width=SHOWN // 2)


def _example() -> np.ndarray:
    """The picture that was made last, a square of it, or a digit: uint8 [64, 64, 3]."""
    data = st.session_state.get("make last")
    image = Image.open(io.BytesIO(data)).convert("RGB") if data else Image.fromarray(_digit())
    return np.asarray(ImageOps.fit(image, (64, 64), Image.Resampling.BICUBIC))


@st.cache_data(show_spinner=False)
def _digit() -> np.ndarray:
    images = load_images(sample_uri(), "test")
    return 255 - np.repeat(images.images[list(images.labels).index(5)], 3, axis=2)
