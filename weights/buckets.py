"""Buckets: opens s3://, gs:// and az:// URLs, signs them, and says in our words what went wrong.

A URL is `s3://BUCKET/KEY` with the key percent-encoded, as in every URL; `az://CONTAINER/KEY` is in
the account that the environment names. Credentials come from the environment or the cloud's own
chain, as obstore finds them, and from nowhere else:

- s3: AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN; web identity, ECS, EC2 instance
  roles. The region is AWS_REGION (else us-east-1). ~/.aws is not read: `eval "$(aws configure
  export-credentials --format env)"` brings a profile or a login into the environment. Another
  server: AWS_ENDPOINT_URL, and AWS_ALLOW_HTTP=true if it is plain http.
- gs: GOOGLE_APPLICATION_CREDENTIALS or GOOGLE_SERVICE_ACCOUNT (files), `gcloud auth
  application-default login`, the metadata server.
- az: AZURE_STORAGE_ACCOUNT_NAME with AZURE_STORAGE_ACCOUNT_KEY, AZURE_STORAGE_SAS_TOKEN, a client
  secret, workload or managed identity, or AZURE_USE_AZURE_CLI=true.

obstore's own messages hold URLs, headers and answers of servers, so that none is ever shown.
"""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from weights.errors import OperationError, UserError
from weights.urls import BUCKET_SCHEMES, shown_url

if TYPE_CHECKING:
    from obstore.store import AzureStore, ClientConfig, GCSStore, RetryConfig, S3Store

    Store = S3Store | GCSStore | AzureStore

_ALLOW_HTTP = {"s3": "AWS_ALLOW_HTTP", "gs": "GOOGLE_ALLOW_HTTP", "az": "AZURE_ALLOW_HTTP"}
# For Azure obstore 0.12.1 signs the encoded path where the server wants the plain one: with other
# characters they differ, and every signed URL is refused (seen with Azurite 3.37).
_AZURE_KEY = re.compile(r"[A-Za-z0-9/._~+=@()-]*")
_NO_BUCKET = r"<Code>(NoSuchBucket|ContainerNotFound)</Code>"
_STATUS = re.compile(r"status code: (\d{3})")


@dataclass(frozen=True, slots=True)
class _Cause:
    """What a text of obstore tells: the pattern it has, what it means, what to do."""

    pattern: str
    found: str
    remedy: str
    error: type[UserError] = UserError


# The first that matches counts. A key may look like anything, so that numbers need their words.
_CAUSES = (
    _Cause(
        r"Account must be specified",
        "the environment names no storage account",
        "Set AZURE_STORAGE_ACCOUNT_NAME.",
    ),
    _Cause(
        r"Missing(AccessKeyId|SecretAccessKey)|/latest/(api|meta-data)/|computeMetadata/"
        r"|metadata/identity/|Error performing token request",
        "there are no credentials for it",
        "Set those of your cloud in the environment (docs/weights.md lists them).",
    ),
    _Cause(
        r"BadScheme|Invalid URL",
        "the endpoint in the environment can't be used",
        "Correct it; plain http has to be allowed, for S3 by AWS_ALLOW_HTTP=true.",
    ),
    _Cause(
        _NO_BUCKET,
        "there is no such bucket",
        "Create it, or correct the name.",
    ),
    _Cause(
        r"Error performing DELETE",
        "the upload was given up, but the parts that it sent could not be removed",
        "Let a lifecycle rule of the bucket abort incomplete multipart uploads.",
        OperationError,
    ),
    _Cause(
        r"<Code>(ExpiredToken|InvalidToken|TokenRefreshRequired|InvalidAccessKeyId"
        r"|SignatureDoesNotMatch|AuthenticationFailed)</Code>|status code: 401",
        "the credentials are refused: they are wrong or have expired",
        "Renew those in the environment.",
        OperationError,
    ),
    _Cause(
        r"redirect without LOCATION|<Code>(PermanentRedirect|AuthorizationHeaderMalformed"
        r"|IllegalLocationConstraintException)</Code>|performing HEAD .*status code: 400",
        "the bucket is in another region",
        "Set the bucket's region, for S3 in AWS_REGION.",
    ),
    _Cause(
        r"status code: 403",
        "access is denied: the credentials are wrong or may not do this",
        "Check them. They must allow to list the bucket, and to read, write and delete objects.",
        OperationError,
    ),
    _Cause(
        r"performing PUT .*status code: 501",
        "the server can't create an object only where none is",
        "Use a server that can. To push where nothing is there yet, --replace helps.",
        OperationError,
    ),
    _Cause(
        r"error sending request|dns error|tcp connect error|operation timed out",
        "the server can't be reached",
        "Check the network and the endpoint in the environment, then try again.",
        OperationError,
    ),
)


