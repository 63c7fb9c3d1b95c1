"""``langgraph-speculative advise``: reading runs, guessing them again, and verdicts."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from langchain_core.load import dumpd
from langchain_core.messages import AIMessage, AnyMessage, HumanMessage, ToolMessage, message_to_dict

from langgraph_speculative import Guess, cli
from langgraph_speculative._advise._command import advise_on_runs
from langgraph_speculative._advise._figures import Prices
from langgraph_speculative._advise._recordings import Recording, read_recordings
from langgraph_speculative._advise._replay import Learned, replay
from langgraph_speculative._advise._verdicts import Figures, advice, latencies, wilson
from langgraph_speculative._target import CommandError
from langgraph_speculative.effects import Effect
from langgraph_speculative.speculators import BaseSpeculator


def call(name: str, args: dict[str, Any], number: int = 0) -> Any:
    return {"name": name, "args": args, "id": f"{name}-{number}", "type": "tool_call"}


def conversation(key: str = "7") -> list[AnyMessage]:
    """Two tools, the second with an argument that is only in the first one's result."""
    return [
        HumanMessage("Where is my order?"),
        AIMessage("", tool_calls=[call("find", {"by": "name"})]),
        ToolMessage(key, tool_call_id="find-0", name="find"),
        AIMessage("Looking.", tool_calls=[call("get", {"key": key})]),
        ToolMessage("on its way", tool_call_id="get-0", name="get"),
        AIMessage("It is on its way."),
    ]


def openai(messages: Sequence[AnyMessage]) -> list[dict[str, Any]]:
    roles = {"human": "user", "ai": "assistant", "tool": "tool"}
    out: list[dict[str, Any]] = []
    for m in messages:
        entry: dict[str, Any] = {"role": roles[m.type], "content": m.content or None}
        if isinstance(m, AIMessage) and m.tool_calls:
            entry["tool_calls"] = [
                {"id": c["id"], "type": "function", "function": {"name": c["name"], "arguments": json.dumps(c["args"])}}
                for c in m.tool_calls
            ]
        if isinstance(m, ToolMessage):
            entry |= {"tool_call_id": m.tool_call_id, "name": m.name}
        out.append(entry)
    return out


def recorded(messages: Sequence[AnyMessage]) -> list[dict[str, Any]]:
    """As in the recorded runs of τ-bench: roles, with name and args of a call side by side."""
    out = openai(messages)
    for m, entry in zip(messages, out, strict=True):
        if isinstance(m, AIMessage) and m.tool_calls:
            entry["tool_calls"] = [{k: c[k] for k in ("id", "name", "args")} for c in m.tool_calls]
    return out


def anthropic(messages: Sequence[AnyMessage]) -> list[dict[str, Any]]:
    out = openai(messages)
    for m, entry in zip(messages, out, strict=True):
        if isinstance(m, AIMessage) and m.tool_calls:
            del entry["tool_calls"]
            blocks = [{"type": "tool_use", "id": c["id"], "name": c["name"], "input": c["args"]} for c in m.tool_calls]
            entry["content"] = [{"type": "text", "text": "…"}, *blocks]
    return out


def at(second: float) -> str:
    return f"2026-01-01T00:00:{second:06.3f}+00:00"


def traced(messages: Sequence[AnyMessage], *, flat: bool = False) -> list[dict[str, Any]]:
    """As LangSmith exports it: model calls of 2 s, `find` .5 s, `get` 1 s."""
    runs: list[dict[str, Any]] = []
    now = 0.0
    for number, m in enumerate(messages):
        if isinstance(m, AIMessage):
            kind, name, took = "llm", "ChatModel", 2.0
            inputs: Any = {"messages": [[dumpd(before) for before in messages[:number]]]}
            outputs: Any = {"generations": [[{"text": m.text, "message": dumpd(m)}]]}
        elif isinstance(m, ToolMessage):
            kind, name, took = "tool", m.name or "", 0.5 if m.name == "find" else 1.0
            inputs, outputs = {"input": "{}"}, {"output": dumpd(m)}
        else:
            continue
        times = {"start_time": at(now), "end_time": at(now + took)}
        runs.append({"id": str(number), "name": name, "run_type": kind, "inputs": inputs, "outputs": outputs} | times)
        now += took
    if flat:
        return [run | {"trace_id": "t"} for run in reversed(runs)]
    root = {"id": "root", "name": "agent", "run_type": "chain", "inputs": {}, "outputs": {}}
    return [root | {"start_time": at(0), "end_time": at(now), "child_runs": runs}]


