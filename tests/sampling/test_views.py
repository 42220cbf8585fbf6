from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from darkroom.sampling.permutations import ORDERS, _owners, jigsaw
from darkroom.sampling.views import VIEWS, View, _large_orders, _orders, make_view

SIZES, CHANNELS = (24, 48, 64, 65), (1, 3, 6)
RANDOM = ("patch_permute", "pixel_permute", "jigsaw")
MORE = [
    make_view("skew", factor=-0.7),
    make_view("patch_permute", seed=5, pieces=3),
    make_view("pixel_permute", seed=2, pieces=24),
    make_view("jigsaw", seed=4522),
    make_view("inner_circle", diameter=1.0, degrees=90),
    make_view("inner_circle", diameter=0.5, degrees=270),
    make_view("square_hinge", pieces=5),
]
EVERY = [make_view(name) for name in VIEWS] + MORE


def numbered(size: int, channels: int = 1, batch: int = 1) -> Tensor:
    """Every pixel a number of its own."""
    return torch.arange(batch * channels * size * size, dtype=torch.float32).view(batch, channels, size, size) + 1


def noise(size: int, channels: int = 3, batch: int = 2) -> Tensor:
    return torch.randn(batch, channels, size, size, generator=torch.Generator().manual_seed(size))


def test_every_view_of_the_manifest_is_there() -> None:
    asked = """identity flip_horizontal flip_vertical rotate_90 rotate_180 rotate_270 negate skew patch_permute
    pixel_permute jigsaw inner_circle square_hinge"""
    assert set(VIEWS) == set(asked.split())


@pytest.mark.parametrize("view", EVERY, ids=str)
@pytest.mark.parametrize("channels", CHANNELS)
@pytest.mark.parametrize("size", SIZES)
def test_undone_is_the_same_to_the_bit(view: View, size: int, channels: int) -> None:
    x = noise(size, channels)
    kept = x.clone()
    assert torch.equal(view.undo(view.apply(x)), x)
    assert torch.equal(view.apply(view.undo(x)), x)
    assert torch.equal(view.undo_variance(view.apply(x)).abs(), x.abs())
    assert torch.equal(x, kept)


@pytest.mark.parametrize("view", EVERY, ids=str)
@pytest.mark.parametrize("size", SIZES)
def test_only_moves_pixels_the_same_in_all_channels_and_samples(view: View, size: int) -> None:
    x = noise(size, channels=3)
    seen = view.apply(x)
    assert torch.equal(seen.abs().flatten(2).sort().values, x.abs().flatten(2).sort().values)
    same = x[:1, :1].expand(2, 3, -1, -1)
    assert torch.equal(view.apply(same), view.apply(same)[:1, :1].expand(2, 3, -1, -1))
    assert torch.equal(seen[1:], view.apply(x[1:]))


@pytest.mark.parametrize("size", [*range(4, 34), 97, 100])
@pytest.mark.parametrize("name", ["skew", "jigsaw", "inner_circle", "square_hinge", "rotate_90", "pixel_permute"])
def test_every_size_is_rearranged_exactly(name: str, size: int) -> None:
    view = make_view(name)
    order = ORDERS[name](size, **dict(view.params))
    assert sorted(order.ravel()) == list(range(size * size))
    unturned = name == "square_hinge" and size < 6  # its squares are single pixels
    assert np.array_equal(order.ravel(), np.arange(size * size)) == unturned


@pytest.mark.parametrize("view", EVERY, ids=str)
def test_white_noise_stays_white(view: View) -> None:
    """The matrix of a view is orthogonal: V^T V is the identity, so the covariance of its noise is too."""
    size = 9
    basis = torch.eye(size * size).view(size * size, 1, size, size)
    matrix = view.apply(basis).flatten(1).T
    assert torch.equal(matrix.T @ matrix, torch.eye(size * size))
    assert torch.equal(view.undo(basis).flatten(1).T, matrix.T)


@pytest.mark.parametrize("view", EVERY, ids=str)
def test_every_view_but_the_identity_changes_a_picture(view: View) -> None:
    x = numbered(64)
    assert torch.equal(view.apply(x), x) == (view.name == "identity")


def test_flips_and_turns_are_torchs() -> None:
    x = noise(24)
    assert torch.equal(make_view("flip_vertical").apply(x), x.flip(2))
    assert torch.equal(make_view("flip_horizontal").apply(x), x.flip(3))
    for quarter, name in enumerate(("rotate_90", "rotate_180", "rotate_270"), 1):
        assert torch.equal(make_view(name).apply(x), torch.rot90(x, quarter, (2, 3)))


