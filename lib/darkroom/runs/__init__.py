"""What a run is: the rows that it holds, the log that says which of them count, and looking after both."""

from darkroom.runs.ledger import CommitRecord, Ledger
from darkroom.runs.results import SCHEMA, SCHEMA_VERSION, from_parquet, to_parquet, to_table

__all__ = ["SCHEMA", "SCHEMA_VERSION", "CommitRecord", "Ledger", "from_parquet", "to_parquet", "to_table"]
