"""What a `backbone.url` that leads into the network means: the address that its module is downloaded from."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from urllib.parse import urlencode, urlsplit

from graft.backbones.archive import SUFFIXES
from graft.errors import ConfigError

KAGGLE_PREFIX = "kaggle:"
KAGGLE_FORM = (
    "kaggle:OWNER/MODEL/tensorFlow2/VARIATION/VERSION, such as kaggle:google/inception-v3/tensorFlow2/feature-vector/2"
)
KAGGLE_PAGE = "https://www.kaggle.com/models/OWNER/MODEL/tensorFlow2/VARIATION/VERSION"
KAGGLE = "https://www.kaggle.com"
KAGGLE_ENDPOINT = "KAGGLE_API_ENDPOINT"  # as in Kaggle's own client: another server that speaks its API
# tfhub.dev sends on to Kaggle; both answer with the archive where the query asks for it (tensorflow.org/hub/hosting).
HUBS = ("tfhub.dev", "www.kaggle.com", "kaggle.com")
WANTS_ARCHIVE = {"tf-hub-format": "compressed"}


@dataclass(frozen=True)
class Remote:
    """A module in the network.

    Attributes:
        address: Where its archive lies.
        on_hub: Whether it is published on TF Hub or Kaggle, whose image modules keep to TF Hub's convention for
            values of pixels.
    """

    address: str
    on_hub: bool


def remote(url: str) -> Remote | None:
    """The module that `url` names, or None if it is the name of something on this machine.

    Raises:
        ConfigError: for a handle of Kaggle's that is incomplete, a scheme other than http and https, a password in the
            address, and a module that says in its handle that it is none.
    """
    if url.startswith(KAGGLE_PREFIX):
        return Remote(_kaggle_api(url), on_hub=True)
    scheme = re.match(r"([a-zA-Z][\w+.-]*)://", url)
    if scheme is None:
        return None
    if scheme.group(1).lower() not in ("http", "https"):
        raise ConfigError(
            f"backbone.url={url}: Graft downloads by http and https only; copy it from there, and give the folder or "
            "the .tar.gz."
        )
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError as error:
        raise ConfigError(f"backbone.url={url}: this is no address: {error}.") from None
    if not host:
        raise ConfigError(f"backbone.url={url}: this is no address: it names no host.")
    if "@" in parts.netloc:
        raise ConfigError(
            "backbone.url: a name or password in an address would be recorded with every run; download the archive, "
            "and give the file."
        )
    on_hub = host in HUBS
    if on_hub:
        _check_kind(url, parts.path, KAGGLE_PAGE if "kaggle" in host else None)
    if parts.path.lower().endswith(SUFFIXES):
        return Remote(parts._replace(fragment="").geturl(), on_hub)
    query = "&".join(filter(None, (parts.query, urlencode(WANTS_ARCHIVE))))
    return Remote(parts._replace(query=query, fragment="").geturl(), on_hub)


def _kaggle_api(url: str) -> str:
    path = url.removeprefix(KAGGLE_PREFIX)
    _check_kind(url, f"/models/{path}", KAGGLE_FORM)
    endpoint = (os.environ.get(KAGGLE_ENDPOINT) or KAGGLE).rstrip("/")
    return f"{endpoint}/api/v1/models/{path}/download"


def _check_kind(url: str, path: str, kaggle_form: str | None) -> None:
    """Refuses a handle that says itself that it leads to nothing usable."""
    if "classification" in path.lower():
        raise ConfigError(
            f"backbone.url={url}: this is a classifier; its backbone is needed, which TF Hub lists as 'feature "
            "vector': most have the same handle with feature_vector in place of classification."
        )
    if kaggle_form is None:
        return
    # With the older pages' words between the names: models/…/frameworks/tensorFlow2/variations/…/versions/2.
    named = re.fullmatch(
        r"/models/\w[\w.-]*/\w[\w.-]*/(?:frameworks/)?(\w+)/(?:variations/)?\w[\w.-]*/(?:versions/)?\d+/?", path
    )
    if named is None:
        raise ConfigError(
            f"backbone.url={url}: allowed is {kaggle_form}; the version has to be there, so that a run says what "
            "it used."
        )
    if named.group(1).lower() != "tensorflow2":
        raise ConfigError(
            f"backbone.url={url}: {named.group(1)} is another format; the variation for tensorFlow2 is needed."
        )
