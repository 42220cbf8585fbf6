"""Where bytes lie: stores of a folder or of S3, pictures, and the lease that lets one job alone write."""

from darkroom.storage.errors import NotFound, StorageError
from darkroom.storage.images import decode, encode_png, image_key, image_key_of, resize_square, to_uint8
from darkroom.storage.local import LocalStore
from darkroom.storage.paths import join, spelt_otherwise, without_secrets
from darkroom.storage.stored_file import StoredFile
from darkroom.storage.stores import Store, open_store, read_uri

__all__ = [
    "LocalStore",
    "NotFound",
    "StorageError",
    "Store",
    "StoredFile",
    "decode",
    "encode_png",
    "image_key",
    "image_key_of",
    "join",
    "open_store",
    "read_uri",
    "resize_square",
    "spelt_otherwise",
    "to_uint8",
    "without_secrets",
]