def told(messages: Sequence[AnyMessage]) -> list[Any]:
    return [(m.type, [(c["name"], c["args"]) for c in getattr(m, "tool_calls", [])]) for m in messages]


FORMATS: dict[str, Any] = {
    "openai": openai,
    "recorded": recorded,
    "anthropic": anthropic,
    "langchain": lambda messages: [m.model_dump() for m in messages],
    "langchain dicts": lambda messages: [message_to_dict(m) for m in messages],
    "langchain serialised": lambda messages: [dumpd(m) for m in messages],
}


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("shape", ["one run", "list of runs", "objects", "lines", "one object"])
def test_message_lists(tmp_path: Path, form: str, shape: str) -> None:
    raw = FORMATS[form](conversation())
    path = tmp_path / "runs"
    text = {
        "one run": json.dumps(raw),
        "list of runs": json.dumps([raw, raw]),
        "objects": json.dumps([{"task_id": 3, "messages": raw}, {"task_id": 4, "messages": raw}]),
        "lines": "\n".join([json.dumps({"messages": raw}), "", json.dumps(raw)]),
        "one object": json.dumps({"messages": raw}, indent=1),
    }[shape]
    path.write_text(text)
    runs = read_recordings(path)
    assert len(runs) == (1 if shape.startswith("one") else 2)
    assert all(told(run.messages) == told(conversation()) for run in runs)
    assert [run.group for run in runs] == (["3", "4"] if shape == "objects" else [str(i) for i in range(len(runs))])
    result = runs[0].messages[2]
    assert isinstance(result, ToolMessage)
    assert (result.content, result.tool_call_id, result.name) == ("7", "find-0", "find")


@pytest.mark.parametrize("flat", [False, True])
@pytest.mark.parametrize("lines", [False, True])
def test_langsmith_exports(tmp_path: Path, flat: bool, lines: bool) -> None:
    path = tmp_path / "export.json"
    runs = traced(conversation(), flat=flat)
    path.write_text("\n".join(map(json.dumps, runs)) if lines else json.dumps(runs))
    (run,) = read_recordings(path)
    assert told(run.messages) == told(conversation())
    assert run.model_seconds == [2.0, 2.0, 2.0]
    assert run.tool_seconds == {"find": [0.5], "get": [1.0]}


