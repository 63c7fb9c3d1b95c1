"""The command line: targets, refusals, inspect and compare."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from langgraph_speculative import cli
from langgraph_speculative._target import CommandError, _module, load_graph

APP = '''
"""A graph of three steps: two that look, one that nobody declared in `loose`."""
import itertools
import operator
from typing import Annotated, TypedDict

from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import END, START, StateGraph
from langgraph_speculative import Policy, speculative

import neighbour


class State(TypedDict):
    log: Annotated[list, operator.add]


def look(state):
    return {"log": [f"look {len(state['log'])}"]}


def think(state):
    return {"log": [f"think {len(state['log'])}"]}


def build(declared=True, checkpointer=None, last=think):
    builder = StateGraph(State)
    metadata = {"speculation": {"effect": "read"}} if declared else None
    builder.add_node("look", look, metadata=metadata)
    builder.add_node("think", last, metadata=metadata)
    builder.add_edge(START, "look")
    builder.add_edge("look", "think")
    builder.add_edge("think", END)
    return builder.compile(checkpointer=checkpointer)


graph = build()
loose = build(declared=False)
saver = InMemorySaver()
remembering = build(checkpointer=saver)
fast = speculative(build(), speculators={"look": look}, policy=Policy(depth=2))
counter = itertools.count()
moody = build(last=lambda state: {"log": [next(counter)]})


def failing(state):
    raise RuntimeError("the house\\nis on fire")


broken = build(last=failing)
uncompiled = StateGraph(State)
number = 3


def make():
    return build()


async def amake():
    return build()


def needs(config):
    return build()


def raises():
    raise LookupError("no key")


def wrong():
    return 3
'''

MODEL_APP = '''
"""An agent on a model that answers differently each time."""
import itertools
from typing import Any

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from langgraph.graph import END, START, MessagesState, StateGraph

moods = itertools.count(1)


class Moody(BaseChatModel):
    @property
    def _llm_type(self):
        return "moody"

    def _generate(self, messages, stop=None, run_manager=None, **kwargs):
        message = AIMessage(f"mood {next(moods)} after {len(messages)}")
        return ChatResult(generations=[ChatGeneration(message=message)])


model = Moody()


def build(effect="pure"):
    builder = StateGraph(MessagesState)
    for name in ("one", "two"):
        builder.add_node(
            name,
            lambda state: {"messages": [model.invoke(state["messages"])]},
            metadata={"speculation": {"effect": effect}},
        )
    builder.add_edge(START, "one")
    builder.add_edge("one", "two")
    builder.add_edge("two", END)
    return builder.compile()


graph = build()
'''


@pytest.fixture
def app(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A directory with graphs, as the working directory; nothing of it stays imported."""
    (tmp_path / "app.py").write_text(APP)
    (tmp_path / "moody_app.py").write_text(MODEL_APP)
    (tmp_path / "neighbour.py").write_text("")
    (tmp_path / "syntax.py").write_text("graph = (\n")
    (tmp_path / "input.json").write_text('{"log": []}')
    (tmp_path / "messages.json").write_text('{"messages": [{"role": "user", "content": "hi"}]}')
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    before = set(sys.modules)
    yield tmp_path
    _module.cache_clear()
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(tmp_path)):
            del sys.modules[name]


def run(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[int, str, str]:
    status = cli.main(list(argv))
    out, err = capsys.readouterr()
    return status, out, err


# -- targets


@pytest.mark.parametrize("target", ["app.py:graph", "app:graph", "./app.py:make", "app:amake", "app:remembering"])
def test_targets(app: Path, target: str) -> None:
    assert set(load_graph(target).nodes) == {"__start__", "look", "think"}


def test_an_async_factory_runs_where_the_graph_will(app: Path) -> None:
    with asyncio.Runner() as runner:
        assert load_graph("app.py:amake", runner).nodes


def test_graph_and_draft_of_one_file_share_it(app: Path) -> None:
    assert load_graph("app.py:graph") is load_graph("app.py:graph")


def test_a_file_may_be_called_like_a_module_that_is_loaded(app: Path) -> None:
    (app / "json.py").write_text("from app import graph")
    assert load_graph("json.py:graph").nodes
    assert sys.modules["json"] is json


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("app.py", "write FILE.py:NAME"),
        ("app.py:", "write FILE.py:NAME"),
        ("nowhere.py:graph", "nowhere.py does not exist"),
        ("nowhere:graph", "nowhere cannot be imported: ModuleNotFoundError"),
        ("syntax.py:graph", "syntax.py cannot be imported: SyntaxError"),
        ("app.py:grph", "has no 'grph'. Graphs in it: broken, fast, graph"),
        ("app.py:uncompiled", r"\.compile\(\)"),
        ("app.py:number", "is a int, not a compiled graph"),
        ("app.py:State", "not a compiled graph"),
        ("app.py:needs", "required arguments"),
        ("app.py:raises", r"app.py:raises\(\) raised LookupError: no key"),
        ("app.py:wrong", r"app.py:wrong\(\) returned a int"),
    ],
)
def test_bad_targets(app: Path, capsys: pytest.CaptureFixture[str], target: str, message: str) -> None:
    with pytest.raises(CommandError, match=message):
        load_graph(target)
    status, out, err = run(capsys, "inspect", target)
    assert status == 2
    assert out == ""
    assert err.startswith("langgraph-speculative inspect: ")
    assert err.count("\n") == 1


