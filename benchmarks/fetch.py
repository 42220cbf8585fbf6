"""How fast a model's file comes from a bucket: by one request at a time, and by as many as `models.node_cache` has.

    python benchmarks/fetch.py
    python benchmarks/fetch.py --mb 64 --rate 32 --rounds 1

The server is that of the tests, on this machine. Behind a link that lets each answer through at so many MB/s, as a
bucket far away does, and without one. In both, every byte is hashed and lies on the disk before the file counts.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from conftest import serve_s3  # noqa: E402
from darkroom.models import node_cache  # noqa: E402
from darkroom.storage import open_store  # noqa: E402
from slow_link import SlowLink  # noqa: E402

NAME = "weights.safetensors"


def seconds(uri: str, requests: int, rounds: int) -> float:
    """The median time of fetching the file into an empty cache."""
    node_cache._REQUESTS, taken = requests, []
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as cache:
            os.environ["DARKROOM_CACHE"] = cache
            listing = node_cache.S3Listing.of(uri)
            began = time.perf_counter()
            node_cache.fetch_from_s3(listing, [NAME])
            taken.append(time.perf_counter() - began)
    return statistics.median(taken)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mb", type=int, default=128, help="size of the file")
    parser.add_argument("--rate", type=float, default=16.0, help="MB/s of each answer, behind the link")
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    many = node_cache._REQUESTS
    with tempfile.TemporaryDirectory() as folder, serve_s3(Path(folder)) as server, SlowLink(server.port) as link:
        os.environ |= server.env
        uri = server.uri("model")
        open_store(uri).write(NAME, os.urandom(given.mb << 20))
        print(f"{'each answer':<14}{'requests at once':>18}{'seconds':>9}{'MB/s':>7}{'ratio':>7}")
        for rate, port in ((given.rate, link.port), (None, server.port)):
            link.rate = rate and rate * 2**20
            os.environ["AWS_ENDPOINT_URL_S3"] = f"http://127.0.0.1:{port}"
            limit, alone = f"{rate:g} MB/s" if rate else "no limit", 0.0
            for requests in (1, many):
                taken = seconds(uri, requests, given.rounds)
                alone, speed = alone or taken, given.mb / taken
                print(f"{limit:<14}{requests:>18}{taken:>9.2f}{speed:>7.0f}{alone / taken:>7.1f}")


if __name__ == "__main__":
    main()
