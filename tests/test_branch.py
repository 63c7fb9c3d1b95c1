"""The tree of supersteps alone: what a frame offers, what a verdict does to it, and how far a window reaches."""

from __future__ import annotations

from typing import Any

import pytest

from langgraph_speculative._branch import Choice, Frame, FrameState, Proposal, Verdict, Window, judge
from langgraph_speculative._values import Id


class Ran:
    """What a frame looks at of an execution."""

    def __init__(self, *proposals: Proposal, has_output: bool = False) -> None:
        self.proposals = list(proposals)
        self.has_output = has_output
        self.leaves: list[Any] = []


def guess(confidence: float = 0.5, verdict: Verdict = Verdict.OPEN) -> Proposal:
    return Proposal(output=None, confidence=confidence, verdict=verdict)


def frame_of(*executions: Any, real: bool = False) -> Frame:
    frame = Frame(None, 7, parent=None if real else Frame(None, 6, parent=None))
    frame.executions = list(executions)
    frame.tasks = list(range(len(executions)))
    return frame


def child_of(frame: Frame, *choice: Proposal | None, state: FrameState = FrameState.RUNNING) -> Frame:
    child = Frame(None, frame.step + 1, parent=frame, choice=choice)
    child.state = state
    frame.children[choice] = child
    return child


def test_a_frame_without_a_parent_is_the_runs() -> None:
    real = Frame("loop", 3, parent=None)
    assert real.state is FrameState.REAL
    assert real.is_real
    assert (real.loop, real.step, real.parent, real.choice) == ("loop", 3, None, ())
    assert repr(real) == "<Frame step=3 REAL children=0>"


def test_a_frame_below_another_starts_forking() -> None:
    p = guess()
    parent = Frame("loop", 3, parent=None)
    child = Frame("its loop", 4, parent=parent, choice=(p, None))
    parent.children[child.choice] = child
    assert child.state is FrameState.FORKING
    assert not child.is_real
    assert child.parent is parent
    assert child.choice == (p, None)
    assert repr(child) == "<Frame step=4 FORKING children=0>"
    assert repr(parent) == "<Frame step=3 REAL children=1>"


def test_a_new_frame_stands_on_nothing_and_goes_on() -> None:
    frame = Frame(None, 0, parent=None)
    assert (frame.children, frame.tasks, frame.executions, frame.fixed) == ({}, [], [], [])
    assert (frame.snapshot, frame.known, frame.twin, frame.lent) == (None, None, None, None)
    assert (frame.taint(), frame.is_twin, frame.over, frame.expected) == (frozenset(), False, False, 0)


def test_a_new_guess_is_open_and_free() -> None:
    p = Proposal("output", 0.25)
    assert (p.output, p.confidence, p.frozen) == ("output", 0.25, None)
    assert p.verdict is Verdict.OPEN
    assert p.taint == frozenset()
    assert p.journals == ()
    assert p != Proposal("output", 0.25)


@pytest.mark.parametrize(
    ("tasks", "executions", "fixed", "expected", "complete"),
    [
        (0, 0, 0, 0, False),
        (2, 0, 0, 0, False),
        (2, 1, 0, 0, False),
        (2, 2, 0, 0, True),
        (1, 1, 0, 0, True),
        (3, 2, 1, 2, True),
        (3, 1, 1, 2, False),
        (3, 3, 0, 2, False),
        (0, 0, 1, 0, True),
        (0, 2, 0, 2, True),
    ],
)
def test_a_frame_is_complete_with_all_its_executions(
    tasks: int, executions: int, fixed: int, expected: int, complete: bool
) -> None:
    frame = Frame(None, 0, parent=None)
    frame.tasks = list(range(tasks))
    frame.executions = [Ran() for _ in range(executions)]  # type: ignore[misc]
    frame.fixed = list(range(fixed))
    frame.expected = expected
    assert frame.is_complete is complete


def test_a_line_of_frames_uses_its_executions_and_their_leaves() -> None:
    top, middle, bottom, leaf, deep, beside = (Ran() for _ in range(6))
    top.leaves = [leaf]
    bottom.leaves = [deep]
    root = frame_of(top, real=True)
    between = Frame(None, 8, parent=root)
    between.executions = [middle]  # type: ignore[list-item]
    end = Frame(None, 9, parent=between)
    end.executions = [bottom]  # type: ignore[list-item]
    other = Frame(None, 9, parent=between)
    other.executions = [beside]  # type: ignore[list-item]
    assert end.used() == {top, leaf, middle, bottom, deep}
    assert other.used() == {top, leaf, middle, beside}
    assert root.used() == {top, leaf}
    assert Frame(None, 0, parent=None).used() == set()


