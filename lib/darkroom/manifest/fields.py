"""The fields of a manifest row: what a number, a text or a path may be, and what is said of one that is not."""

from __future__ import annotations

import re
import unicodedata
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field
from pydantic_core import PydanticCustomError

MAX_SEED = 2**63 - 1
MOST_PARTS = 64  # views or components of a row
WHOLE_FLOATS = 2**53  # from here on not every whole number is a float
UNREADABLE = (
    ".heic", ".heif", ".svg", ".pdf", ".eps", ".ai", ".psd", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".raf",
    ".mp4", ".mov", ".webm", ".avi", ".mkv", ".npy", ".npz", ".exr", ".hdr",
)  # fmt: skip


def _number(value: Any) -> Any:
    # Pydantic's lax mode takes True for 1 and "7" for 7, its strict mode refuses the 7.0 that Parquet makes of a 7.
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise PydanticCustomError("number_type", "must be a number")
    return value


def _unicode(value: str) -> str:
    # JSON can escape half a surrogate pair, which neither a tokenizer nor Parquet can hold.
    try:
        value.encode()
    except UnicodeEncodeError:
        raise PydanticCustomError("not_unicode", "must be valid Unicode text") from None
    return value


def _printable(value: str) -> str:
    if not value.isprintable() and any(unicodedata.category(character) in ("Cc", "Zl", "Zp") for character in value):
        raise PydanticCustomError("control_character", "must not hold control characters")
    return value


def _exact(value: Any) -> Any:
    if isinstance(value, float) and abs(value) >= WHOLE_FLOATS:
        raise PydanticCustomError(
            "rounded", "must be written as a whole number: as a decimal one it was rounded on its way here"
        )
    return value


def _a_picture(value: str) -> str:
    if "\0" in value:
        raise PydanticCustomError("control_character", "must not hold control characters")
    scheme = re.match(r"([A-Za-z][A-Za-z0-9+.-]*)(://|:[\\/]|:(?=image/))", value)
    if (scheme and (scheme[1] not in ("s3", "file") or scheme[2] != "://")) or value.startswith(("~", "\\\\")):
        raise PydanticCustomError("no_path", "must be a path, file:///path or s3://bucket/key, which workers can read")
    if value.lower().endswith(UNREADABLE):
        kind = value[value.rindex(".") :]
        wanted = "must be a PNG, JPEG, WebP, TIFF, GIF or BMP, as {kind} is not read"
        raise PydanticCustomError("no_picture", wanted, {"kind": kind})
    return value


def not_too_many(value: Any) -> Any:
    # Before they are looked at, one by one.
    if isinstance(value, (list, tuple)) and len(value) > MOST_PARTS:
        raise PydanticCustomError("too_many", "must be at most {most}", {"most": MOST_PARTS})
    return value


def not_empty(value: tuple[Any, ...]) -> tuple[Any, ...]:
    # Field(min_length=1) would also complain of a list whose items were all refused.
    if not value:
        raise PydanticCustomError("no_items", "must not be empty")
    return value


def _in_order(value: tuple[float, float]) -> tuple[float, float]:
    if value[0] > value[1]:
        raise PydanticCustomError("out_of_order", "must not end before it begins")
    return value


_from_number = BeforeValidator(_number)
Text = Annotated[str, AfterValidator(_unicode)]
Id = Annotated[Text, Field(min_length=1, max_length=200), AfterValidator(_printable)]
Prompt = Annotated[Text, Field(max_length=20_000)]
Path = Annotated[Text, Field(min_length=1, max_length=4096)]
Picture = Annotated[Path, AfterValidator(_a_picture)]
Seed = Annotated[int, Field(ge=0, le=MAX_SEED), BeforeValidator(_exact), _from_number]
Label = Annotated[int, Field(ge=0, le=2**31 - 1), _from_number]
Size = Annotated[int, Field(ge=1, le=2**16), _from_number]
Frames = Annotated[int, Field(ge=1, le=10_000), _from_number]
Steps = Annotated[int, Field(ge=1, le=1000), _from_number]
Stride = Annotated[int, Field(ge=1, le=999), _from_number]
Start = Annotated[int, Field(ge=0), _from_number]
Count = Annotated[int, Field(ge=1, le=1000), _from_number]
Fraction = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False), _from_number]
Guidance = Annotated[float, Field(ge=0, le=100, allow_inf_nan=False), _from_number]
Reuse = Annotated[int, Field(ge=1, le=10), _from_number]
Sampler = Literal[
    "ddpm", "ddim", "euler", "euler_ancestral", "dpmpp_2m", "dpmpp_2m_sde", "unipc", "pndm", "heun", "midpoint"
]
Spacing = Literal["leading", "linspace", "trailing"]
Switch = Annotated[bool, Field(strict=True)]
Interval = Annotated[tuple[Fraction, Fraction], AfterValidator(_in_order)]
Timestep = Annotated[int, Field(ge=0, le=999), _from_number]
Level = Annotated[float, Field(ge=0, lt=1000, allow_inf_nan=False), _from_number]
Sigma = Annotated[float, Field(ge=0.1, le=64, allow_inf_nan=False), _from_number]
# How a picture that is not square becomes one; what of a mask is painted, and what a row is whose mask selects nothing.
Fit = Literal["crop", "pad", "stretch"]
ClassId = Annotated[int, Field(ge=0, le=2**31 - 1), _from_number]
ClassIds = Annotated[
    tuple[ClassId, ...],
    BeforeValidator(lambda value: value if isinstance(value, (list, tuple)) else (value,)),
    AfterValidator(not_empty),
]
Verdict = Literal["fail", "flag"]
Preprocess = Literal["none", "canny", "depth"]
Threshold = Annotated[float, Field(ge=0, le=10_000, allow_inf_nan=False), _from_number]
NetScale = Annotated[float, Field(ge=0, le=16, allow_inf_nan=False), _from_number]
AdapterScale = Annotated[float, Field(ge=-16, le=16, allow_inf_nan=False), _from_number]
ClipSkip = Annotated[int, Field(ge=0, le=64), _from_number]
Candidates = Annotated[int, Field(ge=1, le=64), _from_number]


class Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


def plain(value: Any) -> Any:
    """JSON values, whole numbers as ints."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value
