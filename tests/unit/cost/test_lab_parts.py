# SPDX-License-Identifier: GPL-2.0-or-later
"""The parts of an update: a path as Linux 6.1 has it, and paths as no kernel has them."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pvtime.cost.lab_parts import Part, function_counts, parts_of
from pvtime.cost.lab_steps import ExecutedInstruction, FunctionRun

BL, RET, NOP, B_COND, CBNZ = 0x9400_0000, 0xD65F_03C0, 0xD503_201F, 0x5400_0000, 0x3500_0000
LDTR, STTR, LDR, LDRB_POST = 0xF840_085A, 0xF800_0A80, 0xF940_0000, 0x3840_1401

UPDATE = "kvm_update_stolen_time"


def path(*calls: tuple[str, list[int]]) -> FunctionRun:
    """Return a path of words in functions."""
    return FunctionRun(tuple(ExecutedInstruction(name, 0, word) for name, words in calls for word in words))


def test_each_instruction_is_in_the_part_of_the_outermost_call() -> None:
    run = path(
        (UPDATE, [NOP, BL]),
        ("__srcu_read_lock", [NOP, NOP, RET]),
        (UPDATE, [BL]),
        ("gfn_to_hva", [NOP, BL]),
        ("gfn_to_memslot", [RET]),
        ("gfn_to_hva", [RET]),
        (UPDATE, [NOP, B_COND, NOP, LDTR, CBNZ, NOP, BL]),  # an error?, access, an error?
        ("mark_page_dirty", [BL]),
        ("gfn_to_memslot", [NOP, RET]),
        ("mark_page_dirty", [RET]),
        (UPDATE, [BL]),
        ("something_new", [NOP, RET]),
        (UPDATE, [RET]),
    )
    assert parts_of(run) == {
        Part.SRCU: 3,
        Part.LOOKUP: 4,
        Part.ACCESS: 3,
        Part.DIRTY: 4,
        Part.REST: 2 + 1 + 2 + 2 + 1 + 2 + 1,
    }
    assert function_counts(run)["gfn_to_memslot"] == 3


def test_a_load_and_a_store_are_two_accesses() -> None:
    def own(word: int) -> tuple[str, list[int]]:
        return UPDATE, [B_COND, NOP, word, CBNZ, NOP, BL]

    run = path(own(LDTR), ("gfn_to_hva", [RET]), own(STTR), ("mark_page_dirty", [RET]), (UPDATE, [RET]))
    assert parts_of(run)[Part.ACCESS] == 6


def test_privileged_loads_are_no_user_access() -> None:
    run = path((UPDATE, [B_COND, LDR, LDRB_POST, CBNZ, RET]))
    assert parts_of(run)[Part.ACCESS] == 0


def test_copies_below_a_cached_write_are_user_accesses() -> None:
    run = path(
        ("pvtime_cached", [BL]),
        ("kvm_write_guest_cached", [NOP, BL]),
        ("__arch_copy_to_user", [NOP, NOP, RET]),
        ("kvm_write_guest_cached", [BL]),
        ("mark_page_dirty_in_slot", [RET]),
        ("kvm_write_guest_cached", [RET]),
        ("pvtime_cached", [RET]),
    )
    assert parts_of(run)[Part.ACCESS] == 3
    assert parts_of(run)[Part.DIRTY] == 1
    assert parts_of(run)[Part.REST] == 6


def test_a_call_through_a_veneer_is_a_call_of_what_it_jumps_to() -> None:
    run = path(
        ("pvtime_cached", [BL]),
        ("pvtime_exit", [NOP, NOP, 0xD61F_0200]),  # ADRP, ADD, BR: the veneers are behind the last function
        ("__srcu_read_lock", [NOP, RET]),
        ("pvtime_cached", [RET]),
    )
    assert parts_of(run)[Part.SRCU] == 2
    assert parts_of(run)[Part.REST] == 5


def test_accesses_that_no_look_up_precedes_are_the_rest() -> None:
    run = path(("pvtime_x86", [B_COND, NOP, LDTR, CBNZ, STTR, CBNZ, RET]))
    assert parts_of(run, tell_accesses=False)[Part.REST] == len(run)


WORDS = st.one_of(st.sampled_from([BL, RET, NOP, B_COND, CBNZ, LDTR, STTR]), st.integers(0, (1 << 32) - 1))
NAMES = st.sampled_from([UPDATE, "gfn_to_hva", "__srcu_read_lock", "mark_page_dirty", "other"])


@given(st.lists(st.builds(ExecutedInstruction, NAMES, st.integers(0, 400), WORDS), min_size=1, max_size=60))
def test_the_parts_add_up_on_any_path(instructions: list[ExecutedInstruction]) -> None:
    run = FunctionRun(tuple(instructions))
    assert sum(parts_of(run).values()) == len(run) == sum(function_counts(run).values())
