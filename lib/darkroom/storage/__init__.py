"""Where bytes lie: stores of a folder or of S3, pictures, and the lease that lets one job alone write."""

from darkroom.storage.decoding import Mode, decode, in_a_decoder, stored_size
from darkroom.storage.errors import NotAFile, NotFound, Refused, StorageError, TooLarge
from darkroom.storage.images import encode_png, image_key, image_key_of, to_uint8
from darkroom.storage.local import LocalStore
from darkroom.storage.masks import read_mask
from darkroom.storage.paths import join, spelt_otherwise, without_secrets
from darkroom.storage.squares import Size, read_squares, size_name
from darkroom.storage.stored_file import StoredFile
from darkroom.storage.stores import Store, folder_of, open_store, read_uri, write_folder, write_uri
from darkroom.storage.videos import encode_mp4, video_key

__all__ = [
    "LocalStore",
    "Mode",
    "NotAFile",
    "NotFound",
    "Refused",
    "Size",
    "StorageError",
    "Store",
    "StoredFile",
    "TooLarge",
    "decode",
    "encode_mp4",
    "encode_png",
    "folder_of",
    "image_key",
    "image_key_of",
    "in_a_decoder",
    "join",
    "open_store",
    "read_mask",
    "read_squares",
    "read_uri",
    "size_name",
    "spelt_otherwise",
    "stored_size",
    "to_uint8",
    "video_key",
    "without_secrets",
    "write_folder",
    "write_uri",
]