# -- inspect


def test_inspect_prints_the_table_and_what_to_declare(app: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, err = run(capsys, "inspect", "app.py:loose")
    assert (status, err) == (0, "")
    for part in ("effect", "reason", "look", "think", "undeclared", "effects={", '"look": "irreversible"'):
        assert part in out


def test_inspect_shows_a_speculative_graph_as_it_is(app: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = run(capsys, "inspect", "app.py:fast")
    assert status == 0
    assert "read" in out
    assert "undeclared" not in out


# -- compare


@pytest.mark.parametrize("mode", ["--runs=2", "--sync"])
@pytest.mark.parametrize("target", ["app.py:graph", "app.py:amake", "app.py:remembering", "app.py:fast"])
def test_compare_equal(app: Path, capsys: pytest.CaptureFixture[str], target: str, mode: str) -> None:
    status, out, err = run(capsys, "compare", target, "--input", "input.json", "--runs=1", mode)
    assert status == 0, err
    assert "Equal, checked" in out
    assert "median" in out


def test_compare_leaves_the_checkpointer_alone(app: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, "compare", "app.py:remembering", "--input", "input.json", "--runs=1")[0] == 0
    assert list(load_graph("app.py:remembering").checkpointer.list(None)) == []


def test_compare_with_draft_and_config(app: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (app / "config.json").write_text('{"configurable": {"thread_id": "mine"}, "recursion_limit": 5}')
    argv = ["--draft=app.py:graph", "--config=config.json", "--depth=2", "--breadth=2"]
    argv += ["--effect=look=pure", "--effect=think=pure"]
    status, out, err = run(capsys, "compare", "app.py:remembering", "--input", "input.json", "--runs=1", *argv)
    assert status == 0, err
    assert "Equal, checked" in out


def test_compare_runs_a_speculative_graph_plain_for_comparison(app: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, "compare", "app.py:fast", "--input", "input.json", "--runs=2")[0] == 0
    assert load_graph("app.py:fast").report().runs == 2


def test_compare_says_when_there_is_nothing_to_speculate(app: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, _, err = run(capsys, "compare", "app.py:graph", "--input", "input.json", "--runs=1")
    assert status == 0
    assert "note: speculation is inactive" in " ".join(err.split())


def test_compare_refuses_effects_that_nobody_declared(app: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, err = run(capsys, "compare", "app.py:loose", "--input", "input.json")
    assert (status, out) == (2, "")
    for part in (
        "'look' (undeclared)",
        "'think' (undeclared)",
        "--allow-effects",
        "--effect look=read",
        "inspect",
    ):
        assert part in err
    status, _, err = run(capsys, "compare", "app.py:loose", "--input", "input.json", "--effect", "look=read")
    assert status == 2
    assert "'look'" not in err


@pytest.mark.parametrize("argv", [["--allow-effects"], ["--effect=look=read", "--effect=think=pure"]])
def test_compare_runs_what_was_allowed(app: Path, capsys: pytest.CaptureFixture[str], argv: list[str]) -> None:
    status, out, _ = run(capsys, "compare", "app.py:loose", "--input", "input.json", "--runs=1", *argv)
    assert status == 0
    assert "Equal" in out


def test_compare_prints_the_first_difference(
    app: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from langgraph_speculative import _trial

    speculative = _trial.Runs.speculative

    def wrong(*args: object) -> _trial.Timed:
        timed = speculative(*args)  # type: ignore[arg-type]
        return _trial.Timed({"log": ["look 0", "[think] 2"]}, timed.seconds, timed.report)

    monkeypatch.setattr(_trial.Runs, "speculative", wrong)
    status, out, _ = run(capsys, "compare", "app.py:graph", "--input", "input.json", "--runs=1")
    assert status == 1
    assert "NOT EQUAL: log[1]: 'think 1' in the plain run, '[think] 2' in the speculative run" in " ".join(out.split())


def test_compare_reports_a_speculative_run_that_fails(
    app: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from langgraph_speculative import _trial

    monkeypatch.setattr(_trial.Runs, "speculative", lambda *_: _trial.Timed(None, 0.1, error=KeyError("gone")))
    status, out, _ = run(capsys, "compare", "app.py:graph", "--input", "input.json", "--runs=1")
    assert status == 1
    assert "NOT EQUAL: no error in the plain run, KeyError('gone') in the speculative run" in " ".join(out.split())


@pytest.mark.parametrize("mode", ["--runs=1", "--sync"])
def test_compare_uses_recorded_answers_where_the_models_vary(
    app: Path, capsys: pytest.CaptureFixture[str], mode: str
) -> None:
    status, out, err = run(capsys, "compare", "moody_app.py:graph", "--input", "messages.json", "--runs=1", mode)
    assert status == 0, out + err
    out = " ".join(out.split())
    assert "recorded model answers" in out
    assert "differs from itself: messages[1].content" in out
    assert "Equal, checked" in out


def test_compare_cannot_tell_when_something_else_varies(app: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = run(capsys, "compare", "app.py:moody", "--input", "input.json", "--runs=1")
    assert status == 1
    assert "Cannot be compared" in out
    assert "log[1]: 0 in the first plain run, 1 in the second" in " ".join(out.split())


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["app.py:broken", "--input", "input.json"], "raises RuntimeError: the house is on fire"),
        (["app.py:graph", "--input", "nothing.json"], "nothing.json cannot be read"),
        (["app.py:graph", "--input", "app.py"], "app.py is not JSON"),
        (["app.py:graph", "--input", "input.json", "--config", "list.json"], "must hold a JSON object"),
        (["app.py:graph", "--input", "input.json", "--effect", "lok=read"], "lok"),
        (["app.py:graph", "--input", "input.json", "--effect", "look=raed"], "raed"),
        (["app.py:graph", "--input", "input.json", "--draft", "app.py:number"], "not a compiled graph"),
        (["app.py:fast", "--input", "input.json", "--depth", "2"], "speculative already"),
    ],
)
def test_compare_says_what_is_wrong(
    app: Path, capsys: pytest.CaptureFixture[str], argv: list[str], message: str
) -> None:
    (app / "list.json").write_text("[]")
    status, _, err = run(capsys, "compare", *argv)
    assert status == 2
    assert message in err.splitlines()[-1]


# -- demo and the arguments


def test_demo_needs_an_endpoint_for_a_model(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    status, _, err = run(capsys, "demo", "--model", "big", "--draft-model", "small")
    assert status == 2
    assert "set OPENAI_API_KEY or OPENAI_BASE_URL" in err
    status, _, err = run(capsys, "demo", "--model", "big")
    assert status == 2
    assert "--draft-model" in err


def test_demo_passes_its_options_on(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = run(capsys, "demo", "--tasks", "1", "--scale", "0", "--sync", "--json")
    assert status == 0
    result = json.loads(out)
    assert (len(result["tasks"]), result["injected_latencies"]["scale"], result["sync"]) == (1, 0, True)


@pytest.mark.parametrize("command", [["demo"], ["compare", "app.py:graph", "--input", "input.json"]])
def test_missing_extras_name_the_command_that_installs_them(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, command: list[str]
) -> None:
    monkeypatch.setitem(sys.modules, "rich", None)
    status, _, err = run(capsys, *command)
    assert status == 2
    assert "needs rich" in err
    assert "pip install 'langgraph-speculative[demo]'" in err


@pytest.mark.parametrize(
    "argv",
    [
        [],
        ["demo", "--tasks", "0"],
        ["demo", "--scale", "-1"],
        ["demo", "--tasks", "x"],
        ["compare", "app.py:graph"],
        ["compare", "a:b", "--input", "i", "--effect", "read"],
    ],
)
def test_bad_arguments(capsys: pytest.CaptureFixture[str], argv: list[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        cli.main(argv)
    assert exit_.value.code == 2
    assert "usage: langgraph-speculative" in capsys.readouterr().err
