"""What is wrong with a configuration, in the words of its users: the key, the value, what is allowed, the nearest name.

Pydantic says where in its models a problem lies. Here that becomes the key that was typed, with the description that
the field has.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from graft.paths import CHECKOUT
from graft.suggestions import did_you_mean

GLOBAL = "# @package _global_"
"""The first line of a file that sets keys of the top level, and not those of its own group."""

Model = type[BaseModel]


def describe(problem: Any, root: Model) -> str:
    """One problem of a `ValidationError` of `root`, in one line."""
    key, field, model = _field_of(problem["loc"], root)
    value = _written(problem["input"])
    if problem["type"] == "extra_forbidden":
        return f"{key}={value}: there is no such key{_instead(key, value, model, root)}"
    if problem["type"] == "missing" and isinstance(problem["loc"][-1], str):
        return describe_missing(key, root)
    if problem["type"] in ("union_tag_invalid", "union_tag_not_found"):
        return _describe_tag(problem, key, value, root)
    shown = "null" if value is None else str(value).lower() if isinstance(value, bool) else value
    if problem["type"] == "value_error":
        text = str(problem["ctx"]["error"])
        return f"{key}={shown}: {text}" if field is not None else f"{key}: {text}" if key else text
    if problem["type"] == "literal_error" and field is not None and not field.description:
        words = _words_of(field.annotation)
        allowed = f"allowed {'is' if len(words) == 1 else 'are'} {', '.join(words)}"
        return f"{key}={shown}: {allowed}{did_you_mean(str(value), words)}"
    if field is None or not field.description:
        return f"{key}={shown}: {problem['msg'].lower()}"
    near = did_you_mean(value, _words_of(field.annotation)) if isinstance(value, str) else ""
    return f"{key}={shown}: allowed is {field.description}{near}"


def _instead(key: str, value: Any, model: Model, root: Model) -> str:
    """What was meant by a key of `model` that does not exist, as the end of a message."""
    group, _, name = key.rpartition(".")
    if group and name in root.model_fields:
        return f"; {name} is a key of the top level, which a file sets if its first line is {GLOBAL}"
    if not group and isinstance(value, Mapping) and _meant_for_the_top(key, value, root):
        return f"; a file of {key}/ sets keys of the top level if its first line is {GLOBAL}"
    holders = [held for held, field in root.model_fields.items() if _has(field, name)]
    if not group and len(holders) == 1:
        return f"; did you mean {holders[0]}.{name}?"
    return did_you_mean(name, model.model_fields)


def _meant_for_the_top(group: str, value: Mapping[Any, Any], root: Model) -> bool:
    """Whether `value` is what a file of `group` says, which only lacks its first line."""
    return (CHECKOUT / "conf" / group).is_dir() or any(name in root.model_fields for name in value)


def _has(field: FieldInfo, name: str) -> bool:
    return any(name in group.model_fields for group in _groups_of(field.annotation))


def _describe_tag(problem: Any, key: str, value: Any, root: Model) -> str:
    """A choice of groups whose tag, such as the name of an optimiser, is none of the right ones, or is not there."""
    group = value if isinstance(value, Mapping) else {}
    tagged = problem["ctx"]["discriminator"].strip("'")
    tags = [tag for each in _groups_of(root.model_fields[key].annotation) for tag in _tags_of(each)]
    more = ""
    if tagged == "source" and group.get("source") in (None, group.get("name")):
        # A data set's source follows its name where it is left out. Sets of TFDS have names of their own.
        tagged, more = "name", f", and with {key}=tfds (in a file, source: tfds) any name of TFDS's"
        tags.remove("tfds")
    allowed = f"allowed are {', '.join(tags)}{more}"
    given = _written(group.get(tagged))
    if given is None:
        return f"{key}.{tagged} is not set; {allowed}"
    return f"{key}.{tagged}={given}: {allowed}{did_you_mean(str(given), tags)}"


def _written(value: Any) -> Any:
    """`value`, or a text for it where Python does not write it out: YAML reads hexadecimal numbers of any length."""
    try:
        str(value)
    except ValueError:
        return "a number of thousands of digits"
    return value


def describe_missing(key: str, root: Model) -> str:
    """A key of `root` that has no value."""
    _, field, _ = _field_of(tuple(key.split(".")), root)
    allowed = f": {field.description}" if field is not None and field.description else ""
    return f"{key} is not set; give it as {key}=…{allowed}"


def _field_of(location: tuple[int | str, ...], root: Model) -> tuple[str, FieldInfo | None, Model]:
    """The dotted key of an error, the pydantic field there (or None), and the model that was to hold it.

    The location of an error inside a tagged union contains the tag (`dataset`, `image_folder`, `path`), and one
    inside an optional or a pair ends in more than the key; neither is a key that users know.
    """
    model = root
    keys: list[str] = []
    field: FieldInfo | None = None
    for part in location:
        groups = _groups_of(field.annotation) if field is not None else [model]
        by_tag = {tag: group for group in groups for tag in _tags_of(group)} if len(groups) > 1 else {}
        if part in by_tag:
            model, field = by_tag[str(part)], None
            continue
        if not groups or not isinstance(part, str):
            break
        # Where no tag says which member of a union is meant, one that has such a key, and says what it is.
        having = [group for group in groups if part in group.model_fields] or groups
        model = next(
            (group for group in having if part in group.model_fields and group.model_fields[part].description),
            having[0],
        )
        field = model.model_fields.get(part)
        keys.append(part)
        if field is None:
            break
    return ".".join(keys), field, model


def _groups_of(annotation: object) -> list[Model]:
    """The models that a field may hold: one for a group, several for a choice of groups, none for a plain value."""
    members = get_args(annotation) or (annotation,)
    return [member for member in members if isinstance(member, type) and issubclass(member, BaseModel)]


def _tags_of(group: Model) -> tuple[str, ...]:
    return get_args(group.model_fields["source" if "source" in group.model_fields else "name"].annotation)


def _words_of(annotation: object) -> list[str]:
    """The words that a field may be, such as ``none``, ``flip`` and ``standard``."""
    if get_origin(annotation) is Literal:
        return [word for word in get_args(annotation) if isinstance(word, str)]
    return [word for member in get_args(annotation) for word in _words_of(member)]