def test_turns_compose() -> None:
    x = noise(25)
    quarter, half, three = (make_view(f"rotate_{degrees}") for degrees in (90, 180, 270))
    assert torch.equal(quarter.apply(quarter.apply(x)), half.apply(x))
    assert torch.equal(half.apply(quarter.apply(x)), three.apply(x))
    assert torch.equal(quarter.undo(x), three.apply(x))
    assert torch.equal(make_view("flip_vertical").apply(make_view("flip_horizontal").apply(x)), half.apply(x))


def test_negate_turns_the_sign_and_never_of_a_variance() -> None:
    x = noise(24)
    assert torch.equal(make_view("negate").apply(x), -x)
    assert torch.equal(make_view("negate").undo_variance(x), x)


def test_skew_rolls_each_column_by_its_own_amount() -> None:
    x = numbered(8)
    seen = make_view("skew", factor=1.5).apply(x)
    for column, down in enumerate((-6, -4, -3, -1, 0, 1, 3, 4)):
        assert torch.equal(seen[..., column], x[..., column].roll(down, dims=-1))


def test_square_hinge_on_a_tiny_sheet() -> None:
    """Corners and middle turn clockwise, the others counter-clockwise; row 6 and column 6 are left over."""
    seen = make_view("square_hinge").apply(torch.arange(49.0).view(1, 1, 7, 7))[0, 0]
    assert seen.int().tolist() == [
        [7, 0, 3, 10, 11, 4, 6],
        [8, 1, 2, 9, 12, 5, 13],
        [15, 22, 23, 16, 19, 26, 20],
        [14, 21, 24, 17, 18, 25, 27],
        [35, 28, 31, 38, 39, 32, 34],
        [36, 29, 30, 37, 40, 33, 41],
        [42, 43, 44, 45, 46, 47, 48],
    ]


def test_border_that_is_left_over_stays() -> None:
    x = numbered(67)
    for name in ("patch_permute", "jigsaw"):  # 64 px are cut up, one row is left above and two below
        seen = make_view(name).apply(x)
        assert torch.equal(seen[..., 0, :], x[..., 0, :]) and torch.equal(seen[..., -2:], x[..., -2:])
        assert not torch.equal(seen[..., 1:3, 1:-2], x[..., 1:3, 1:-2])


def test_inner_circle_turns_the_disc_alone() -> None:
    x = numbered(64)
    seen = make_view("inner_circle").apply(x)
    away = torch.arange(64) - 31.5
    disc = away[:, None] ** 2 + away**2 < 24**2
    assert torch.equal(seen, torch.where(disc, x.flip(2, 3), x))
    assert torch.equal(make_view("inner_circle", degrees=90).apply(x), torch.where(disc, torch.rot90(x, 1, (2, 3)), x))


def test_patches_move_whole() -> None:
    patches = torch.arange(64.0).view(1, 1, 8, 8)
    view = make_view("patch_permute", seed=3)
    moved = view.apply(patches.repeat_interleave(8, 2).repeat_interleave(8, 3))
    assert torch.equal(moved, view.apply(patches).repeat_interleave(8, 2).repeat_interleave(8, 3))


@pytest.mark.parametrize("name", ["patch_permute", "pixel_permute"])
def test_rearrangement_is_the_same_at_every_stage(name: str) -> None:
    small, view = numbered(64), make_view(name, seed=3)
    large = small.repeat_interleave(4, 2).repeat_interleave(4, 3)
    assert torch.equal(view.apply(large), view.apply(small).repeat_interleave(4, 2).repeat_interleave(4, 3))


@pytest.mark.parametrize("name", RANDOM)
def test_seed_decides_a_random_view(name: str) -> None:
    x = numbered(64)
    first, again, other = (make_view(name, seed=seed).apply(x) for seed in (0, 0, 1))
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert torch.equal(make_view(name).apply(x), first)


def test_seeded_orders_never_change() -> None:
    """A data set names its views by seed: what a seed means is the same in every version."""
    for view, wanted in {
        make_view("patch_permute", seed=7, pieces=3): [10, 5, 1, 3, 8, 4, 2, 7, 9, 6, 0, 11, 12, 13, 14, 15],
        make_view("pixel_permute", seed=7): [8, 4, 1, 6, 3, 2, 12, 11, 7, 14, 5, 15, 9, 10, 13, 0],
        make_view("jigsaw", seed=7): [12, 7, 1, 0, 8, 5, 9, 11, 2, 10, 6, 13, 3, 4, 14, 15],
    }.items():
        assert view.apply(torch.arange(16).view(1, 1, 4, 4)).flatten().tolist() == wanted


