# SPDX-License-Identifier: GPL-2.0-or-later
"""Encoding of states as JSON, and strict decoding.

A state is a dataclass of int, bool, str, bytes, None, enums, list, tuple, frozenset of numbers, dict with
str keys, and other dataclasses. In JSON, bytes are base64 text, an enum is its value, a set a sorted list.
Decoding accepts exactly the declared fields, types and ranges (:mod:`pvtime.schema`): a document comes from a
file or a peer, which is not trusted.

cattrs and json are imported at the first use: a run that saves nothing does not pay the 24 ms that they take.
"""

from __future__ import annotations

import binascii
from collections.abc import Callable, Collection
from dataclasses import fields, is_dataclass
from enum import Enum
from functools import cache, partial
from operator import eq
from types import GenericAlias, UnionType
from typing import (
    TYPE_CHECKING,
    Annotated,
    Any,
    Final,
    TypeAlias,
    TypeVar,
    Union,
    get_args,
    get_origin,
    get_type_hints,
)

from pvtime.errors import SavedStateError
from pvtime.schema import Rule

if TYPE_CHECKING:
    from cattrs import Converter

__all__ = ["JsonObject", "decode", "encode", "from_json", "prepare", "to_json"]

JsonObject: TypeAlias = dict[str, Any]

T = TypeVar("T")

Hook: TypeAlias = Callable[[Any, Any], Any]
"""Decodes a document, given the type: a structure hook of cattrs."""

_ROOT: Final = "$"
"""Name that cattrs gives the whole document in a path."""

_MAX_DIGITS: Final = 640
"""Digits of a number. The widest numbers of a machine are sets of 992 interrupts, one bit each."""


def prepare(*types: type) -> None:
    """Generate the code that encodes and decodes ``types``, which is done at the first use otherwise.

    Measured (2-core x86_64): 20 ms for a machine on the embedded engine, which a pause need not include.
    """
    for cls in types:
        _converter().get_unstructure_hook(cls)
        _converter().get_structure_hook(cls)


def encode(state: object) -> JsonObject:
    """Return a dataclass as a JSON object."""
    document = _converter().unstructure(state)
    assert isinstance(document, dict)
    return document


def decode(cls: type[T], document: object, name: str) -> T:
    """Return the instance of ``cls`` that ``document`` encodes.

    :param name: name of the document, for messages.
    :raises SavedStateError: a field is unknown, missing or of another type; the message has its path.
    """
    from cattrs import transform_error

    try:
        return _converter().structure(document, cls)
    except RecursionError:
        raise SavedStateError(f"{name} is nested too deeply") from None
    except Exception as error:
        first = transform_error(error, format_exception=lambda cause, _type: str(cause))[0]
        reason, _, path = first.rpartition(f" @ {_ROOT}")
        raise SavedStateError(f"{name}{path}: {reason}") from None


def to_json(document: JsonObject, *, compact: bool = False) -> str:
    """Return a document's text: one line a field, for people who read it.

    :param compact: in one line, for a peer. json is six times as fast without indentation.
    """
    import json

    return json.dumps(document, indent=None if compact else 1, allow_nan=False)


def from_json(text: str | bytes, name: str) -> JsonObject:
    """Parse the text of a JSON object.

    :param name: name of the text, for messages.
    :raises SavedStateError: it is not JSON, not an object, or has a number longer than any in a state.
    """
    import json

    try:
        # json would decode other encodings than UTF-8, and UTF-8 with surrogates.
        text = text if isinstance(text, str) else text.decode()
        document = json.loads(text, parse_int=_parse_int)
    except RecursionError:
        raise SavedStateError(f"{name} is nested too deeply") from None
    except UnicodeDecodeError as error:
        raise SavedStateError(f"{name} is not UTF-8 text: byte {error.start} is wrong") from None
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno}"
        raise SavedStateError(f"{name} is not valid JSON: look at {place}") from None
    except _NumberError as error:
        raise SavedStateError(f"{name}: {error}") from None
    if type(document) is not dict:
        raise SavedStateError(f"{name} is not a JSON object")
    return document