def test_times_as_numbers(tmp_path: Path) -> None:
    run = traced(conversation())[0]
    for child in run["child_runs"]:
        child |= {"start_time": 1_700_000_000_000, "end_time": 1_700_000_000_250}
    path = tmp_path / "export.json"
    path.write_text(json.dumps(run))
    assert read_recordings(path)[0].model_seconds == [0.25] * 3


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is not JSON"),
        ("{", "is not JSON"),
        ('{"messages": []}\n{', "line 2"),
        ("[1]", "run 0 is of type int; expected JSON"),
        ('[{"question": "?", "steps": []}]', "an object with the keys question, steps"),
        ("[]", "no tool call in it"),
        ('[{"role": "user", "content": "hello"}]', "no tool call in it"),
        ('{"messages": [{"content": "hello"}]}', "run 0, message 0 is an object with the keys content"),
        ('[[{"role": "assistant", "tool_calls": [{"id": "1"}]}]]', "tool call 0 needs a name"),
        ('[[{"role": "ai", "tool_calls": [{"name": "f", "args": "{"}]}]]', "an object of arguments"),
        ('[{"run_type": "llm", "start_time": "noon", "end_time": "one"}]', "are not times"),
    ],
)
def test_bad_files_say_what_is_wrong(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "runs.json"
    path.write_text(text)
    with pytest.raises(CommandError, match=message):
        read_recordings(path)


def test_a_file_that_is_not_there_or_not_text(tmp_path: Path) -> None:
    with pytest.raises(CommandError, match="cannot be read: No such file"):
        read_recordings(tmp_path / "none.json")
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(CommandError, match="not text in UTF-8"):
        read_recordings(tmp_path / "binary")


# --- guessing again -------------------------------------------------------------------------------------------------


class Scripted:
    """Guesses the next call right from the last message, and remembers what it was shown."""

    fitted: list[list[str]]

    def __init__(self, log: list[Any], wrong: bool = False) -> None:
        self.log, self.wrong = log, wrong

    def fit(self, runs: Sequence[Sequence[AnyMessage]]) -> None:
        self.log.append([messages[2].content for messages in runs])

    def predict(self, messages: Sequence[AnyMessage]) -> list[tuple[str, dict[str, Any], float]]:
        last = messages[-1]
        if self.wrong:
            return [("get", {"key": "none"}, 0.9), ("find", {"by": "name"}, 0.1)]
        return [("get", {"key": last.content}, 0.9)] if last.type == "tool" else []


def test_no_run_is_guessed_by_what_was_learned_from_its_own_task() -> None:
    log: list[Any] = []
    runs = [Recording(conversation(key), group=key[0]) for key in ("1a", "1b", "2a", "3a")]
    result = replay(runs, lambda: Scripted(log), breadth=1, folds=3)
    assert sorted(log) == [["1a", "1b", "2a"], ["1a", "1b", "3a"], ["2a", "3a"]]
    assert (result.folds, result.windows, len(result.seconds)) == (3, 12, 12)
    get, find = result.tools["get"], result.tools["find"]
    # After `get` it is asked once more, and guesses a call that does not come.
    assert (get.calls, get.hits, get.first_hits, get.guesses) == (4, 4, 4, 8)
    assert (find.calls, find.hits, find.guesses) == (4, 0, 0)


@pytest.mark.parametrize(("breadth", "hits"), [(1, 0), (2, 1)])
def test_only_so_many_guesses_count(breadth: int, hits: int) -> None:
    result = replay([Recording(conversation())], lambda: Scripted([], wrong=True), breadth=breadth, folds=5)
    assert result.folds == 1
    find = result.tools["find"]
    assert (find.hits, find.first_hits, find.guesses) == (hits, 0, 3 * (breadth - 1))


def test_one_guess_serves_one_of_two_equal_calls() -> None:
    twice = [HumanMessage("7"), AIMessage("", tool_calls=[call("get", {"key": "7"}), call("get", {"key": "7"}, 1)])]

    class Once(Scripted):
        def fit(self, runs: Sequence[Sequence[AnyMessage]]) -> None:
            pass

        def predict(self, messages: Sequence[AnyMessage]) -> list[tuple[str, dict[str, Any], float]]:
            return [("get", {"key": "7"}, 1.0)]

    assert replay([Recording(list(twice))], lambda: Once([]), breadth=1, folds=2).tools["get"].hits == 1


def test_a_speculator_as_a_predictor() -> None:
    class Copying(BaseSpeculator):
        fitted: Any = None

        def fit(self, runs: Any) -> None:
            self.fitted = runs

        def guess(self, value: Any, config: Any) -> Any:
            likely = AIMessage("", tool_calls=[call("get", {"key": value["messages"][-1].content})])
            return [Guess({"messages": [AIMessage("Done.")]}, 0.2), Guess({"messages": [likely]}, 0.7)]

    speculator = Copying()
    learned = Learned(speculator)
    learned.fit([conversation()])
    assert speculator.fitted == [conversation()]
    assert learned.predict(conversation()[:3]) == [("get", {"key": "7"}, 0.7)]


def test_history_guesses_unless_another_predictor_is_given(tmp_path: Path) -> None:
    path = tmp_path / "runs.json"
    path.write_text(json.dumps([openai(conversation(str(n))) for n in range(70, 94)]))
    rows, notes = advise_on_runs(
        path,
        effects={},
        prices=Prices(),
        value_per_second=0.0,
        seconds={"model": 1.0, "get": 1.0, "find": 1.0},
        breadth=1,
        folds=3,
    )
    assert "24 runs, 48 tool calls" in notes[0]
    # No two runs have the same key: it is found in the result before.
    assert {row.name: row.hit_rate for row in rows} == {"find": 1.0, "get": 1.0}


def test_latencies_of_the_export_become_savings(tmp_path: Path) -> None:
    path = tmp_path / "export.jsonl"
    path.write_text("\n".join(json.dumps(traced(conversation(str(i)))[0] | {"id": i}) for i in range(30)))
    rows, notes = advise_on_runs(
        path,
        effects={"get": Effect.READ, "find": Effect.IRREVERSIBLE},
        prices=Prices(),
        value_per_second=0.0,
        seconds={},
        breadth=1,
        folds=3,
        predictor=lambda: Scripted([]),
    )
    by_name = {row.name: row for row in rows}
    assert by_name["get"].verdict == "speculate"
    assert by_name["get"].saving_per_hit == pytest.approx(1.0)  # all of it, under a model call of 2 s
    assert (by_name["get"].hit_rate, by_name["get"].wasted) == (1.0, 1.0)
    assert by_name["find"].verdict == "don't"
    assert "irreversible" in by_name["find"].why
    assert "30 runs, 60 tool calls: 30 guessed exactly" in notes[0]


# --- verdicts -------------------------------------------------------------------------------------------------------


def figures(**changes: Any) -> Figures:
    usual = {"windows": 100, "hits": 60, "seconds": 1.0, "saving": 0.5, "cost": 0.0, "wasted": 0.5}
    return Figures(**({"name": "n"} | usual | changes))


@pytest.mark.parametrize(
    ("changes", "value", "verdict", "why"),
    [
        ({}, 0.0, "speculate", r"saves 300.0 ms per call, 0.8 early calls in vain"),
        ({"windows": 0, "hits": 0}, 1.0, "measure", "nobody guessed it"),
        ({"windows": 19, "hits": 0}, 1.0, "measure", "19 windows say little"),
        ({"hits": 0}, 1.0, "don't", "no guess of 100 was right"),
        ({"saving": None, "unknown": "give them"}, 1.0, "measure", "give them"),
        ({"saving": 0.001}, 1.0, "don't", "saves 0.6 ms per call"),
        ({"cost": 0.03}, 0.0, "don't", "a saved second costs 0.1000 USD, and is worth 0 "),
        ({"cost": 0.03}, 0.09, "don't", "is worth 0.09"),
        ({"cost": 0.03}, 0.1, "speculate", "at 0.1000 USD per second"),
        ({"wasted": 13.0}, 1.0, "don't", "22 early calls in vain for each hit"),
        ({"wasted": 13.0, "cost": 0.03}, 1.0, "speculate", "saves"),
        ({"undeclared": ("a", "b")}, 0.0, "declare", "declare what only reads: a, b"),
        ({"barred": "it must not"}, 1.0, "don't", "it must not"),
    ],
)
def test_verdicts(changes: dict[str, Any], value: float, verdict: str, why: str) -> None:
    given = advice(figures(**changes), value)
    assert given.verdict == verdict
    assert why in given.why


def test_the_interval_of_a_share() -> None:
    low, high = wilson(60, 100)
    assert (low, high) == pytest.approx((0.502, 0.691), abs=0.001)
    assert wilson(0, 10)[0] == 0
    assert wilson(10, 10)[1] == pytest.approx(1)


def test_latencies_have_the_statistics_that_they_come_from() -> None:
    samples = latencies(1.2, 1.0, 2.0)
    assert sum(samples) / len(samples) == pytest.approx(1.2)
    assert samples[45] / samples[25] == pytest.approx(2.0, rel=0.15)
    exponential = latencies(3.0)
    assert sum(exponential) / len(exponential) == pytest.approx(3.0)
    assert latencies(0.5, 0.5, 0.5) == pytest.approx([0.5] * 50)
    assert latencies(0.0) == [0.0]
    assert latencies(None, 2.0) == [2.0]
    assert latencies(None) == []


# --- the command ----------------------------------------------------------------------------------------------------


def agent_report(**model: Any) -> dict[str, Any]:
    seen = {
        **{"effect": "pure", "executions": 50, "windows": 50, "hits": 40, "guesses": 50, "tokens_per_call": 1000.0},
        **{"seconds_mean": 2.0, "seconds_p50": 2.0, "seconds_p90": 2.0, "guess_seconds_mean": 0.0},
    }
    tool = {"effect": "read", "executions": 40, "windows": 0, "hits": 0, "guesses": 0, "seconds_mean": 1.0}
    same = {"seconds_p50": 1.0, "seconds_p90": 1.0, "guess_seconds_mean": None, "tokens_per_call": None}
    return {"nodes": {"agent": seen | model, "tools.search": tool | same}, "usage": {}}


def run(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[int, str, str]:
    status = cli.main(["advise", *argv])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def rows_of(capsys: pytest.CaptureFixture[str], tmp_path: Path, report: Any, *argv: str) -> dict[str, Any]:
    path = tmp_path / "report.json"
    path.write_text(json.dumps(report))
    status, out, _ = run(capsys, str(path), "--json", *argv)
    assert status == 0
    answer = json.loads(out)
    return {row["name"]: row for row in answer["rows"]} | {"notes": answer["notes"]}


def test_advice_on_a_report(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    rows = rows_of(capsys, tmp_path, agent_report())
    agent = rows["agent"]
    assert agent["verdict"] == "speculate"
    assert (agent["hit_rate"], agent["saving_per_hit"], agent["saving"]) == pytest.approx((0.8, 1.0, 0.8))
    assert agent["wasted"] == pytest.approx(0.2)
    assert rows["tools.search"]["verdict"] == "measure"
    assert any("Without --price" in note for note in rows["notes"])


def test_what_a_saved_second_costs(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    report = agent_report()
    report["usage"] = {"draft": {"committed": 0, "discarded": 0, "draft": 100_000}}
    rows = rows_of(capsys, tmp_path, report, "--price", "draft=4", "--price", "search=0.01")
    # 100,000 tokens at 4 USD per million over 50 windows, and a fifth of a search in vain.
    assert rows["agent"]["cost"] == pytest.approx(0.4 / 50 + 0.2 * 0.01)
    assert rows["agent"]["cost_per_second"] == pytest.approx(0.01 / 0.8)
    assert rows["agent"]["verdict"] == "don't"
    options = "--price", "draft=4", "--price", "search=0.01", "--value-per-second", "0.02"
    assert rows_of(capsys, tmp_path, report, *options)["agent"]["verdict"] == "speculate"


def test_early_calls_of_a_model_cost_its_tokens(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    report = agent_report(windows=0)
    report["nodes"]["tools.search"] |= {"windows": 40, "hits": 30, "guesses": 40, "guess_seconds_mean": 0.1}
    report["usage"] = {"big": {"committed": 50_000}, "small": {"committed": 50_000}}
    search = rows_of(capsys, tmp_path, report, "--price", "2", "--price", "big=6")["tools.search"]
    assert search["cost"] == pytest.approx(0.25 * 1000 * (2 + 6) / 2 / 1e6)


def test_what_follows_decides(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    report = agent_report()
    report["nodes"]["tools.search"]["effect"] = "undeclared"
    agent = rows_of(capsys, tmp_path, report)["agent"]
    assert (agent["verdict"], agent["why"].split(": ")[-1]) == ("declare", "tools.search")
    assert rows_of(capsys, tmp_path, report, "--effect", "search=read")["agent"]["verdict"] == "speculate"
    report["nodes"]["tools.search"]["effect"] = "irreversible"
    agent = rows_of(capsys, tmp_path, report)["agent"]
    assert (agent["verdict"], agent["why"]) == ("don't", "nothing that could follow may run early")
    # Half of what follows may run early: so may half of the hits save something.
    report["nodes"]["tools.look"] = report["nodes"]["tools.search"] | {"effect": "read"}
    agent = rows_of(capsys, tmp_path, report)["agent"]
    assert agent["saving_per_hit"] == pytest.approx(0.5)


def test_missing_keys_are_missing_numbers(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    rows = rows_of(capsys, tmp_path, {"nodes": {"a": {"windows": 30, "hits": 20}, "b": {"executions": 30}, "c": {}}})
    assert rows["a"]["verdict"] == "measure"
    assert "lacks latencies" in rows["a"]["why"]
    assert set(rows) == {"a", "b", "notes"}


@pytest.mark.parametrize(
    ("report", "message"),
    [
        ([], "has no statistics of nodes"),
        ({"runs": 3}, "Policy(mode="),
        ({"nodes": {"a": 1}}, "nodes['a'] is not an object"),
        ({"nodes": {"a": {"windows": "many"}}}, "nodes['a']['windows'] is 'many', not a number"),
        ({"nodes": {"a": {"effect": "harmless"}}}, "'harmless', which is no effect"),
    ],
)
def test_bad_reports(capsys: pytest.CaptureFixture[str], tmp_path: Path, report: Any, message: str) -> None:
    path = tmp_path / "report.json"
    path.write_text(json.dumps(report))
    status, _, err = run(capsys, str(path))
    assert status == 2
    assert message in err
    assert str(path) in err


def test_the_table(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "runs.json"
    path.write_text(json.dumps([{"messages": openai(conversation("7"))}] * 30))
    common = "--runs", str(path), "--folds", "3", "--breadth", "2", "--effect", "*=read"
    status, out, _ = run(capsys, *common, "--seconds", "model=2", "--seconds", "get=1", "--seconds", "find=0.2")
    assert status == 0
    assert "get: speculate: saves" in out
    assert "30 runs, 60 tool calls: 60 guessed exactly" in out
    status, out, _ = run(capsys, *common, "--seconds", "model=2")
    assert "get: measure: no times were recorded: give --seconds get=S." in out


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--seconds", "a=1"], "belong to --runs"),
        (["--effect", "a=harmless"], "'harmless' is no effect: it is one of pure, read"),
    ],
)
def test_options_that_do_not_fit(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, argv: list[str], message: str
) -> None:
    path = tmp_path / "report.json"
    path.write_text(json.dumps(agent_report()))
    status, _, err = run(capsys, str(path), *argv)
    assert status == 2
    assert message in err


@pytest.mark.parametrize(
    "argv", [[], ["r.json", "--runs", "f"], ["r.json", "--price", "x=y"], ["r.json", "--value-per-second", "-1"]]
)
def test_bad_arguments(capsys: pytest.CaptureFixture[str], argv: list[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        cli.main(["advise", *argv])
    assert exit_.value.code == 2
    assert "usage: langgraph-speculative advise" in capsys.readouterr().err
