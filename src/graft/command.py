"""How `train.py` ends: the exit status, and a few lines on stderr in place of a traceback.

0 done; 1 a run or some trial failed; 2 the configuration is wrong, nothing was started; 130 interrupted. The `graft`
command has the same, and 3: a verified rerun diverged.
"""

from __future__ import annotations

import json
import re
import shlex
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra._internal.utils import get_args_parser
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, Glob, Override, QuotedString
from hydra.errors import ConfigCompositionException, HydraException, MissingConfigException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from graft.disk import refusal_of, unwritable_of
from graft.errors import STATUS_CONFIG, STATUS_INTERRUPTED, GraftError
from graft.output import keep_output_going
from graft.printable import printable
from graft.secrets import Secrets
from graft.suggestions import allowed_options, did_you_mean_key


@contextmanager
def exit_statuses(config_dir: Path) -> Iterator[None]:
    """Ends the process with the status that an exception stands for.

    Args:
        config_dir: The application's configuration folder, where the nearest right names come from.

    Raises:
        SystemExit: in place of an error that is told in words. One that is a mistake of ours goes through.
    """
    keep_output_going()
    try:
        yield
    except GraftError as error:
        _stop(error.status, str(error))
    except (HydraException, OmegaConfBaseException, ValueError, TypeError, RecursionError, OSError) as error:
        if (unwritable := unwritable_of(error)) is not None:  # such as by Hydra, which makes the run's folder
            _stop(unwritable.status, str(unwritable))
        if isinstance(error, OSError) and not isinstance(error, HydraException):  # some of Hydra's are both
            if (refusal := refusal_of(error)) is not None:
                _stop(refusal.status, str(refusal))
            raise
        if isinstance(error, ValueError | TypeError | RecursionError) and not _raised_by_hydra(error):
            raise  # a mistake of ours, which its traceback explains best
        _stop(STATUS_CONFIG, "\n".join(_composition_problems(error, sys.argv[1:], config_dir)))
    except KeyboardInterrupt:
        _stop(STATUS_INTERRUPTED, "Interrupted")


def _raised_by_hydra(error: BaseException) -> bool:
    """Whether Hydra, its parser or OmegaConf raised `error`: some of their composition errors are plain ones."""
    frames = list(traceback.walk_tb(error.__traceback__))
    return bool(frames) and frames[-1][0].f_globals.get("__name__", "").split(".")[0] in (
        "hydra",
        "antlr4",
        "omegaconf",
    )


def _stop(status: int, text: str) -> None:
    print(printable(Secrets().out_of(text)), file=sys.stderr)
    raise SystemExit(status)


def _composition_problems(error: Exception, argv: Sequence[str], config_dir: Path) -> list[str]:
    """Everything that is wrong with the overrides, not only what Hydra stumbled over first.

    Composes again and again, each time without the override that the last failure named.
    """
    args = get_args_parser().parse_args(list(argv))
    problems: list[str] = []
    overrides: list[str] = []
    for text in args.overrides:
        try:
            override = OverridesParser.create().parse_override(text)
            if override.is_sweep_override() and not args.multirun:
                command = f"python train.py -m {shlex.join(args.overrides)}"
                problems.append(f"{text}: several values make a sweep, and a sweep needs -m: {command}")
            if isinstance(override.value(), Glob):
                continue  # as many options as there are, none of which is wrong
            single = _one_value(override)
            if options := _options_of_group(OverridesParser.create().parse_override(single), config_dir):
                problems.append(f"{text}: allowed are {', '.join(options)}")
            else:
                overrides.append(single)
        except RecursionError:
            problems.append(f"{text[:80]}…: this is nested too deeply to be read")
        except (HydraException, ValueError) as unreadable:
            problems.append(
                f"{text}: this is no override; key=value is one, and 'key=\"value\"' where the value has more "
                f"in it than ASCII letters, digits and -_./ Hydra says: {_first_lines(unreadable)}"
            )
    while True:
        composed, failure = _compose(args.config_name or "config", overrides, config_dir, args.config_dir)
        if failure is None:
            break
        at_fault = _at_fault(failure, overrides)
        if at_fault is None:
            return [*problems, _first_lines(failure)]
        overrides.remove(at_fault)
        problems.append(_describe(failure, at_fault))
    names = [*_dotted(composed), *(folder.name for folder in config_dir.iterdir() if folder.is_dir())]
    return [problem + _near(problem, names) for problem in problems] or [_first_lines(error)]