class _NumberError(Exception):
    """A number is longer than any in a state."""


def _parse_int(digits: str) -> int:
    if len(digits) > _MAX_DIGITS:
        raise _NumberError(f"a number has {len(digits)} digits")
    return int(digits)


def _strict(kind: type, what: str, inner: Hook) -> Hook:
    """Return a hook that accepts a document of exactly the type ``kind`` and passes it to ``inner``.

    cattrs itself accepts any iterable as a list, any mapping as an object, and a bool as an int.
    """

    def hook(document: object, cls: object) -> object:
        if type(document) is not kind:
            raise ValueError(f"is {_type_name(document)}, not {what}")
        return inner(document, cls)

    return hook


def _exactly(kind: type, what: str) -> Hook:
    """Return a hook that accepts a document of exactly the type ``kind``, and changes nothing.

    A state is numbers above all, so that this is most of a decoding.
    """

    def hook(document: object, _cls: object) -> object:
        if type(document) is not kind:
            raise ValueError(f"is {_type_name(document)}, not {what}")
        return document

    return hook


def _type_name(document: object) -> str:
    names = {dict: "an object", list: "a list", str: "a text", bool: "a bool", int: "a number"}
    return "null" if document is None else names.get(type(document), "a fraction")


def _encoded(document: JsonObject) -> JsonObject:
    """Return a document that is encoded already: cattrs would walk all of it again."""
    return document


def _from_base64(text: str, _cls: object) -> bytes:
    try:
        return binascii.a2b_base64(text, strict_mode=True)
    except ValueError as error:
        raise ValueError("is not base64 text") from error


def _to_base64(data: bytes) -> str:
    return binascii.b2a_base64(data, newline=False).decode("ascii")


def _enum_hook(cls: Any, _converter: Converter) -> Hook:
    members = {member.value: member for member in cls}

    def member(value: str, _cls: object) -> Enum:
        if value not in members:
            raise ValueError(f"is not one of {', '.join(members)}")
        found: Enum = members[value]
        return found

    return _strict(str, "a text", member)


def _hook_for(kind: Any, converter: Converter) -> Hook:
    hook = converter.get_structure_hook(kind)
    if get_origin(kind) not in (Union, UnionType):
        return hook  # which knows its type; cattrs would give it one without Annotated
    return lambda document, _cls: hook(document, kind)


def _dataclass_hook(cls: Any, converter: Converter) -> Hook:
    from cattrs.gen import make_dict_structure_fn, override

    # cattrs 26.2 drops Annotated where annotations are text.
    hints = get_type_hints(cls, include_extras=True)
    names = frozenset(field.name for field in fields(cls))
    hooks: Any = {name: override(struct_hook=_hook_for(hints[name], converter)) for name in names}
    inner = make_dict_structure_fn(cls, converter, **hooks)

    def hook(document: JsonObject, _cls: object) -> object:
        if document.keys() != names:  # cattrs fills in defaults, and drops the rest
            _refuse_fields(document, names)
        return inner(document, cls)

    return _strict(dict, "an object", hook)


def _refuse_fields(document: JsonObject, names: frozenset[str]) -> None:
    """Raise for a field that is missing or unknown; one of them is."""
    if missing := sorted(names - document.keys()):
        raise ValueError(f"has no {', '.join(missing)}")
    unknown = min(document.keys() - names)
    raise ValueError(f"has the unknown field {unknown[:40]!r}")


def _plain(kind: Any) -> tuple[type, list[Callable[[Any], object]]] | None:
    """Return type and conditions of values that are the same in JSON; None: ``kind`` is of others."""
    base, *annotations = get_args(kind) if _is_annotated(kind) else (kind,)
    if base not in (int, bool, str):
        return None
    return base, [rule.holds for rule in annotations if isinstance(rule, Rule)]