def test_options_are_ordered_by_confidence_without_refuted_ones() -> None:
    low, high, middle = guess(0.1), guess(0.9), guess(0.5)
    refuted, right = guess(1.0, Verdict.WRONG), guess(0.3, Verdict.RIGHT)
    frame = frame_of(Ran(low, refuted, high, middle, right), Ran(), Ran(refuted))
    assert frame.options() == [[high, middle, right, low], [], []]


def test_equally_confident_options_keep_their_order() -> None:
    a, b, c = guess(0.5), guess(0.5), guess(0.6)
    assert frame_of(Ran(a, b, c)).options() == [[c, a, b]]


def test_a_known_output_is_taken_as_it_is_or_as_the_right_guess() -> None:
    right, second = guess(0.1, Verdict.RIGHT), guess(0.9, Verdict.RIGHT)
    wrong, open_ = guess(0.9, Verdict.WRONG), guess(0.8)
    frame = frame_of(
        Ran(wrong, open_, right, second, has_output=True), Ran(wrong, open_, has_output=True), Ran(has_output=True)
    )
    assert frame.options() == [[right], [None], [None]]


def test_the_most_confident_choices_are_forked_up_to_the_breadth() -> None:
    a, b, c = guess(0.2), guess(0.9), guess(0.5)
    frame = frame_of(Ran(a, b, c))
    assert frame.next_choices(0) == []
    assert frame.next_choices(1) == [(b,)]
    assert frame.next_choices(2) == [(b,), (c,)]
    assert frame.next_choices(3) == [(b,), (c,), (a,)]
    assert frame.next_choices(9) == [(b,), (c,), (a,)]


def test_children_that_live_take_up_the_breadth_and_dead_ones_do_not() -> None:
    a, b, c = guess(0.9), guess(0.5), guess(0.2)
    frame = frame_of(Ran(a, b, c))
    child = child_of(frame, a)
    for state in (FrameState.FORKING, FrameState.RUNNING, FrameState.ENDED):
        child.state = state
        assert frame.next_choices(1) == []
        assert frame.next_choices(2) == [(b,)]
    child.state = FrameState.DEAD
    assert frame.next_choices(1) == [(b,)], "a dead child is not forked again"
    assert frame.next_choices(2) == [(b,), (c,)]


def test_no_choice_while_a_task_has_neither_output_nor_guess() -> None:
    assert frame_of(Ran(guess()), Ran()).next_choices(4) == []
    assert frame_of(Ran(guess()), Ran(guess(1.0, Verdict.WRONG))).next_choices(4) == []


def test_choices_over_several_tasks_are_ordered_by_joint_confidence() -> None:
    a1, a2 = guess(0.6), guess(0.5)
    b1, b2 = guess(0.9), guess(0.1)
    frame = frame_of(Ran(a2, a1), Ran(b1, b2))
    # 0.54, 0.45, 0.06, 0.05: the product, not the order of the options.
    assert frame.next_choices(4) == [(a1, b1), (a2, b1), (a1, b2), (a2, b2)]
    assert frame.next_choices(2) == [(a1, b1), (a2, b1)]


def test_joint_confidence_multiplies() -> None:
    a1, a2 = guess(0.95), guess(0.5)
    b1, b2 = guess(0.5), guess(0.15)
    # (a1, b2) has the greater sum (1.10 to 1.00), (a2, b1) the greater product (0.25 to 0.14).
    assert frame_of(Ran(a1, a2), Ran(b1, b2)).next_choices(2) == [(a1, b1), (a2, b1)]


def test_a_known_output_beside_a_guess() -> None:
    known, right = Ran(has_output=True), guess(0.01, Verdict.RIGHT)
    a, b = guess(0.2), guess(0.9)
    frame = frame_of(known, Ran(a, b), Ran(right, has_output=True))
    assert frame.next_choices(3) == [(None, b, right), (None, a, right)]
    assert frame.next_choices(1) == [(None, b, right)]
    child_of(frame, None, b, right)
    assert frame.next_choices(1) == []


