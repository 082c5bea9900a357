"""What no record and no log may hold: values from the environment, and passwords and tokens in addresses."""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, overload
from urllib.parse import quote, quote_plus, unquote, unquote_plus

from omegaconf import Container, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from graft.errors import ConfigError
from graft.paths import anchored

HIDDEN = "***"

FROM_ENVIRONMENT = re.compile(r"\$\{\s*oc\.env\s*:\s*['\"]?([\w.-]+)")
ASKS_ENVIRONMENT = re.compile(r"\$\{\s*oc\.env\s*:")
_LONGEST = 2000
"""Characters of such a password. Without an end the time for a text would grow with its square."""
_NAME = r"[^\s:/@\[\]'\"]*:"
_NO_PORT = r"(?!\d{1,5}(?![\w%!$&*+=~-]))"
USER_IN_ADDRESS = re.compile(
    r"(?<=://)(?:"
    r"[^/\s'\"]+"
    # What should be written as %20, %27 and %2F is taken as it is by some, the slash by databases alone.
    rf"|{_NAME}{_NO_PORT}[^\n\"/@]{{0,{_LONGEST}}}"
    rf"|(?<!http://)(?<!https://){_NAME}(?:{_NO_PORT}[^\n\"@]{{0,{_LONGEST}}}|[^\s\"@]{{0,{_LONGEST}}})"
    r")(?=@)"
)
TOKEN_IN_ADDRESS = re.compile(
    r"([?&#][\w.-]*(?:token|key|secret|pass|pwd|auth|sig|credential)[\w.-]*=)(?:[^&#\s'\"]|'(?=[\w%]))+?"
    r"(?=[.,:;)]*(?:[&#\s\"]|'(?![\w%])|$))",  # the sentence goes on
    re.IGNORECASE,
)

PASSWORD = re.compile(r"://([^:/@]*):([^@]*)@")

IN_OUR_WORDS = {"USER"}
"""What stands for a name where a message says how an address is written."""

SHORTEST = 4
"""Characters of a value that is looked for within other texts; a shorter one is found in too many."""

OURS = {"GRAFT_HOME", "GRAFT_CACHE"}
"""Variables that say where things lie, which is no secret."""

OF_THE_SYSTEM = ("filename", "filename2", "strerror")  # what an OSError says besides its arguments


@dataclass(frozen=True)
class Secrets:
    """The secrets of one configuration, or of several.

    Attributes:
        values: What the environment gave, and what is written in its place.
        keys: Dotted keys whose values come from the environment, and how they were written.
    """

    values: Mapping[str, str] = field(default_factory=dict)
    keys: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, config: Any) -> Secrets:
        """Those of a configuration with its interpolations, as Hydra composed it or a record has it."""
        values: dict[str, str] = {}
        keys: dict[str, str] = {}
        plain = OmegaConf.to_container(config, resolve=False) if isinstance(config, Container) else config
        asking = [(key, text) for key, text in _texts(plain) if ASKS_ENVIRONMENT.search(text)]
        if not asking:
            return cls()
        try:
            node = config if isinstance(config, Container) else OmegaConf.create(plain)
        except OmegaConfBaseException:  # a record that somebody damaged: what it names is hidden all the same
            node = OmegaConf.create({})
        for key, text in asking:
            names = set(FROM_ENVIRONMENT.findall(text))
            if names and names <= OURS:
                continue
            given = {os.environ[name]: f"${{oc.env:{name}}}" for name in names - OURS if os.environ.get(name)}
            values |= given
            for value, name in given.items():
                for path in _as_paths(value):
                    values.setdefault(path, name)
            if key:
                keys[key] = text
                names_something = "${" in _last_part(text)
                for value in _values_at(node, key):
                    values.setdefault(value, text)
                    for path, written in _paths_at(value, text):
                        values.setdefault(path, written)
                    if names_something:  # as the last part of an address names a backbone
                        values.setdefault(_last_part(value), HIDDEN)
        return cls(values, keys)

    @classmethod
    def in_address(cls, address: str) -> Secrets:
        """The password of one address, and what its query calls one, for errors that repeat them in other words."""
        found = [password for _, password in PASSWORD.findall(address)]
        found += [parameter[0].removeprefix(parameter[1]) for parameter in TOKEN_IN_ADDRESS.finditer(address)]
        return cls({spelt: HIDDEN for raw in found for spelt in (raw, unquote(raw), unquote_plus(raw)) if spelt})

    def __or__(self, other: Secrets) -> Secrets:
        """Those of both."""
        return Secrets({**self.values, **other.values}, {**self.keys, **other.keys})

    @overload
    def out_of(self, said: str) -> str: ...
    @overload
    def out_of(self, said: Any) -> Any: ...
    def out_of(self, said: Any) -> Any:
        """`said`, text or plain data, without any secret: an interpolation in the place of each, or ``***``."""
        return self._out_of(said, "")

    @contextmanager
    def out_of_errors(self) -> Iterator[None]:
        """Takes them out of what an error says that leaves the block, and of what it came from."""
        try:
            yield
        except Exception as error:
            told: BaseException | None = error
            seen = set[int]()
            while told is not None and id(told) not in seen:
                self._hide_in(told)
                seen.add(id(told))
                told = told.__cause__ or told.__context__
            raise

    def watch(self) -> None:
        """Keeps them out of what the root logger's present handlers write, in the place of those watched before."""
        _WATCH.secrets = self
        for handler in logging.getLogger().handlers:
            if _WATCH not in handler.filters:
                handler.addFilter(_WATCH)

    def _hide_in(self, error: BaseException) -> None:
        error.args = tuple(self.out_of(argument) for argument in error.args)
        attributes = [*vars(error), *(OF_THE_SYSTEM if isinstance(error, OSError) else ())]
        for name in attributes:
            value = getattr(error, name)
            if isinstance(value, str | list | tuple):
                setattr(error, name, self.out_of(value))

    def _out_of(self, said: Any, key: str) -> Any:
        if key in self.keys:
            return self.keys[key]
        if isinstance(said, Mapping):
            prefix = f"{key}." if key else ""
            return {self._out_of(name, ""): self._out_of(value, f"{prefix}{name}") for name, value in said.items()}
        if isinstance(said, list | tuple):
            return [self._out_of(value, "") for value in said]
        return self._out_of_text(said) if isinstance(said, str) else said

    def _out_of_text(self, text: str) -> str:
        for value in sorted(self.values, key=len, reverse=True):
            if len(value) >= SHORTEST:
                for spelt in _spellings(value):
                    text = text.replace(spelt, self.values[value])
        return TOKEN_IN_ADDRESS.sub(rf"\g<1>{HIDDEN}", USER_IN_ADDRESS.sub(_hidden_user, text))


