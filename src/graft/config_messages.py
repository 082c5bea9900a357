"""What is wrong with a configuration, in the words of its users: the key, the value, what is allowed, the nearest name.

Pydantic says where in its models a problem lies. Here that becomes the key that was typed, with the description that
the field has.
"""

from __future__ import annotations

from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from graft.suggestions import did_you_mean

Model = type[BaseModel]


def describe(problem: Any, root: Model) -> str:
    """One problem of a `ValidationError` of `root`, in one line."""
    key, field, model = _field_of(problem["loc"], root)
    value = _written(problem["input"])
    if problem["type"] == "extra_forbidden":
        return f"{key}={value}: there is no such key{did_you_mean(key.rsplit('.', 1)[-1], model.model_fields)}"
    if problem["type"] == "missing" and isinstance(problem["loc"][-1], str):
        return describe_missing(key, root)
    if problem["type"] == "union_tag_invalid":
        tag, allowed = problem["ctx"]["tag"], problem["ctx"]["expected_tags"].replace("'", "")
        # A data set's source follows its name where it is left out.
        tagged = "name" if isinstance(value, dict) and value.get("name") == tag else problem["ctx"]["discriminator"]
        return f"{key}.{tagged.strip(chr(39))}={tag}: allowed are {allowed}{did_you_mean(tag, allowed.split(', '))}"
    shown = "null" if value is None else str(value).lower() if isinstance(value, bool) else value
    if problem["type"] == "value_error":
        text = str(problem["ctx"]["error"])
        return f"{key}={shown}: {text}" if field is not None else f"{key}: {text}" if key else text
    if field is None or not field.description:
        return f"{key}={shown}: {problem['msg'].lower()}"
    near = did_you_mean(value, _words_of(field.annotation)) if isinstance(value, str) else ""
    return f"{key}={shown}: allowed is {field.description}{near}"


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
