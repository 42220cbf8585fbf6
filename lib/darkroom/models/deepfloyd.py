"""DeepFloyd IF by name: its repositories, and the commits that are meant."""

from __future__ import annotations

_I_XL = "hf://DeepFloyd/IF-I-XL-v1.0@c03d510e9b75bce9f9db5bb85148c1402ad7e694"
_II_L = "hf://DeepFloyd/IF-II-L-v1.0@609476ce702b2d94aff7d1f944dcc54d4f972901"
_X4 = "hf://stabilityai/stable-diffusion-x4-upscaler@572c99286543a273bfd17fac263db5a77be12c4c"

# A source per stage. Where no commit is written, main is resolved once, when a run starts; the run's record and the
# address that its workers open hold the commit.
PRESETS: dict[str, tuple[str, ...]] = {
    "deepfloyd-xl": (_I_XL, _II_L, _X4),
    "deepfloyd-l": ("hf://DeepFloyd/IF-I-L-v1.0", _II_L, _X4),
    "deepfloyd-m": ("hf://DeepFloyd/IF-I-M-v1.0", "hf://DeepFloyd/IF-II-M-v1.0", _X4),
}
