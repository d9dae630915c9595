# SPDX-License-Identifier: GPL-2.0-or-later
"""States to JSON and back: declared dataclasses on this side, plain objects on the other.

A state is made of int, bool, str, bytes, None, list, tuple, dict with str keys, and other dataclasses.
In JSON, bytes are base64 text. Decoding takes exactly what was declared: a file or a peer is not trusted.

The library, cattrs, is imported at the first use, and json too: 24 ms that a run which saves nothing does not
pay.
"""

from __future__ import annotations

import binascii
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, Final, TypeAlias, TypeVar, get_origin

from pvtime.errors import SavedStateError

if TYPE_CHECKING:
    from cattrs import Converter

__all__ = ["JsonObject", "decode", "encode", "from_json", "to_json"]

JsonObject: TypeAlias = dict[str, Any]

T = TypeVar("T")

_ROOT: Final = "$"
"""How cattrs calls the whole document in a path."""

_DIGITS: Final = 640
"""Of a number; the widest of a machine are sets of 992 interrupts, one bit each."""


def encode(state: object) -> JsonObject:
    """Return a dataclass as what JSON can say."""
    document = _converter().unstructure(state)
    assert isinstance(document, dict)
    return document


def decode(cls: type[T], document: object, name: str) -> T:
    """Return the ``cls`` that ``document`` says.

    :param name: what the document is, for the message.
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


def to_json(document: JsonObject) -> str:
    """Return a document's text: one line a field, for people who look into it."""
    import json

    return json.dumps(document, indent=1, allow_nan=False)


def from_json(text: str | bytes, name: str) -> JsonObject:
    """Return the object that ``text`` says.

    :raises SavedStateError: it is not JSON, or no object, or has more than a machine's state ever has.
    """
    import json

    try:
        document = json.loads(text, parse_int=_parse_int)
    except (ValueError, RecursionError) as error:
        raise SavedStateError(f"{name} is not valid JSON: {error}") from None
    if type(document) is not dict:
        raise SavedStateError(f"{name} is not a JSON object")
    return document


def _parse_int(digits: str) -> int:
    if len(digits) > _DIGITS:
        raise ValueError(f"a number has {len(digits)} digits")
    return int(digits)


def _expect(document: object, kind: type, what: str) -> None:
    """Check the type exactly: a bool is no int here."""
    if type(document) is not kind:
        raise ValueError(f"is {_describe(document)}, not {what}")


def _describe(document: object) -> str:
    names = {dict: "an object", list: "a list", str: "a text", bool: "a bool", int: "a number"}
    return "null" if document is None else names.get(type(document), f"a {type(document).__name__}")


def _plain(kind: type[T], what: str) -> Callable[[object, object], T]:
    def structure(document: object, _type: object) -> T:
        _expect(document, kind, what)
        return document  # type: ignore[return-value]

    return structure


def _bytes(document: object, _type: object) -> bytes:
    _expect(document, str, "base64 text")
    assert isinstance(document, str)
    try:
        return binascii.a2b_base64(document, strict_mode=True)
    except ValueError as error:
        raise ValueError(f"is not base64 text: {error}") from None


def _text(data: bytes) -> str:
    return binascii.b2a_base64(data, newline=False).decode("ascii")


@cache
def _converter() -> Converter:
    from cattrs import Converter
    from cattrs.cols import (
        homogenous_tuple_structure_factory,
        list_structure_factory,
        mapping_structure_factory,
    )
    from cattrs.gen import make_dict_structure_fn

    converter = Converter()
    converter.register_structure_hook(int, _plain(int, "a number"))
    converter.register_structure_hook(bool, _plain(bool, "a bool"))
    converter.register_structure_hook(str, _plain(str, "a text"))
    converter.register_structure_hook(bytes, _bytes)
    converter.register_unstructure_hook(bytes, _text)

    # The library takes any iterable for a list, any mapping for an object, and fills in what is missing.
    def collection(origin: type, kind: type, what: str, make: Callable[..., Any]) -> None:
        def factory(cls: Any) -> Callable[[object, object], object]:
            structure = make(cls, converter)

            def strictly(document: object, _type: object) -> object:
                _expect(document, kind, what)
                return structure(document, cls)

            return strictly

        def applies(cls: Any) -> bool:
            return get_origin(cls) is origin

        converter.register_structure_hook_factory(applies, factory)

    collection(list, list, "a list", list_structure_factory)
    collection(tuple, list, "a list", homogenous_tuple_structure_factory)
    collection(dict, dict, "an object", mapping_structure_factory)

    def dataclass_factory(cls: Any) -> Callable[[object, object], object]:
        structure = make_dict_structure_fn(cls, converter)
        names = {field.name for field in fields(cls)}

        def strictly(document: object, _type: object) -> object:
            _expect(document, dict, "an object")
            assert isinstance(document, dict)
            if missing := sorted(names - document.keys()):
                raise ValueError(f"has no {', '.join(missing)}")
            if unknown := sorted(document.keys() - names):
                raise ValueError(f"has the unknown field {unknown[0][:40]!r}")
            return structure(document, cls)

        return strictly

    converter.register_structure_hook_factory(
        lambda cls: isinstance(cls, type) and is_dataclass(cls), dataclass_factory
    )
    return converter
