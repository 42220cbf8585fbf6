"""What of an environment must not travel with a job: Ray shows a job's variables to everybody who may see the job."""

from __future__ import annotations

import re
from itertools import pairwise

NAMES = ("KEY", "SECRET", "TOKEN", "PASSWORD", "PASSWD", "CREDENTIAL")
# Of what is random about two pairs in five have a letter beside a digit or a capital behind a small letter; of words
# in camel case about one in seven.
CHANGES = 0.2
SHORTEST_MIXED, SHORTEST_LOWER = 20, 32
_PATTERNS = {
    r"[a-z][a-z0-9+.-]*://[^\s/@:]*:[^\s/@]+@": "a URL with a password in it",
    r"(?i)[?&](x-amz-signature|x-goog-signature|sig|signature|token|access_token|api_?key)=[^&\s]": "a signed URL",
    r"-----BEGIN [A-Z ]*PRIVATE KEY": "a private key",
    r"\b(AKIA|ASIA)[0-9A-Z]{16}\b": "a key of AWS",
    r"\b(gh[opsu]_\w{20}|github_pat_\w{20}|hf_\w{20}|glpat-[\w-]{20}|sk-[\w-]{20}|xox[abp]-[\w-]{10}|AIza[\w-]{30})": (
        "a service's token"
    ),
    r"\beyJ[\w-]{8,}\.eyJ[\w-]{8,}\.": "a JSON web token",
}
# A path, an address, a digest that says what it is, a UUID: however random, they are names.
_ORDINARY = re.compile(
    r"(^|(?<=[\s,;=:]))(~|\.{0,2})/\S*|\b[a-z][a-z0-9+.-]*://\S+|\b(sha\d+|md5):[0-9a-f]+"
    r"|\b[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\b"
)
_DIGEST_NAMES = ("COMMIT", "DIGEST", "HASH", "REVISION", "SHA", "MD5", "CHECKSUM")


def why_secret(name: str, value: str) -> str:
    """What the variable looks like, as "a private key"; "" where nothing about it is secret."""
    if any(word in name.upper() for word in NAMES):
        return "a secret by its name"
    for pattern, kind in _PATTERNS.items():
        if re.search(pattern, value):
            return kind
    if any(word in name.upper() for word in _DIGEST_NAMES) and re.fullmatch(r"[0-9a-f]+", value):
        return ""
    words = re.split(r"[\s,;:&|\"']+", _ORDINARY.sub(" ", value))
    return "a long random token" if any(map(_is_random, words)) else ""


def _is_random(word: str) -> bool:
    """Whether it reads as base64 or hexadecimal digits rather than as words."""
    if not re.fullmatch(r"[A-Za-z0-9+/_-]+=*", word) or not re.search(r"\d", word):
        return False
    mixed = bool(re.search("[a-z]", word) and re.search("[A-Z]", word))
    if len(word) < (SHORTEST_MIXED if mixed else SHORTEST_LOWER) or not re.search("[A-Za-z]", word):
        return False
    changes = sum(a.isalnum() and b.isalnum() and _changes(a, b) for a, b in pairwise(word))
    return changes >= CHANGES * (len(word) - 1)


def _changes(first: str, second: str) -> bool:
    return first.isdigit() != second.isdigit() or (first.islower() and second.isupper())
