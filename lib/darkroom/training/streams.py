"""Data sets too large for the device, read by Ray Data while the training runs.

The row groups of the Parquet files are dealt, in a new order every epoch, to a fixed number of lanes; every lane gives
the same number of rows to every batch, and a worker reads the lanes that are its own. So each row group is read once,
and a batch holds the same pictures however many workers share it. Within a lane, rows are shuffled a group at a time.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from darkroom.training.data import FILE_ROWS, ROW_GROUP, read_groups, read_record
from darkroom.training.draws import Draw
from darkroom.training.feeds import Batch, Worker, to_device, to_network

LANES, FEW_LANES = 64, 16
MANY_GROUPS = 100 * LANES  # below this, as many lanes would leave much of the data set out of an epoch
GROUPS_PER_BLOCK = 16  # Ray Data costs some 40 ms a block


class Streamed:
    """A split of an ingested data set, a group of rows at a time. ValueError if it cannot be dealt out evenly."""

    def __init__(self, uri: str, split: str, batch: int, seed: int, worker: Worker) -> None:
        self._uri, self.batch, self._seed, self._worker = uri, batch, seed, worker
        self._groups = whole_groups(read_record(uri)["splits"][split])
        self.lanes = LANES if len(self._groups) >= MANY_GROUPS else FEW_LANES
        if batch % self.lanes or worker.count > self.lanes:
            raise ValueError(
                f"a data set of this size is streamed in {self.lanes} lanes, which must divide the batch ({batch}) and "
                f"be no fewer than the workers ({worker.count})"
            )
        per_lane = len(self._groups) // self.lanes * ROW_GROUP
        self.steps = per_lane // (batch // self.lanes)
        if not self.steps:
            raise ValueError(f"{uri}: {len(self._groups)} groups of {ROW_GROUP} rows are too few to be streamed")

    def epoch(self, number: int) -> Iterator[Batch]:
        lanes = np.arange(self.lanes)[self._worker.share(self.lanes)]
        each, device = self.batch // self.lanes, self._worker.device
        share = slice(int(lanes[0]) * each, (int(lanes[-1]) + 1) * each)
        rows = self._by_lane(number, lanes)
        for step in range(self.steps):
            images, labels = next(rows)
            draw = Draw((self._seed, number, step), self.batch, share, device)
            yield Batch(to_network(to_device(images, device)), to_device(labels, device), draw)

    def _by_lane(self, number: int, lanes: np.ndarray) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """uint8 [b, C, H, W] and labels [b], step by step: from each lane its rows, lane after lane."""
        each = self.batch // self.lanes
        waiting: dict[int, list[Any]] = {int(lane): [] for lane in lanes}
        for lane, images, labels in self._read(number, lanes):
            waiting[lane].append((images, labels))
            while all(sum(len(part[1]) for part in parts) >= each for parts in waiting.values()):
                taken = [_take(parts, each) for parts in waiting.values()]
                yield torch.cat([images for images, _ in taken]), torch.cat([labels for _, labels in taken])

    def _read(self, number: int, lanes: np.ndarray) -> Iterator[tuple[int, torch.Tensor, torch.Tensor]]:
        import ray.data  # here, so that a training without Ray (a benchmark, a GPU at hand) needs none

        order = np.random.default_rng([self._seed, number]).permutation(len(self._groups))
        dealt = order[: len(order) // self.lanes * self.lanes].reshape(-1, self.lanes)[:, lanes]
        wanted = [
            {"uri": self._uri, "file": self._groups[group][0], "group": self._groups[group][1], "lane": int(lane)}
            for turn in dealt
            for group, lane in zip(turn, lanes, strict=True)
        ]
        blocks = [wanted[at : at + GROUPS_PER_BLOCK] for at in range(0, len(wanted), GROUPS_PER_BLOCK)]
        dataset = ray.data.from_blocks([pa.Table.from_pylist(block) for block in blocks])
        dataset.context.execution_options.preserve_order = True
        dataset = dataset.map_batches(_decode, batch_size=None, batch_format="pyarrow", num_cpus=0.2)
        turn = 0
        for block in dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=2):
            for row in block.to_pylist():
                images, labels = _arrays(row)
                shuffled = np.random.default_rng([self._seed, number, turn // len(lanes), row["lane"]])
                chosen = shuffled.permutation(len(labels))
                yield row["lane"], torch.from_numpy(images[chosen]), torch.from_numpy(labels[chosen])
                turn += 1


def whole_groups(split: dict[str, Any]) -> list[tuple[str, int]]:
    """(file, number) of every full row group of a split; the short one at the end of a file is left out."""
    files, rows, most = split["files"], split["rows"], split.get("file_rows", FILE_ROWS)
    counts = [min(most, rows - at * most) for at in range(len(files))]
    return [(name, group) for name, count in zip(files, counts, strict=True) for group in range(count // ROW_GROUP)]


def _decode(block: pa.Table) -> pa.Table:
    wanted = block.to_pylist()
    files: dict[tuple[str, str], list[int]] = {}
    for row in wanted:
        files.setdefault((row["uri"], row["file"]), []).append(row["group"])
    read = {
        (file, group): arrays
        for (uri, file), groups in files.items()
        for group, arrays in zip(groups, read_groups(uri, file, groups), strict=True)
    }
    return pa.Table.from_pylist([_decoded(row["lane"], *read[row["file"], row["group"]]) for row in wanted])


def _decoded(lane: int, images: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
    pixels = images.transpose(0, 3, 1, 2)
    return {"lane": lane, "pixels": pixels.tobytes(), "shape": list(pixels.shape), "labels": labels.tolist()}


def _arrays(row: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    return np.frombuffer(row["pixels"], np.uint8).reshape(row["shape"]), np.array(row["labels"], np.int64)


def _take(parts: list[Any], count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The first `count` rows of what waits, which is shortened by them."""
    images, labels = torch.cat([part[0] for part in parts]), torch.cat([part[1] for part in parts])
    parts[:] = [(images[count:], labels[count:])]
    return images[:count], labels[:count]
