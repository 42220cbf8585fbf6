"""Pictures with captions as an adapter's training sees them: latents and text embeddings, encoded once.

Of each picture there are variants, crops and their mirror images, of which a step takes one at random; of the VAE's
latents mean and deviation are kept, so that they are drawn anew too.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Protocol, TypeVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from darkroom.models.latents import Latents
from darkroom.models.texts import BATCH
from darkroom.phases import duration
from darkroom.sampling.prompt_keys import PromptKey
from darkroom.sampling.stage import CONDITION, NOISE_LEVEL, SIZES, Fields
from darkroom.storage import decode
from darkroom.training.captions import Captioned
from darkroom.training.draws import Draw
from darkroom.training.epochs import SAY_EVERY, Say
from darkroom.training.feeds import Worker, to_device

if TYPE_CHECKING:
    from darkroom.models.cascade import Cascade

NOTHING = PromptKey("", nothing=True).write()  # what a caption that is withheld leaves
_CROPS, _CHOICE = 1, 2  # beside the seed and numbers of pictures or steps, keys of what is drawn on the host
_Item = TypeVar("_Item")


class Settings(Protocol):
    """What is read of the recipe, `darkroom.training.recipes.lora`, which imports this module."""

    seed: int
    batch: int
    resolution: int
    crops: int
    flip: bool
    repeats: int
    drop: float
    prior: int
    prior_weight: float


class Shown(NamedTuple):
    """A picture that is to be learned: uint8 [H, W, 3], the key of its caption, and its number among all, by which its
    crops are drawn."""

    pixels: np.ndarray
    key: str
    number: int


@dataclass(frozen=True, eq=False)
class Examples:
    """N pictures in V variants, on the host. means, deviations: of the VAE's own latents, float32 [N, V, C, h, w];
    sizes: as SDXL is told them, float32 [N, V, 6]; captions: int64 [N], rows of `told`, what a model is told by name,
    [U, ...], the last of them of NOTHING. prior: how many of the pictures, the last, are the base's own."""

    means: Tensor
    deviations: Tensor
    sizes: Tensor
    captions: Tensor
    told: Mapping[str, Tensor]
    prior: int

    @property
    def own(self) -> int:
        """Pictures that are not the base's."""
        return len(self.captions) - self.prior

    def fields(self, names: Sequence[str], rows: Tensor, variants: Tensor, captions: Tensor) -> tuple[Tensor, ...]:
        """What a model is told of some pictures, in the order of these names."""
        found = {name: tensor[captions] for name, tensor in self.told.items()}
        found |= {SIZES: self.sizes[rows, variants], NOISE_LEVEL: torch.zeros(len(rows), dtype=torch.int64)}
        return tuple(found[name] for name in names)


@dataclass(frozen=True, eq=False)
class Learned:
    """A worker's share of one step, on its device: see `Examples`. weights: how much each row counts, float32 [b]."""

    mean: Tensor
    deviation: Tensor
    weights: Tensor
    told: tuple[Tensor, ...]
    draw: Draw

    @property
    def rows(self) -> int:
        return len(self.weights)