def _annotated_hook(cls: Any, converter: Converter) -> Hook:
    kind, *annotations = get_args(cls)
    inner = _hook_for(kind, converter)
    rules = [rule for rule in annotations if isinstance(rule, Rule)]
    plain = _plain(cls)
    base, holds = (plain[0], plain[1][0]) if plain is not None and len(rules) == 1 else (None, None)

    def hook(document: object, _cls: object) -> object:
        if holds is not None and type(document) is base and holds(document):
            return document  # as nearly always; the rest is for the message
        value = inner(document, kind)
        for rule in rules:
            if not rule.holds(value):
                raise ValueError(f"is not {rule.text}")
        return value

    return hook


def _frozenset_hook(cls: Any, converter: Converter) -> Hook:
    items: Any = GenericAlias(list, get_args(cls))
    return lambda document, _cls: frozenset(converter.structure(document, items))


def _is_generic(origin: type, cls: Any) -> bool:
    return get_origin(cls) is origin


def _is_annotated(cls: Any) -> bool:
    return get_origin(cls) is Annotated


def _is_subclass(base: type, cls: Any) -> bool:
    return isinstance(cls, type) and issubclass(cls, base)


@cache
def _converter() -> Converter:
    from cattrs import Converter, cols

    converter = Converter()
    converter.register_structure_hook(int, _exactly(int, "a number"))
    converter.register_structure_hook(bool, _exactly(bool, "a bool"))
    converter.register_structure_hook(str, _exactly(str, "a text"))
    converter.register_structure_hook(bytes, _strict(str, "base64 text", _from_base64))
    converter.register_unstructure_hook(bytes, _to_base64)
    converter.register_structure_hook_factory(partial(_is_subclass, Enum), _enum_hook)
    converter.register_structure_hook_factory(partial(_is_generic, frozenset), _frozenset_hook)
    converter.register_unstructure_hook_func(partial(_is_generic, frozenset), sorted)
    converter.register_unstructure_hook_func(partial(eq, JsonObject), _encoded)
    converter.register_structure_hook_factory(_is_annotated, _annotated_hook)
    for origin, kind, what, factory in (
        (list, list, "a list", cols.list_structure_factory),
        (tuple, list, "a list", cols.homogenous_tuple_structure_factory),
        (dict, dict, "an object", cols.mapping_structure_factory),
    ):
        converter.register_structure_hook_factory(
            partial(_is_generic, origin), _strict_factory(kind, what, factory)
        )
    converter.register_structure_hook_factory(is_dataclass, _dataclass_hook)
    return converter


def _strict_factory(
    kind: type, what: str, factory: Callable[[Any, Converter], Hook]
) -> Callable[[Any, Converter], Hook]:
    """Return a factory of the same hooks, each of which accepts ``kind`` alone."""

    def make(cls: Any, converter: Converter) -> Hook:
        inner = _strict(kind, what, factory(cls, converter))
        plain = _plain(get_args(cls)[1 if kind is dict else 0])
        return inner if plain is None else _plain_items_hook(cls, kind, inner, *plain)

    return make


def _plain_items_hook(
    cls: Any, kind: type, inner: Hook, base: type, conditions: list[Callable[[Any], object]]
) -> Hook:
    """Return a hook that takes many plain values at once if all of them are right, as they nearly always are.

    :param inner: decodes them one by one, and has the path of a wrong one.
    """
    make: Any = get_origin(cls)
    types: set[type] = {base}

    def are_right(items: Collection[Any]) -> bool:
        return {*map(type, items)} <= types and all(all(map(holds, items)) for holds in conditions)

    def hook(document: Any, _cls: object) -> object:
        accepted = type(document) is kind
        if accepted and kind is dict:
            accepted = are_right(document.values()) and all(type(key) is str for key in document)
        elif accepted:
            accepted = are_right(document)
        return make(document) if accepted else inner(document, cls)

    return hook
