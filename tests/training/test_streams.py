from __future__ import annotations

import numpy as np
import pytest
import torch

from darkroom.training.data import write_dataset
from darkroom.training.feeds import Worker
from darkroom.training.streams import FEW_LANES, Streamed, whole_groups

CPU = torch.device("cpu")
ROWS = 3_350  # 33 groups of 100 and a short one: two in each of 16 lanes, and one over


def numbered(uri: str) -> str:
    """Pictures that are all different and labelled by their number."""
    labels = np.arange(ROWS)
    images = np.zeros((ROWS, 4, 4, 1), np.uint8)
    images[:, 0, 0, 0], images[:, 0, 1, 0] = labels % 256, labels // 256
    about = {"name": "numbers", "source": "test", "classes": [str(label) for label in labels]}
    write_dataset(uri, {"train": (images, labels)}, about)
    return uri


def read(uri: str, epoch: int, rank: int = 0, count: int = 1) -> list[tuple[np.ndarray, torch.Tensor]]:
    feed = Streamed(uri, "train", 32, 5, Worker(rank, count, CPU))
    return [(batch.labels.numpy(), batch.images) for batch in feed.epoch(epoch)]


@pytest.mark.usefixtures("shared_ray")
def test_a_stream_is_the_same_however_many_workers_read_it(store_uri: str) -> None:
    uri = numbered(store_uri)
    whole = read(uri, 1)
    seen = np.concatenate([labels for labels, _ in whole])
    assert len(whole) == 100 and len(set(seen.tolist())) == len(seen) == 3200, "no picture twice in an epoch"
    for labels, images in whole[:3]:
        pixels = ((images + 1) * 127.5).round().long()
        assert torch.equal(pixels[:, 0, 0, 0] + 256 * pixels[:, 0, 0, 1], torch.from_numpy(labels))
    if store_uri.startswith("s3://"):
        return
    thirds = zip(*(read(uri, 1, rank, 3) for rank in range(3)), strict=True)
    for (labels, _), parts in zip(whole, thirds, strict=True):
        assert np.array_equal(labels, np.concatenate([part[0] for part in parts]))
    again = np.concatenate([labels for labels, _ in read(uri, 2)])
    assert not np.array_equal(seen, again), "every epoch has an order of its own"


def test_the_short_group_of_a_file_is_left_out() -> None:
    assert whole_groups({"files": ["a"], "rows": 250}) == [("a", 0), ("a", 1)]
    assert len(whole_groups({"files": ["a", "b"], "rows": 100_150})) == 1001
    assert whole_groups({"files": ["a", "b"], "rows": 350, "file_rows": 200}) == [("a", 0), ("a", 1), ("b", 0)]


def test_lanes_must_come_out_even(tmp_path) -> None:
    uri = numbered(str(tmp_path / "data"))
    with pytest.raises(ValueError, match=f"streamed in {FEW_LANES} lanes, which must divide the batch"):
        Streamed(uri, "train", 30, 5, Worker(0, 1, CPU))
    with pytest.raises(ValueError, match="no fewer than the workers"):
        Streamed(uri, "train", 32, 5, Worker(0, 17, CPU))