class ExamplesFeed:
    """See `feeds.Feed`. An epoch shows every picture `repeats` times; what does not fill a batch is left. The base's
    own are drawn at random for the other half of a batch."""

    def __init__(self, examples: Examples, names: Sequence[str], recipe: Settings, worker: Worker) -> None:
        self.examples, self.recipe, self.batch, self._worker = examples, recipe, recipe.batch, worker
        self._names = tuple(names)
        self._own = recipe.batch - (recipe.batch // 2 if examples.prior else 0)
        self.steps = examples.own * recipe.repeats // self._own

    def epoch(self, number: int) -> Iterator[Learned]:
        generator = np.random.default_rng([self.recipe.seed, number])
        orders = [generator.permutation(self.examples.own) for _ in range(self.recipe.repeats)]
        order = np.concatenate(orders)[: self.steps * self._own].reshape(self.steps, self._own)
        for step in range(self.steps):
            yield self._share(order[step], (self.recipe.seed, number, step))

    def _share(self, own: np.ndarray, key: tuple[int, ...]) -> Learned:
        """All is chosen for the whole batch, by every worker alike."""
        generator, examples, batch = np.random.default_rng([*key, _CHOICE]), self.examples, self.batch
        prior = generator.integers(examples.own, examples.own + max(1, examples.prior), size=batch - len(own))
        rows = torch.from_numpy(np.concatenate([own, prior]).astype(np.int64))
        variants = torch.from_numpy(generator.integers(examples.means.shape[1], size=batch))
        withheld = torch.from_numpy(generator.random(batch) < self.recipe.drop)
        captions = torch.where(withheld, len(examples.told[CONDITION]) - 1, examples.captions[rows])
        share = self._worker.share(batch)
        rows, variants, captions = rows[share], variants[share], captions[share]
        given = (
            examples.means[rows, variants],
            examples.deviations[rows, variants],
            self._weights(len(own))[share],
            *examples.fields(self._names, rows, variants, captions),
        )
        mean, deviation, weights, *told = (to_device(tensor, self._worker.device) for tensor in given)
        draw = Draw(key, batch, share, self._worker.device)
        return Learned(mean, deviation, weights, tuple(told), draw)

    def _weights(self, own: int) -> Tensor:
        """So that a batch's mean is that of its own pictures, and prior_weight times that of the base's."""
        if not self.examples.prior:
            return torch.ones(self.batch)
        prior = self.batch - own
        each = [self.batch / own] * own + [self.recipe.prior_weight * self.batch / prior] * prior
        return torch.tensor(each, dtype=torch.float32)


def counted(items: Iterable[_Item], total: int, what: str, say: Say) -> Iterator[_Item]:
    """The items, of which it is said every few seconds how many are done: `320 of 5,000 pictures encoded`."""
    began = said = time.monotonic()
    for count, item in enumerate(items, 1):
        yield item
        if time.monotonic() - said > SAY_EVERY and count < total:
            said = time.monotonic()
            say(f"{count:,} of {total:,} {what}  {duration((said - began) / count * (total - count))} left")


def encode_texts(model: Cascade, keys: Iterable[str], device: torch.device, say: Say) -> dict[str, Fields]:
    """What the model is told of each key, on the host; the encoder is let go again."""
    asked, name, found = list(dict.fromkeys(keys)), model.encoder_of(1), {}
    encoder = model.text_encoder(name, device, "float32")
    for key in counted(asked, len(asked), "captions encoded", say):
        if len(found) % BATCH == 0:  # what the encoder takes in one pass, so that no pass is of other texts than before
            embeddings = encoder.encode(asked[len(found) : len(found) + BATCH])
        embedding = embeddings[len(found) % BATCH]
        told = model.fields_of(1, embedding.float().clone())  # encoders leave tensors that no gradient may meet
        found[key] = told if isinstance(told, Mapping) else {CONDITION: told}
    return found


def shown(pictures: Iterable[Captioned], trigger: str, only: Collection[int] | None = None) -> Iterator[Shown]:
    """Pictures unpacked, the trigger word before their captions. only: those of these numbers, and no other."""
    for number, picture in enumerate(pictures):
        if only is None or number in only:
            yield Shown(decode(picture.data, picture.name), caption_key(picture.text, trigger), number)


def caption_key(text: str, trigger: str) -> str:
    return PromptKey(f"{trigger} {text}".strip()).write()


def make_examples(
    pictures: Iterable[Shown], prior: int, texts: Mapping[str, Fields], latents: Latents, recipe: Settings
) -> Examples:
    """Encodes every variant of every picture, each alone: no other has a say in its bits. prior: how many of them, the
    last, are the base's own; recipe.resolution: of them; texts: by the keys of captions, NOTHING among them."""
    means, deviations, sizes, keys = [], [], [], []
    for pixels, key, number in pictures:  # no more than one unpacked: they may be photos by the thousand
        variants = list(_variants(pixels, recipe, number))
        moments = [latents.moments(torch.from_numpy(part).permute(2, 0, 1).float() / 127.5 - 1) for part, _ in variants]
        means.append(torch.stack([mean.clone() for mean, _ in moments]))
        deviations.append(torch.stack([deviation.clone() for _, deviation in moments]))
        sizes.append(torch.tensor([size for _, size in variants], dtype=torch.float32))
        keys.append(key)
    order, captions = _numbered(keys)
    told = {name: torch.stack([texts[key][name] for key in order]) for name in texts[NOTHING]}
    return Examples(torch.stack(means), torch.stack(deviations), torch.stack(sizes), captions, told, prior)


def _numbered(keys: Sequence[str]) -> tuple[list[str], Tensor]:
    """Every key once, NOTHING last; and of each key its place there, int64 [N]."""
    order = list(dict.fromkeys([key for key in keys if key != NOTHING])) + [NOTHING]
    places = {key: place for place, key in enumerate(order)}
    return order, torch.tensor([places[key] for key in keys])


def _variants(pixels: np.ndarray, recipe: Settings, number: int) -> Iterator[tuple[np.ndarray, tuple[int, ...]]]:
    """Squares of the recipe's resolution, and six numbers each: height and width of the picture, top and left of the
    square on it when its shorter side has the resolution, height and width of the square."""
    (height, width, _), side = pixels.shape, recipe.resolution
    shorter = min(height, width)
    across, down = max(side, round(width * side / shorter)), max(side, round(height * side / shorter))
    image = Image.fromarray(pixels)
    resized = np.asarray(image if image.size == (across, down) else image.resize((across, down), Image.LANCZOS))
    generator = np.random.default_rng([recipe.seed, _CROPS, number])
    for _ in range(recipe.crops):
        top, left = (down - side) // 2, (across - side) // 2
        if recipe.crops > 1:
            top, left = int(generator.integers(down - side + 1)), int(generator.integers(across - side + 1))
        square = resized[top : top + side, left : left + side]
        yield square.copy(), (height, width, top, left, side, side)
        if recipe.flip:
            yield square[:, ::-1].copy(), (height, width, top, across - left - side, side, side)