def shape_of(piece: np.ndarray) -> set[bytes]:
    """A piece's mask cut out, in its four turns."""
    rows, columns = np.nonzero(piece)
    cut = piece[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
    return {bytes(turned.shape) + turned.tobytes() for turned in (np.rot90(cut, k) for k in range(4))}


@pytest.mark.parametrize("cell", [3, 4, 6, 12, 15, 16, 64])
def test_jigsaw_pieces_have_three_shapes(cell: int) -> None:
    owners = _owners(cell)
    for group in ([0, 3, 12, 15], [1, 2, 4, 7, 8, 11, 13, 14], [5, 6, 9, 10]):
        shapes = [shape_of(owners == piece) for piece in group]
        assert all(shape == shapes[0] for shape in shapes)
        assert np.bincount(owners.ravel())[group[0]] != cell * cell or group[0] == 0
    tab = (np.bincount(owners.ravel())[1] - cell * cell).item()
    assert tab > 0 and np.bincount(owners.ravel())[5] == cell * cell - 2 * tab


@pytest.mark.parametrize("size", [24, 64, 100])
def test_jigsaw_pieces_stay_whole_and_fit(size: int) -> None:
    owners = _owners(size // 4)
    for seed in range(5):
        moved = owners.ravel()[jigsaw(size, seed)]
        stands = [set(moved[owners == place]) for place in range(16)]
        assert all(len(pieces) == 1 for pieces in stands)
        assert [pieces.pop() for pieces in stands] != list(range(16))


def test_equal_by_name_and_parameters() -> None:
    assert make_view("skew") == make_view("skew", factor=1.5) != make_view("skew", factor=2)
    assert make_view("inner_circle", degrees=180.0, diameter=1) == make_view("inner_circle", diameter=1.0)
    assert make_view("patch_permute", pieces=4).params == (("pieces", 4), ("seed", 0))
    assert len({make_view("jigsaw", seed=seed % 3) for seed in range(9)}) == 3


def test_half_precision_and_whole_numbers_are_moved_too() -> None:
    for dtype in (torch.float16, torch.bfloat16, torch.float64, torch.int32):
        x = noise(24).to(dtype)
        for view in EVERY:
            assert view.apply(x).dtype == dtype and torch.equal(view.undo(view.apply(x)), x)


def test_memory_for_orders_is_bounded() -> None:
    for seed in range(100):
        make_view("pixel_permute", seed=seed).apply(numbered(4))
    assert _orders.cache_info().currsize <= 64 and _large_orders.cache_info().maxsize <= 8


@pytest.mark.parametrize(
    ("name", "params", "message"),
    [
        ("flip_verticle", {}, "unknown view 'flip_verticle', did you mean 'flip_vertical'?"),
        ("xyzzy", {}, "unknown view 'xyzzy'; there are identity, flip_horizontal"),
        ("jigsaw", {"sede": 1}, "view 'jigsaw' has no parameter 'sede', did you mean 'seed'?"),
        ("negate", {"seed": 1}, "view 'negate' has no parameter 'seed'; it takes none"),
        ("jigsaw", {"seed": -1}, "'seed' of jigsaw is -1, wanted a whole number from 0"),
        ("jigsaw", {"seed": "7"}, "'seed' of jigsaw is '7', wanted a whole number"),
        ("jigsaw", {"seed": True}, "'seed' of jigsaw is True, wanted a whole number"),
        ("patch_permute", {"pieces": 1}, "'pieces' of patch_permute is 1, wanted a whole number from 2 to 1024"),
        ("patch_permute", {"pieces": 2.5}, "'pieces' of patch_permute is 2.5, wanted a whole number"),
        ("skew", {"factor": float("nan")}, "'factor' of skew is nan, wanted a number from -1000 to 1000"),
        ("inner_circle", {"diameter": 2}, "'diameter' of inner_circle is 2, wanted a number from 0.1 to 1"),
        ("inner_circle", {"degrees": 135}, "'degrees' of inner_circle is 135, wanted 90, 180 or 270"),
    ],
)
def test_what_is_wrong_is_said(name: str, params: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError) as caught:
        make_view(name, **params)
    assert str(caught.value).startswith(message)


def test_images_that_a_view_cannot_take() -> None:
    with pytest.raises(ValueError, match=r"view 'negate' takes \[B, C, S, S\], got \[1, 3, 8, 9\]"):
        make_view("negate").apply(torch.zeros(1, 3, 8, 9))
    with pytest.raises(ValueError, match="'patch_permute' cuts 50 pieces a side and takes pictures of 50 px or more"):
        make_view("patch_permute", pieces=50).apply(torch.zeros(1, 3, 24, 24))
