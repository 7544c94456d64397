#!/usr/bin/env python3
"""That `expected.Register` takes what may be and refuses what may not. Closes with 'N passed, N
failed'."""

import sys
import traceback

from expected import ABSENT, LATEST_EFFECT, Register, Violation, compare, content


def written(register, size=10):
    write = register.begin(size)
    register.end(write, acknowledged=True)
    return write.generation


def unsure(register, size=10, when=0.0):
    write = register.begin(size)
    register.note_unsure(write, when)
    register.end(write, acknowledged=False)
    return write.generation


def read(register, found, began=0.0):
    register.judge(register.mark(), began, found)


def refused(kind, register, found, began=0.0, mark=None):
    try:
        register.judge(register.mark() if mark is None else mark, began, found)
    except Violation as violation:
        assert violation.kind == kind, violation
        return
    raise AssertionError(f"{found} was taken, {kind} was meant")


def what_was_acknowledged_is_there():
    register = Register("k")
    read(register, ABSENT)
    first = written(register)
    read(register, first)
    refused("lost", register, ABSENT)
    second = written(register)
    read(register, second)
    refused("stale", register, first)
    written(register, None)
    read(register, ABSENT)
    refused("resurrected", register, second)
    refused("invented", register, 99)


def a_read_beside_a_write_finds_either():
    register = Register("k")
    first = written(register)
    mark = register.mark()
    write = register.begin(5)
    register.judge(mark, 0.0, first)
    register.judge(mark, 0.0, write.generation)
    # Seen once, it stays.
    refused("stale", register, first)
    register.end(write, acknowledged=True)
    # One that began before may have been answered before.
    register.judge(mark, 0.0, first)


def what_was_not_acknowledged_may_be_there():
    register = Register("k")
    first = written(register)
    second = unsure(register)
    read(register, first)
    read(register, second)
    refused("stale", register, first)


def a_write_that_was_refused_is_not_there():
    register = Register("k")
    first = written(register)
    write = register.begin(5)
    register.end(write, acknowledged=False)
    read(register, first)
    refused("stale", register, write.generation)


def an_unsure_write_comes_late_but_not_for_ever():
    register = Register("k")
    first = unsure(register, when=100.0)
    second = written(register)
    read(register, second, began=101.0)
    read(register, first, began=102.0)
    # It overtook the second, which is gone with that.
    refused("stale", register, second, began=103.0)
    third = written(register)
    refused("stale", register, first, began=101.0 + LATEST_EFFECT)
    read(register, third, began=103.0)


def an_unsure_removal_that_never_came_never_comes():
    register = Register("k")
    first = written(register)
    unsure(register, None, when=100.0)
    read(register, first, began=110.0)
    read(register, first, began=101.0 + LATEST_EFFECT)
    refused("lost", register, ABSENT, began=102.0 + LATEST_EFFECT)


def listings_are_judged_by_what_they_tell():
    register = Register("k")
    written(register, 10)
    mark = register.mark()
    register.judge(mark, 0.0, 1, lambda write: write.size == 10)
    try:
        register.judge(mark, 0.0, 1, lambda write: write.size == 11)
    except Violation:
        return
    raise AssertionError("a wrong size was taken")


def bytes_are_compared():
    body = content("k", 1, 100)
    assert compare("k", 1, 100, 0, body) is None
    assert compare("k", 1, 100, 40, body[40:60]) is None
    assert compare("k", 1, 100, 0, body + b"x")[0] == "wrong bytes"
    kind, detail, count = compare("k", 1, 100, 0, body[:50] + bytes([body[50] ^ 1]) + body[51:])
    assert (kind, count) == ("wrong bytes", 1) and "first at 50" in detail, detail
    assert compare("k", 2, 100, 0, body)[2] > 50


def main():
    checks = [what_was_acknowledged_is_there, a_read_beside_a_write_finds_either,
              what_was_not_acknowledged_may_be_there, a_write_that_was_refused_is_not_there,
              an_unsure_write_comes_late_but_not_for_ever,
              an_unsure_removal_that_never_came_never_comes,
              listings_are_judged_by_what_they_tell, bytes_are_compared]
    failed = 0
    for check in checks:
        try:
            check()
        except Exception:
            failed += 1
            print(f"FAILED {check.__name__}")
            traceback.print_exc(file=sys.stdout)
    print(f"{len(checks) - failed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