def test_few_combinations_are_looked_at() -> None:
    first, others = guess(0.9), [guess(0.5) for _ in range(20)]
    frame = frame_of(Ran(first), Ran(*others))
    for other in others[:15]:
        child_of(frame, first, other, state=FrameState.DEAD)
    assert frame.next_choices(1) == [(first, others[15])]
    child_of(frame, first, others[15], state=FrameState.DEAD)
    assert frame.next_choices(1) == []
    assert frame.next_choices(2) == [(first, others[16]), (first, others[17])]


def test_a_branch_with_all_outputs_known_goes_on_whatever_the_breadth() -> None:
    right, wrong = guess(0.5, Verdict.RIGHT), guess(0.5, Verdict.WRONG)
    frame = frame_of(Ran(right, has_output=True), Ran(wrong, has_output=True))
    child_of(frame, wrong, wrong)
    assert frame.next_choices(1) == [(right, None)]
    assert frame.next_choices(2) == [(right, None)]
    child_of(frame, right, None)
    assert frame.next_choices(4) == []


def test_the_run_itself_goes_on_where_all_outputs_are_known() -> None:
    done, pending = Ran(has_output=True), Ran(p := guess())
    twin = frame_of(done)
    twin.is_twin = True
    assert twin.next_choices(2) == []
    assert frame_of(done, real=True).next_choices(2) == []
    assert frame_of(done).next_choices(2) == [(None,)]
    assert frame_of(done, pending, real=True).next_choices(2) == [(None, p)]
    twin.executions.append(pending)  # type: ignore[arg-type]
    assert twin.next_choices(2) == [(None, p)]


def test_children_on_a_wrong_guess_are_refuted() -> None:
    right, open_, wrong = guess(verdict=Verdict.RIGHT), guess(), guess(verdict=Verdict.WRONG)
    frame = frame_of(Ran(), Ran())
    child_of(frame, right, open_)
    child_of(frame, None, None)
    child_of(frame, wrong, open_, state=FrameState.DEAD)
    first = child_of(frame, wrong, right)
    second = child_of(frame, None, wrong, state=FrameState.ENDED)
    third = child_of(frame, wrong, wrong, state=FrameState.FORKING)
    assert frame.refuted_children() == [first, second, third]


@pytest.mark.parametrize(
    ("choice", "confirmed"),
    [
        ((None, "right"), True),
        ((None, None), False),
        (("right", "right"), True),
        ((None, "open"), False),
        ((None, "wrong"), False),
        (("open", "right"), False),
        (("right", None), False),
    ],
)
def test_the_confirmed_child_stands_on_what_is_known(choice: tuple[str | None, ...], confirmed: bool) -> None:
    """The first task has its output, the second has none yet."""
    guesses = {v.name.lower(): guess(verdict=v) for v in Verdict}
    frame = frame_of(Ran(has_output=True), Ran(has_output=False))
    key: Choice = tuple(guesses[c] if c else None for c in choice)
    child_of(frame, guesses["wrong"], guesses["wrong"])
    child = child_of(frame, *key)
    assert frame.confirmed_child() is (child if confirmed else None)
    child.state = FrameState.DEAD
    assert frame.confirmed_child() is None


def test_a_dead_child_does_not_hide_the_confirmed_one() -> None:
    a, b = guess(verdict=Verdict.RIGHT), guess(verdict=Verdict.RIGHT)
    frame = frame_of(Ran(a, b, has_output=True))
    child_of(frame, a, state=FrameState.DEAD)
    assert frame.confirmed_child() is None
    living = child_of(frame, b, state=FrameState.ENDED)
    assert frame.confirmed_child() is living
    assert frame_of().confirmed_child() is None


def test_a_choice_names_every_task() -> None:
    frame = frame_of(Ran(has_output=True), Ran(has_output=True))
    child_of(frame, None)
    with pytest.raises(ValueError, match="argument 2 is longer"):
        frame.confirmed_child()


def judged(frozen: Any, actual: Any, known: set[str] = frozenset()) -> Verdict:  # type: ignore[assignment]
    p = guess()
    p.frozen = frozen
    judge(Ran(p), actual, known)  # type: ignore[arg-type]
    return p.verdict


