"""What a sweep is: two commands with the same identity mean the same sweep, and one goes on with the other."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from omegaconf import DictConfig, OmegaConf

from graft.sweep.options import SweepOptions
from graft.sweep.space import Space

SECRET_WORDS = ("password", "passwd", "token", "secret", "api_key", "credential")


@dataclass(frozen=True)
class Identity:
    """What a sweep is: the same identity means that the same sweep is meant.

    Attributes:
        parts: Flat names and texts of configuration, space, settings and dependencies.
    """

    parts: Mapping[str, str]

    @property
    def digest(self) -> str:
        return hashlib.sha256(json.dumps(dict(self.parts), sort_keys=True).encode()).hexdigest()

    def differences(self, other: Mapping[str, str]) -> list[str]:
        """One line for each part that differs from `other`, the older one."""
        lines = []
        for name in sorted({*self.parts, *other}):
            before, now = other.get(name, "(not set)"), self.parts.get(name, "(not set)")
            if before != now:
                lines.append(f"  {name}: was {before}, now {now}")
        return lines


def identify(config: DictConfig, space: Space, options: SweepOptions, digests: Mapping[str, Sequence[str]]) -> Identity:
    """What makes two commands mean the same sweep. The budget is not part of it, so it may grow."""
    leaves = _leaves(config)
    parts = {f"config.{key}": text for key, text in leaves.items()}
    parts |= {f"space.{key}": str(definition) for key, definition in space.varied().items()}
    # Most fixed keys are leaves that the configuration shows already; a group's choice, or a value from
    # hydra.sweeper.params, is not.
    parts |= {
        f"space.{key}": _safe(key, text)
        for key, text in space.fixed().items()
        if leaves.get(key.lstrip("+"), "").lower() != text.lower()
    }
    parts |= {f"depends_on.{name}": ",".join(values) for name, values in digests.items()}
    parts["sweeper.direction"] = ",".join(options.directions)
    parts["sweeper.objective"] = ",".join(options.objectives)
    if not space.pure_grid:
        parts["sweeper.sampler"] = str(options.sampler.plain())
        parts["sweeper.seed"] = str(options.seed)
    if options.pruner is not None:
        parts["sweeper.pruner"] = str(options.pruner.plain())
    return Identity(parts)


def _leaves(config: DictConfig) -> dict[str, str]:
    """The task's configuration, flat and unresolved, for `${now:…}` differs each time. Secrets are hashed."""
    container = OmegaConf.to_container(config, resolve=False, enum_to_str=True)
    assert isinstance(container, dict)
    leaves: dict[str, str] = {}

    def walk(prefix: str, node: Any) -> None:
        if isinstance(node, dict) and node:
            for key, value in node.items():
                walk(f"{prefix}.{key}" if prefix else str(key), value)
        else:
            leaves[prefix] = _safe(prefix, str(node))

    walk("", {key: value for key, value in container.items() if key != "hydra"})
    return leaves


def _safe(key: str, text: str) -> str:
    """`text`, or its digest where `key` sounds like a secret: this is stored, and shown when it differs."""
    if any(word in key.lower() for word in SECRET_WORDS):
        return "sha256:" + hashlib.sha256(text.encode()).hexdigest()[:12]
    return text
