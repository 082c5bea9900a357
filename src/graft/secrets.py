"""What no record and no log may hold: values from the environment, and passwords and tokens in addresses."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, overload

from omegaconf import Container, OmegaConf
from omegaconf.errors import OmegaConfBaseException

HIDDEN = "***"

FROM_ENVIRONMENT = re.compile(r"\$\{\s*oc\.env\s*:\s*([^,}\s]+)")
USER_IN_ADDRESS = re.compile(r"(?<=://)[^/\s@'\"]+(?=@)")
TOKEN_IN_ADDRESS = re.compile(
    r"([?&][\w.-]*(?:token|key|secret|passw|signature|credential)[\w.-]*=)[^&\s'\"]+", re.IGNORECASE
)

SHORTEST = 4
"""Characters of a value that is looked for within other texts; a shorter one is found in too many."""

OURS = {"GRAFT_HOME"}


@dataclass(frozen=True)
class Secrets:
    """The secrets of one configuration.

    Attributes:
        values: What the environment gave, and the interpolation that stands for it.
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
        for key, text in _texts(plain):
            names = [name for name in FROM_ENVIRONMENT.findall(text) if name not in OURS]
            if names:
                keys[key] = text
            values |= {os.environ[name]: f"${{oc.env:{name}}}" for name in names if os.environ.get(name)}
        return cls(values, keys)

    @overload
    def out_of(self, said: str) -> str: ...
    @overload
    def out_of(self, said: Any) -> Any: ...
    def out_of(self, said: Any) -> Any:
        """`said`, text or plain data, without any secret: an interpolation in the place of each, or ``***``."""
        return self._out_of(said, "")

    def watch(self) -> None:
        """Keeps them out of the logs of this process, from the handlers that there are now."""
        for handler in logging.getLogger().handlers:
            handler.addFilter(self._of_log)

    def _out_of(self, said: Any, key: str) -> Any:
        if key in self.keys and not isinstance(said, Mapping):
            return self.keys[key]
        if isinstance(said, Mapping):
            prefix = f"{key}." if key else ""
            return {name: self._out_of(value, f"{prefix}{name}") for name, value in said.items()}
        if isinstance(said, list | tuple):
            return [self._out_of(value, "") for value in said]
        return self._out_of_text(said) if isinstance(said, str) else said

    def _out_of_text(self, text: str) -> str:
        for value in sorted(self.values, key=len, reverse=True):
            if len(value) >= SHORTEST:
                text = text.replace(value, self.values[value])
        return TOKEN_IN_ADDRESS.sub(rf"\g<1>{HIDDEN}", USER_IN_ADDRESS.sub(_hidden_user, text))

    def _of_log(self, record: logging.LogRecord) -> bool:
        record.msg, record.args = self.out_of(record.getMessage()), ()
        return True


def resolved(recorded: Any) -> Any:
    """A recorded configuration with values from this environment; one that it lacks stays as it is written."""
    if isinstance(recorded, Mapping):
        return {key: resolved(value) for key, value in recorded.items()}
    if not isinstance(recorded, str) or not FROM_ENVIRONMENT.search(recorded):
        return recorded
    try:
        return OmegaConf.to_container(OmegaConf.create({"value": recorded}), resolve=True)["value"]  # type: ignore[index, call-overload]
    except OmegaConfBaseException:
        return recorded


def _hidden_user(found: re.Match[str]) -> str:
    return found[0] if found[0].startswith("${oc.env:") else HIDDEN


def _texts(node: Any, prefix: str = "") -> Iterator[tuple[str, str]]:
    """The texts of plain data, under dotted names."""
    if isinstance(node, Mapping):
        for key, value in node.items():
            yield from _texts(value, f"{prefix}.{key}" if prefix else str(key))
    elif isinstance(node, list | tuple):
        for value in node:
            yield from _texts(value, prefix)
    elif isinstance(node, str):
        yield prefix, node
