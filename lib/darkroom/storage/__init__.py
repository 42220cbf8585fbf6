"""Where things lie: stores of bytes, pictures, result rows, and the ledger of what is done."""

from darkroom.storage.errors import NotFound, StorageError
from darkroom.storage.images import decode, encode_png, image_key, resize_square
from darkroom.storage.ledger import CommitRecord, Ledger
from darkroom.storage.local import LocalStore
from darkroom.storage.paths import join
from darkroom.storage.results import SCHEMA, SCHEMA_VERSION, from_parquet, to_parquet, to_table
from darkroom.storage.stored_file import StoredFile
from darkroom.storage.stores import Store, open_store, read_uri

__all__ = [
    "SCHEMA",
    "SCHEMA_VERSION",
    "CommitRecord",
    "Ledger",
    "LocalStore",
    "NotFound",
    "StorageError",
    "Store",
    "StoredFile",
    "decode",
    "encode_png",
    "from_parquet",
    "image_key",
    "join",
    "open_store",
    "read_uri",
    "resize_square",
    "to_parquet",
    "to_table",
]