class _Watch(logging.Filter):
    """Takes secrets out of every log record, the traceback that comes with it included."""

    secrets = Secrets()

    def filter(self, record: logging.LogRecord) -> bool:
        try:
            said = record.getMessage()
        except Exception:  # arguments that do not fit: a handler would report that, where a filter ends its caller
            said = f"{record.msg} {record.args}"
        record.msg, record.args = self.secrets.out_of(said), ()
        if record.exc_info and not record.exc_text:
            record.exc_text = self.secrets.out_of(logging.Formatter().formatException(record.exc_info))
        return True


_WATCH = _Watch()


def resolved(recorded: Any) -> Any:
    """A recorded configuration with values from this environment; one that it lacks stays as it is written."""
    if isinstance(recorded, Mapping):
        return {key: resolved(value) for key, value in recorded.items()}
    if isinstance(recorded, list):
        return [resolved(value) for value in recorded]
    if not isinstance(recorded, str) or not ASKS_ENVIRONMENT.search(recorded):
        return recorded
    try:
        return OmegaConf.to_container(OmegaConf.create({"value": recorded}), resolve=True)["value"]  # type: ignore[index, call-overload]
    except OmegaConfBaseException:
        return recorded


def _hidden_user(found: re.Match[str]) -> str:
    return found[0] if found[0].startswith("${oc.env:") or found[0] in IN_OUR_WORDS else HIDDEN


def _spellings(value: str) -> set[str]:
    """A value as it stands in texts, in addresses, and in JSON and Python."""
    in_addresses = {quote(value, safe=""), quote(value), quote(value, safe=" +"), quote_plus(value)}
    return {value, *in_addresses, json.dumps(value)[1:-1], repr(value)[1:-1]}


def _last_part(address: str) -> str:
    return address.rstrip("/").rpartition("/")[2]


def _paths_at(value: str, text: str) -> Iterator[tuple[str, str]]:
    """`value` as the paths that are made of it, each with what stands for it in `text`, as it was written.

    Also of the folder that the last interpolation names, where more is written after it: errors name that.
    """
    below = text[text.rfind("}") + 1 :].partition("/")
    rest = "".join(below[1:])
    if rest.strip("/") and value.endswith(rest):
        yield from ((path, text.removesuffix(rest)) for path in _as_paths(value.removesuffix(rest)))
    yield from ((path, text) for path in _as_paths(value))


def _as_paths(value: str) -> set[str]:
    """How a value is spelt once it was read as a path: normalised, from the root, and without links."""
    if not re.search(r"\w", value):  # such as ".", which stands for a folder that is no secret
        return set()
    paths = {str(Path(value)), os.path.normpath(value)}
    with suppress(ConfigError, OSError, RuntimeError, ValueError):  # it is no path then
        paths |= {str(anchored(value)), str(anchored(value).resolve())}
    return paths


def _values_at(node: Container, key: str) -> Iterator[str]:
    """What stands at a dotted key, resolved, as texts: of a mapping or a list what is in it."""
    try:
        value = OmegaConf.select(node, key)
    except (OmegaConfBaseException, ValueError):  # the variable is not set
        return
    plain = OmegaConf.to_container(value, resolve=True) if isinstance(value, Container) else value
    yield from (str(leaf) for leaf in _leaves(plain) if leaf is not None and not isinstance(leaf, bool))


def _leaves(node: Any) -> Iterator[Any]:
    if isinstance(node, Mapping):
        for value in node.values():
            yield from _leaves(value)
    elif isinstance(node, list | tuple):
        for value in node:
            yield from _leaves(value)
    else:
        yield node


def _texts(node: Any, prefix: str = "") -> Iterator[tuple[str, str]]:
    """The texts of plain data, under dotted names; those in lists have none."""
    if isinstance(node, Mapping):
        for key, value in node.items():
            yield from _texts(value, f"{prefix}.{key}" if prefix else str(key))
    elif isinstance(node, list | tuple):
        for value in node:
            yield from (("", text) for _, text in _texts(value))
    elif isinstance(node, str):
        yield prefix, node