def _options_of_group(override: Override, config_dir: Path) -> list[str]:
    """The options of a group that is set to something that is no option's name, such as null; else nothing.

    Hydra refuses these without saying which override it means.
    """
    folder = config_dir / override.key_or_group
    if not folder.is_dir() or override.is_delete():
        return []
    value = override.value()
    named = all(isinstance(name, str | QuotedString) for name in (value if isinstance(value, list) else [value]))
    return (
        [] if named or override.key_or_group == "experiments" else sorted(file.stem for file in folder.glob("*.yaml"))
    )


def _compose(
    name: str, overrides: list[str], config_dir: Path, own_dir: str | None
) -> tuple[DictConfig, Exception | None]:
    """What Hydra composes with `own_dir`, the folder of ``--config-dir``, or why it does not."""
    GlobalHydra.instance().clear()
    if own_dir is not None and not any(text.startswith("hydra.searchpath=") for text in overrides):
        # JSON's quotes are those of Hydra's grammar, too.
        overrides = [*overrides, f"hydra.searchpath=[{json.dumps(f'file://{Path(own_dir).absolute()}')}]"]
    try:
        with initialize_config_dir(str(config_dir), version_base="1.3"):
            return compose(name, overrides=overrides, return_hydra_config=True), None
    except (HydraException, OmegaConfBaseException, ValueError, TypeError) as error:
        return OmegaConf.create(), error


def _one_value(override: Override) -> str:
    """The override as text, a sweep reduced to its first value: only its key can fail to compose."""
    assert override.input_line is not None
    if not override.is_sweep_override():
        return override.input_line
    sweep: Any = override.value()
    first = next(override.sweep_string_iterator(), None) if isinstance(sweep, ChoiceSweep) else "0"
    if first is None:  # shuffle() alone gets through Hydra's parser without any
        raise ValueError("there is nothing to choose from")
    return f"{override.get_key_element()}={first}"


def _at_fault(failure: Exception, overrides: list[str]) -> str | None:
    """The override that a composition error is about."""
    if isinstance(failure, MissingConfigException) and failure.missing_cfg_file:
        group, _, option = failure.missing_cfg_file.rpartition("/")
        suspects = [
            o for o in overrides if o.lstrip("+").split("=")[0].split("@")[0] == group and o.endswith(f"={option}")
        ]
        return suspects[-1] if suspects else None
    named = re.search(r"Could not (?:override|append to|delete from config)[^']*'([^']+)'", str(failure))
    if named is None:
        return None
    key = named.group(1).split("=")[0].lstrip("+~")
    return next((o for o in reversed(overrides) if re.split("[=@]", o.lstrip("+~"))[0] == key), None)


def _describe(failure: Exception, override: str) -> str:
    key, _, value = override.lstrip("+~").partition("=")
    if isinstance(failure, MissingConfigException):
        return f"{override}: {allowed_options(value, failure.options or [])}"
    if "Could not override" in str(failure):
        return f"{key}={value}: there is no such key"
    assert isinstance(failure, ConfigCompositionException | OmegaConfBaseException | ValueError | TypeError)
    return f"{override}: {_first_lines(failure)}"


def _near(problem: str, names: Sequence[str]) -> str:
    """The nearest right name for a key that does not exist."""
    if not problem.endswith("there is no such key"):
        return ""
    key = problem.split("=")[0]
    if key in names:  # a group that is not among the defaults, such as size
        return f"; did you mean +{problem.split(':')[0]}?"
    return did_you_mean_key(key, names)


def _dotted(config: DictConfig, prefix: str = "") -> list[str]:
    keys: list[str] = []
    for key in config:
        node = config._get_node(key)
        keys.append(f"{prefix}{key!s}")
        if isinstance(node, DictConfig) and not node._is_none() and not node._is_missing():
            keys += _dotted(node, f"{prefix}{key!s}.")
    return keys


def _first_lines(error: Exception) -> str:
    return "\n".join(line for line in str(error).strip().splitlines()[:3] if line.strip())