def _explained(url: str, error: Exception) -> UserError:
    text = str(error)
    expected = "A bucket is expected that the credentials in the environment may use."
    for cause in _CAUSES:
        if re.search(cause.pattern, text):
            return cause.error(f"{shown_url(url)}: {cause.found}.", expected, cause.remedy)
    status = _STATUS.search(text)
    what = f"the server answered HTTP {status[1]}" if status else f"{type(error).__name__} happened"
    return OperationError(f"{shown_url(url)}: {what}.", expected, "Try again.")


@contextmanager
def bucket_errors(url: str) -> Iterator[None]:
    """Turns what obstore raises into errors that hold no secret.

    Raises:
        UserError: the credentials, the endpoint, the region or the bucket is not there or wrong.
        OperationError: the server can't be reached, denies it or fails.
    """
    from obstore.exceptions import BaseError

    try:
        yield
    except (BaseError, OSError, ValueError) as error:
        raise _explained(url, error) from None


def is_about_bucket(error: FileNotFoundError) -> bool:
    """Whether it is the bucket that is missing, and not only the object."""
    return re.search(_NO_BUCKET, str(error)) is not None


def object_key(url: str) -> str:
    """The key of an object's s3://, gs:// or az:// URL; for a URL that ends in a slash the prefix.

    Raises:
        UserError: it is not such a URL, or has no key that every store takes.
    """
    parts = urlsplit(url)
    key = unquote(parts.path).removeprefix("/")
    odd_names = set(key.removesuffix("/").split("/") if key else ()) & {"", ".", ".."}
    plain = parts.scheme in BUCKET_SCHEMES and url == shown_url(url) and ":" not in parts.netloc
    if not plain or not parts.netloc or odd_names:
        raise UserError(
            f"{shown_url(url)!r} is not the URL of an object.",
            "s3://BUCKET/KEY, gs://BUCKET/KEY or az://CONTAINER/KEY is expected.",
            "Write %23 for # and %3F for ? in a key, and no empty part or dots between slashes.",
        )
    if parts.scheme == "az" and not _AZURE_KEY.fullmatch(key):
        raise UserError(
            f"{shown_url(url)!r} has characters that can't be signed for Azure.",
            "Letters, digits, slashes and ._~+=@()- are expected.",
            "Rename the file, or choose another place.",
        )
    return key


def open_bucket(url: str, *, patient: bool = False) -> "Store":
    """The store of the bucket that `url` is in, for keys as of `object_key`.

    A patient one tries for minutes what a network may spoil: for work that was begun. The other is
    for the first questions, where a user waits for the answer.

    Raises:
        UserError: the URL names no bucket, or what the environment says of it can't be used.
    """
    from obstore.store import from_url

    object_key(url)
    parts = urlsplit(url)
    allow_http = os.environ.get(_ALLOW_HTTP[parts.scheme], "").lower() in ("1", "true", "yes", "on")
    # The parts that are under way share the uplink: their slowest must not run out of time.
    client: ClientConfig = {
        "allow_http": allow_http,
        "connect_timeout": "10s",
        "timeout": "240s" if patient else "20s",
    }
    # Requests are signed once, for all tries; clouds refuse signatures of more than 5 minutes.
    patience: RetryConfig = {
        "max_retries": 10 if patient else 2,
        "retry_timeout": timedelta(seconds=290 if patient else 30),
    }
    with bucket_errors(url):
        return from_url(  # type: ignore[return-value]
            f"{parts.scheme}://{parts.netloc}", client_options=client, retry_config=patience
        )


def signed_url(url: str, *, hours: float = 12) -> str:
    """An https:// URL that lets anyone read the object at `url` (s3://, gs://, az://) for a time.

    At most 168 hours; less where the credentials themselves end earlier. The result is a secret:
    show it only through `weights.urls.shown_url`. Whether the object is there is not looked up.

    Raises:
        UserError: it is not the URL of an object, or there are no credentials to sign with.
        OperationError: the cloud does not give them.
    """
    from obstore import sign

    store, key = open_bucket(url), object_key(url)
    with bucket_errors(url):
        return sign(store, "GET", key, timedelta(hours=hours))
