# SPDX-License-Identifier: GPL-2.0-or-later
"""Registers as declarations: a class with named bit fields; the limits of their words."""

from __future__ import annotations

from typing import Final, Self, overload

__all__ = ["U32_MAX", "U64_MAX", "Field", "Register"]

U32_MAX: Final = (1 << 32) - 1
U64_MAX: Final = (1 << 64) - 1


class Field:
    """Bits ``high`` down to ``low`` of a :class:`Register`, as the architecture manuals write them."""

    def __init__(self, high: int, low: int | None = None) -> None:
        self.low = high if low is None else low
        self.mask = (1 << (high - self.low + 1)) - 1

    @overload
    def __get__(self, register: None, owner: type[Register]) -> Self: ...
    @overload
    def __get__(self, register: Register, owner: type[Register]) -> int: ...
    def __get__(self, register: Register | None, owner: type[Register]) -> Self | int:
        if register is None:
            return self
        return (int(register) >> self.low) & self.mask

    def place(self, value: int) -> int:
        """Return ``value`` at this field's position.

        :raises ValueError: the value needs more bits than the field has.
        """
        if value & ~self.mask:
            raise ValueError(f"{value:#x} does not fit into {self.mask.bit_length()} bits")
        return value << self.low


class Register(int):
    """A register's value. Subclasses declare their :class:`Field` s.

    >>> class Spsr(Register):
    ...     daif = Field(9, 6)
    ...     mode = Field(3, 0)
    >>> Spsr(0x3C5).mode
    5
    >>> hex(Spsr.of(daif=15, mode=5))
    '0x3c5'
    """

    @classmethod
    def of(cls, **fields: int) -> Self:
        """Build a value from its fields; those not named are 0.

        :raises ValueError: a field's value does not fit.
        """
        own = cls.__dict__  # of getattr, a field would be asked in Python: an assembler does little else
        value = 0
        for name, part in fields.items():
            field: Field = own.get(name) or getattr(cls, name)
            value += part << field.low if part & ~field.mask == 0 else field.place(part)
        return cls(value)

    def with_(self, **fields: int) -> Self:
        """Return this value with some fields changed.

        :raises ValueError: a field's value does not fit.
        """
        value = int(self)
        for name, new in fields.items():
            field: Field = getattr(type(self), name)
            value = value & ~(field.mask << field.low) | field.place(new)
        return type(self)(value)