def test_a_guess_is_right_if_it_has_the_same_content() -> None:
    assert judged(("list", 1, "x"), ("list", 1, "x")) is Verdict.RIGHT
    assert judged(("list", 1, "x"), ("list", 1, "y")) is Verdict.WRONG
    assert judged((), ()) is Verdict.RIGHT


def test_what_cannot_be_frozen_is_not_right() -> None:
    assert judged(None, None) is Verdict.WRONG
    assert judged(None, ("list",)) is Verdict.WRONG
    assert judged(("list",), None) is Verdict.WRONG
    assert judged(None, Id("a")) is Verdict.WRONG
    assert judged(Id("a"), None) is Verdict.WRONG


def test_a_guess_may_have_ids_of_its_own() -> None:
    assert judged(("m", Id("a")), ("m", Id("b"))) is Verdict.RIGHT
    assert judged(("m", Id("a")), ("m", Id("b")), {"a"}) is Verdict.WRONG
    assert judged(("m", Id("a")), ("m", Id("b")), {"b"}) is Verdict.WRONG
    assert judged(("m", None), ("m", Id("b"))) is Verdict.RIGHT
    assert judged(("m", Id("a")), ("m", None)) is Verdict.RIGHT
    assert judged(("m", None), ("m", Id("b")), {"b"}) is Verdict.WRONG


def test_each_open_guess_is_judged_once() -> None:
    fits, differs, before, against = guess(), guess(), guess(verdict=Verdict.WRONG), guess(verdict=Verdict.RIGHT)
    for p, frozen in ((fits, ("x",)), (differs, ("y",)), (before, ("x",)), (against, ("y",))):
        p.frozen = frozen
    judge(Ran(against, differs, before, fits), ("x",), ())  # type: ignore[arg-type]
    assert fits.verdict is Verdict.RIGHT
    assert differs.verdict is Verdict.WRONG
    assert before.verdict is Verdict.WRONG
    assert against.verdict is Verdict.RIGHT


def test_nothing_is_within_a_window_before_the_run_has_come_to_its_graph() -> None:
    calls: list[str] = []
    window = Window(2)
    assert not window
    window.when_within(1, -5, lambda: calls.append("go"))
    assert calls == []
    assert window
    window.advance(2, 10)
    assert calls == []
    window.advance(1, 0)
    assert calls == ["go"]
    assert not window


def test_a_window_reaches_its_depth_ahead() -> None:
    calls: list[int] = []
    window = Window(2)
    window.advance(1, 4)
    for step in (3, 4, 6, 7, 8):
        window.when_within(1, step, lambda step=step: calls.append(step))  # type: ignore[misc]
    assert calls == [3, 4, 6]
    window.advance(1, 4)
    assert calls == [3, 4, 6]
    window.advance(1, 5)
    assert calls == [3, 4, 6, 7]
    assert window
    window.advance(1, 6)
    assert calls == [3, 4, 6, 7, 8]
    window.advance(1, 7)
    assert calls == [3, 4, 6, 7, 8]
    assert not window


def test_each_graph_has_a_window_of_its_own() -> None:
    calls: list[str] = []
    window = Window(0)
    window.advance(1, 9)
    window.when_within(2, 1, lambda: calls.append("two"))
    window.when_within(1, 10, lambda: calls.append("one"))
    window.advance(2, 0)
    assert calls == []
    window.advance(1, 10)
    assert calls == ["one"]
    window.advance(2, 1)
    assert calls == ["one", "two"]


def test_what_waited_goes_in_order_and_may_wait_again() -> None:
    calls: list[str] = []
    window = Window(0)

    def again() -> None:
        calls.append("again")
        window.when_within(1, 2, lambda: calls.append("later"))

    window.when_within(1, 1, again)
    window.when_within(1, 1, lambda: calls.append("second"))
    window.advance(1, 1)
    assert calls == ["again", "second"]
    assert window
    window.advance(1, 2)
    assert calls == ["again", "second", "later"]


def test_a_cleared_window_forgets_what_waited() -> None:
    calls: list[str] = []
    window = Window(1)
    window.when_within(1, 1, lambda: calls.append("go"))
    window.clear()
    assert not window
    window.advance(1, 1)
    assert calls == []
    window.when_within(1, 2, lambda: calls.append("within"))
    assert calls == ["within"]
