"""What a run is: the rows that it holds, the log that says which of them count, and looking after both."""

from darkroom.runs.ledger import Ledger, stage
from darkroom.runs.log import Log, Shard
from darkroom.runs.results import SCHEMA, SCHEMA_VERSION, from_parquet, latents_key, to_parquet, to_table
from darkroom.runs.writer import LEASE_SECONDS, Writer, own

__all__ = [
    "LEASE_SECONDS",
    "SCHEMA",
    "SCHEMA_VERSION",
    "Ledger",
    "Log",
    "Shard",
    "Writer",
    "from_parquet",
    "latents_key",
    "own",
    "stage",
    "to_parquet",
    "to_table",
]
