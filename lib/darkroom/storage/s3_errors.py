"""What S3's SDK raises: whether it is the server that is away, and what people are told."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectionError,
    CredentialRetrievalError,
    HTTPClientError,
    NoCredentialsError,
    PartialCredentialsError,
    ReadTimeoutError,
    SSLError,
    SSOError,
    TokenRetrievalError,
)
from botocore.parsers import ResponseParserError

from darkroom.phases import redacted
from darkroom.storage.errors import NotFound, Refused, StorageError
from darkroom.storage.patience import Away

ABSENT = {"NoSuchKey", "404", "NotFound", "KeyTooLongError"}
_KEYS = "check the keys and what their policy allows (get, put, delete, list)"
EXPIRED = {"ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired", "RequestExpired"}
_EXPIRED = "the keys have expired; renew AWS_SESSION_TOKEN and the keys that belong to it"
ADVICE = {
    "NoSuchBucket": "the bucket does not exist; check its name and AWS_ENDPOINT_URL_S3, or make it first",
    "InvalidAccessKeyId": "the server does not know this key; check AWS_ACCESS_KEY_ID",
    "SignatureDoesNotMatch": "the secret does not fit the key; check AWS_SECRET_ACCESS_KEY",
    "AccessDenied": f"access was denied; {_KEYS}",
    "403": f"access was denied; {_KEYS}",
    **dict.fromkeys(EXPIRED, _EXPIRED),
    "InvalidToken": "the server does not take this session token; check AWS_SESSION_TOKEN",
    "RequestTimeTooSkewed": "this machine's clock differs from the server's; set the clock",
    "PermanentRedirect": "the bucket lies in another region; check AWS_REGION",
    "InvalidObjectState": "the object lies in an archive; restore it first",
    "SlowDown": "the server asks for fewer requests; run fewer workers or try again later",
    "NotImplemented": "the server lacks this operation; `darkroom doctor` says what is needed of it",
}
UNKNOWN = {400, 405, 411, 501}
# Answers of the 4xx that are about who asks, or when, and not about the object or bucket that was asked for.
_OF_THE_ASKER = EXPIRED | {
    "AuthorizationHeaderMalformed", "InvalidAccessKeyId", "InvalidToken", "RequestTimeTooSkewed",
    "SignatureDoesNotMatch",
}  # fmt: skip
# Codes of a server that is overloaded, starts, or did not get the whole request. 409: a conditional put met another, or
# a delete, and nobody has won yet.
_LATER = {"SlowDown", "InternalError", "ServiceUnavailable", "RequestTimeout", "IncompleteBody", "BadDigest"}
_LATER_STATUS = {408, 409, 429, 500, 502, 503, 504}
_NO_ENCRYPTION = ("CERTIFICATE_VERIFY_FAILED", "WRONG_VERSION_NUMBER", "UNKNOWN_PROTOCOL", "CA cert", "No such file")
_NO_NAME = ("Failed to resolve", "Name or service not known", "nodename nor servname", "name resolution")


def away(error: Exception) -> Away | None:
    """Why an error means that the server is away, or was for one request; None where it has answered, or the request
    could not be made."""
    if isinstance(error, ClientError):
        later = status(error) in _LATER_STATUS or code(error) in _LATER
        return Away(f"it says {status(error) or ''} {code(error)}".replace("  ", " ")) if later else None
    if any(sign in str(error) for sign in _NO_ENCRYPTION):
        return None
    if isinstance(error, ReadTimeoutError):
        return Away("nothing came for too long")
    if isinstance(error, (ConnectionError, HTTPClientError, OSError)):
        cause = _causes(error)
        return Away("its name is not known", True) if any(sign in cause for sign in _NO_NAME) else Away(_short(cause))
    if isinstance(error, ResponseParserError):
        return Away("what it says is cut off, or not S3", True)
    if isinstance(error, BotoCoreError) and "IncompleteRead" in type(error).__name__:
        return Away("a body broke off")
    return None


@contextmanager
def reporting(action: str, uri: str) -> Iterator[None]:
    """Turns what the SDK raises into a sentence: what was tried, where, what to check."""
    try:
        yield
    except (BotoCoreError, ClientError, OSError, ResponseParserError) as error:
        if isinstance(error, ClientError) and code(error) in ABSENT:
            raise NotFound(f"could not {action} {uri}: nothing is there") from error
        text = "; ".join([str(error), *getattr(error, "__notes__", ())])
        shown = redacted(text).replace(" (reached max retries: 0)", "")  # the SDK's, of which there are none
        kind = Refused if _is_refused(error) else StorageError
        sentence = kind(f"could not {action} {uri}: {_advice(error)} ({shown})")
        # A traceback, where one is asked for, shows the cause, too.
        raise sentence from (error if redacted(text) == text else None)


def code(error: ClientError) -> str:
    return str(error.response.get("Error", {}).get("Code", ""))


def status(error: ClientError) -> int:
    """The HTTP status; 0 where the error is no answer of its own."""
    return error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)


def refusal_code(error: StorageError) -> str:
    """The code by which a server said that it does not know this kind of request, or not in this form; else ""."""
    cause = error.__cause__
    known = isinstance(cause, ClientError) and away(cause) is None and status(cause) in UNKNOWN
    return code(cause) if known and code(cause) not in ADVICE.keys() - {"NotImplemented"} else ""


def _advice(error: Exception) -> str:
    if isinstance(error, ClientError):
        return ADVICE.get(code(error), "the server refused or failed; check it and try again")
    if isinstance(error, (NoCredentialsError, PartialCredentialsError)):
        return "no keys were found; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or give the machine a role"
    if isinstance(error, (CredentialRetrievalError, TokenRetrievalError, SSOError)):
        return "the keys could not be renewed; log in again, or check the machine's role"
    if isinstance(error, SSLError) or any(sign in str(error) for sign in _NO_ENCRYPTION):
        return "no encrypted connection; check https:// or http:// in AWS_ENDPOINT_URL_S3, and AWS_CA_BUNDLE"
    if isinstance(error, (ConnectionError, HTTPClientError, OSError)):
        return "the endpoint cannot be reached; check AWS_ENDPOINT_URL_S3 and the network"
    if isinstance(error, ResponseParserError):
        return "the answer is cut off, or not S3's; check AWS_ENDPOINT_URL_S3"
    return "the request could not be made or its answer not read; check the AWS_* variables, then try again"


def _is_refused(error: Exception) -> bool:
    """Whether the server works, knows who asks, and will not give this; or nobody has keys for it."""
    if not isinstance(error, ClientError) or away(error):
        return isinstance(error, NoCredentialsError)
    about_it = 400 <= status(error) < 500 and code(error) not in _OF_THE_ASKER
    return about_it or status(error) == 301 or code(error) == "NoSuchBucket"


def _causes(error: BaseException) -> str:
    """What an error and those behind it say."""
    texts = []
    cause: BaseException | None = error
    while cause is not None and len(texts) < 8:
        texts.append(str(cause))
        cause = getattr(cause, "kwargs", {}).get("error") or cause.__cause__ or cause.__context__
    return "; ".join(texts)


def _short(causes: str) -> str:
    for sign in ("Connection refused", "Connection reset", "timed out", "No route to host", "Network is unreachable"):
        if sign.lower() in causes.lower():
            return sign.lower()
    return "the connection broke off" if "Connection" in causes else "it cannot be reached"
