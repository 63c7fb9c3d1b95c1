"""The demo: scripted models, server, shop, and the whole run."""

from __future__ import annotations

import http.client
import itertools
import json
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import pytest
from langchain_core.tools import BaseTool

from langgraph_speculative._compare import same_result
from langgraph_speculative._demo import run as demo_run
from langgraph_speculative._demo import script, shop
from langgraph_speculative._demo import server as demo_server
from langgraph_speculative._demo.agent import SYSTEM_PROMPT, Clients, Endpoint, make_agent, own_endpoint, questions
from langgraph_speculative._demo.run import Demo
from langgraph_speculative._demo.server import ModelServer
from langgraph_speculative._target import CommandError
from tests.support import LIMIT


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("demo") / "shop.db"
    shop.create_database(path)
    return path


@pytest.fixture
def server() -> Iterator[ModelServer]:
    with ModelServer(scale=0) as running:
        yield running


def connect(server: ModelServer) -> http.client.HTTPConnection:
    url = urlparse(server.base_url)
    assert url.hostname
    return http.client.HTTPConnection(url.hostname, url.port, timeout=LIMIT)


def post(connection: http.client.HTTPConnection, body: Any, path: str = "/v1/chat/completions") -> tuple[int, Any]:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    connection.request("POST", path, data, {"Content-Type": "application/json"})
    response = connection.getresponse()
    return response.status, json.loads(response.read())


def ask(text: str) -> list[dict[str, Any]]:
    return [{"role": "system", "content": SYSTEM_PROMPT}, {"role": "user", "content": text}]


WHERE = ask("Where is my latest order? My e-mail address is liam.haddad@example.com.")


@pytest.fixture(scope="module")
def tools(database: Path) -> dict[str, BaseTool]:
    return {tool.name: tool for tool in shop.make_tools(database, 0)}


def conversation(tools: dict[str, BaseTool], question: str, prefix: str) -> Iterator[list[dict[str, Any]]]:
    """What the large model is sent, turn by turn, until it answers; `prefix` makes the minted ids."""
    messages = ask(question)
    while (turn := script.answer(script.ACTOR, messages)).calls:
        yield messages
        calls = [
            {"id": f"{prefix}{len(messages)}-{n}", "function": {"name": name, "arguments": json.dumps(args)}}
            for n, (name, args) in enumerate(turn.calls)
        ]
        results = [
            {"role": "tool", "tool_call_id": call["id"], "content": tools[name].invoke(args)}
            for call, (name, args) in zip(calls, turn.calls, strict=True)
        ]
        messages = [*messages, {"role": "assistant", "content": None, "tool_calls": calls}, *results]
    yield messages


# -- the scripted models


@pytest.mark.parametrize("n", range(4))
def test_each_kind_of_question_is_looked_up_and_answered(tools: dict[str, BaseTool], database: Path, n: int) -> None:
    *looked_up, last = conversation(tools, questions(database, 4)[n], "a")
    assert len(looked_up) >= 3
    text = script.answer(script.ACTOR, last).text
    assert "SO-2" in text
    assert "could not" not in text


def test_an_unknown_customer_gets_an_answer(tools: dict[str, BaseTool]) -> None:
    *_, last = conversation(tools, "Where is my order? I am nobody@example.com", "a")
    assert "could not find" in script.answer(script.ACTOR, last).text
    assert "e-mail" in script.answer(script.ACTOR, ask("Where is my order?")).text


def test_answers_depend_on_what_is_said_and_not_on_minted_ids(tools: dict[str, BaseTool], database: Path) -> None:
    question = questions(database, 2)[1][1]
    turns = zip(conversation(tools, question, "a"), conversation(tools, question, "b"), strict=True)
    for one, other in turns:
        assert script.first_token_delay(script.ACTOR, one) == script.first_token_delay(script.ACTOR, other)
        for model in (script.ACTOR, script.DRAFT):
            assert script.answer(model, one) == script.answer(model, other)


@pytest.mark.parametrize("count", [3, 40])  # the demo's default, and many
def test_the_draft_is_right_about_four_times_in_five(tools: dict[str, BaseTool], database: Path, count: int) -> None:
    right = []
    for _, question in questions(database, count):
        *looked_up, last = conversation(tools, question, "a")
        for messages in looked_up:
            guess = script.answer(script.DRAFT, messages)
            assert guess.calls
            right.append(guess == script.answer(script.ACTOR, messages))
        assert script.answer(script.DRAFT, last) != script.answer(script.ACTOR, last)
    assert 0.75 < sum(right) / len(right) < 0.85


# -- the server


def test_completion_has_the_shape_of_openai(server: ModelServer) -> None:
    with closing(connect(server)) as connection:
        status, one = post(connection, {"model": script.ACTOR, "messages": WHERE})
        assert status == 200
        _, two = post(connection, {"model": script.ACTOR, "messages": WHERE})  # the same connection
    choice = one["choices"][0]
    call = choice["message"]["tool_calls"][0]
    assert one["object"] == "chat.completion"
    assert one["model"] == script.ACTOR
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"]["content"] is None
    assert call["function"]["name"] == "find_customer"
    assert json.loads(call["function"]["arguments"]) == {"email": "liam.haddad@example.com"}
    assert one["usage"]["total_tokens"] == one["usage"]["prompt_tokens"] + one["usage"]["completion_tokens"]
    assert call["id"].startswith("call_")
    assert call["id"] != two["choices"][0]["message"]["tool_calls"][0]["id"]
    assert one["id"] != two["id"]
    assert server.requests == {script.ACTOR: 2}


def test_stream_is_the_completion_in_pieces(server: ModelServer) -> None:
    body = {"model": script.ACTOR, "messages": WHERE}
    with closing(connect(server)) as connection:
        _, whole = post(connection, body)
        stream = body | {"stream": True, "stream_options": {"include_usage": True}}
        connection.request("POST", "/v1/chat/completions", json.dumps(stream).encode())
        response = connection.getresponse()
        assert response.headers["Content-Type"] == "text/event-stream"
        events = [e.removeprefix("data: ") for e in response.read().decode().split("\n\n") if e]
        status, _ = post(connection, body)  # the connection is still good
        assert status == 200
    assert events[-1] == "[DONE]"
    chunks = [json.loads(event) for event in events[:-1]]
    assert chunks[-1]["choices"] == []
    assert chunks[-1]["usage"] == whole["usage"]
    calls = [c for chunk in chunks for ch in chunk["choices"] for c in ch["delta"].get("tool_calls", ())]
    arguments = "".join(call["function"]["arguments"] for call in calls)
    assert arguments == whole["choices"][0]["message"]["tool_calls"][0]["function"]["arguments"]
    assert len(calls) > 3
    assert [c["finish_reason"] for chunk in chunks for c in chunk["choices"]][-1] == "tool_calls"
    assert len({chunk["id"] for chunk in chunks}) == 1


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b"not json", 400, "invalid_body"),
        ([], 400, "invalid_body"),
        ({"model": script.ACTOR}, 400, "invalid_body"),
        ({"model": script.ACTOR, "messages": "hello"}, 400, "invalid_messages"),
        (
            {"model": script.ACTOR, "messages": [{"role": "assistant", "tool_calls": [{}]}]},
            400,
            "invalid_messages",
        ),
        ({"model": "gpt-9", "messages": []}, 404, "model_not_found"),
    ],
)
def test_bad_requests_are_refused_as_openai_does(server: ModelServer, body: Any, status: int, code: str) -> None:
    with closing(connect(server)) as connection:
        got, answer = post(connection, body)
        assert (got, answer["error"]["code"]) == (status, code)
        assert post(connection, {"model": script.ACTOR, "messages": WHERE})[0] == 200


def test_unknown_paths_are_refused(server: ModelServer) -> None:
    with closing(connect(server)) as connection:
        assert post(connection, {}, "/v1/embeddings")[0] == 404


def test_a_client_that_hangs_up_is_no_event(capfd: pytest.CaptureFixture[str]) -> None:
    with ModelServer(scale=1) as server:
        for stream in (True, False):
            connection = connect(server)
            body = {"model": script.DRAFT, "messages": ask("Hello"), "stream": stream}
            connection.request("POST", "/v1/chat/completions", json.dumps(body).encode())
            if stream:
                connection.getresponse().read(1)
            connection.close()
    assert capfd.readouterr() == ("", "")


def test_close_ends_answers_that_are_being_typed(capfd: pytest.CaptureFixture[str]) -> None:
    with ModelServer(scale=1000) as server, closing(connect(server)) as connection:
        connection.request("POST", "/v1/chat/completions", json.dumps({"model": script.ACTOR, "messages": WHERE}))
        server.close()
        with pytest.raises((ConnectionError, http.client.HTTPException)):
            connection.getresponse()
    assert capfd.readouterr() == ("", "")


# -- the shop and the agent


async def test_tools_read_the_database_alike_sync_and_async(tools: dict[str, BaseTool], database: Path) -> None:
    assert set(tools) == set(shop.LATENCIES)
    email = shop.emails(database, 1)[0]
    customer = json.loads(tools["find_customer"].invoke({"email": email}))
    orders = json.loads(tools["list_orders"].invoke({"customer_id": customer["customer_id"]}))
    assert [order["placed_on"] for order in orders] == sorted((o["placed_on"] for o in orders), reverse=True)
    order = json.loads(tools["get_order"].invoke({"order_id": orders[0]["order_id"]}))
    arguments = {
        "find_customer": {"email": email},
        "list_orders": {"customer_id": customer["customer_id"]},
        "get_order": {"order_id": order["order_id"]},
        "get_product": {"sku": order["items"][0]["sku"]},
        "track_shipment": {"tracking_number": order["tracking_number"]},
        "search_help": {"topic": "returns"},
    }
    for name, tool in tools.items():
        assert tool.metadata == {"speculation": {"effect": "read"}}
        assert tool.description
        result = await tool.ainvoke(arguments[name])
        assert result == tool.invoke(arguments[name])
        assert "error" not in json.loads(result)
    assert "error" in json.loads(tools["get_order"].invoke({"order_id": "SO-0"}))


def test_the_database_has_some_hundred_rows_and_is_the_same_each_time(database: Path, tmp_path: Path) -> None:
    shop.create_database(tmp_path / "again.db")
    for table, least in (("customers", 100), ("orders", 300), ("order_items", 400), ("products", 50)):
        rows = shop._select(database, f"SELECT * FROM {table} ORDER BY 1, 2")
        assert len(rows) > least
        assert rows == shop._select(tmp_path / "again.db", f"SELECT * FROM {table} ORDER BY 1, 2")


async def test_agent_answers_over_http_sync_and_async(server: ModelServer, database: Path) -> None:
    clients = Clients()
    try:
        agent = make_agent(Endpoint(script.ACTOR, script.DRAFT, server.base_url), script.ACTOR, database, 0, clients)
        question = {"messages": [{"role": "user", "content": questions(database, 1)[0][1]}]}
        one, two = await agent.ainvoke(question), agent.invoke(question)
    finally:
        await clients.aclose()
    assert same_result(one, two) is None
    names = [call["name"] for m in one["messages"] if m.type == "ai" for call in m.tool_calls]
    assert names == ["find_customer", "list_orders", "get_order", "track_shipment"]
    assert "expected on" in one["messages"][-1].content
    assert all(m.usage_metadata["total_tokens"] for m in one["messages"] if m.type == "ai")


@pytest.mark.parametrize(
    ("environ", "own"),
    [({}, False), ({"OPENAI_API_KEY": "sk"}, True), ({"OPENAI_BASE_URL": "http://x"}, True)],
)
def test_own_endpoint(environ: dict[str, str], own: bool) -> None:
    assert own_endpoint(environ) is own


# -- the whole run


@pytest.mark.parametrize("sync", [False, True])
def test_demo_is_equal_and_faster(capsys: pytest.CaptureFixture[str], sync: bool) -> None:
    assert Demo(tasks=1, scale=0.1, sync=sync).run(as_json=True) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["equal"]
    assert result["models"] == {"actor": "actor-large", "draft": "draft-small", "scripted": True}
    assert result["injected_latencies"]["scale"] == 0.1
    assert len(result["tasks"]) == 1
    report = result["total"]["report"]
    assert report["errors"] == []
    assert report["claimed"] > 0
    assert report["window_hits"] > 0
    assert report["early_irreversible_calls"] == 0
    assert result["total"]["draft_tokens"] > 0
    # At a tenth of the latencies a busy machine may eat the saving; the demo itself compares the times.
    assert report["time_saved"] > 0


def test_demo_prints_table_injected_latencies_and_verdict(capsys: pytest.CaptureFixture[str]) -> None:
    assert Demo(tasks=1, scale=0.01).run() == 0
    out = " ".join(capsys.readouterr().out.split())
    for part in (
        "1 parcel",
        "saved",
        "right",
        "wasted",
        "scripted stand-ins",
        "--scale 0.01",
        "Results equal",
    ):
        assert part in out


def test_demo_fails_when_results_differ(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    class Wrong:
        def __init__(self, fast: Any) -> None:
            self.track, self.close, self.fast = fast.track, fast.close, fast

        async def ainvoke(self, *args: Any) -> Any:
            state = await self.fast.ainvoke(*args)
            return state | {
                "messages": [
                    *state["messages"][:-1],
                    state["messages"][-1].model_copy(update={"content": "no"}),
                ]
            }

    speculative = demo_run.speculative
    monkeypatch.setattr(demo_run, "speculative", lambda *args, **kwargs: Wrong(speculative(*args, **kwargs)))
    assert Demo(tasks=1, scale=0).run() == 1
    out = capsys.readouterr().out
    assert "NOT EQUAL" in out
    assert "content: " in out
    assert "Results equal" not in out


def test_demo_runs_on_an_endpoint_of_the_user(
    server: ModelServer, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", server.base_url)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    demo = Demo(tasks=1, scale=0, model=script.ACTOR, draft_model=script.DRAFT, sync=True)
    assert demo.run(as_json=True) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["models"]["scripted"] is False
    assert "models" not in result["injected_latencies"]
    assert set(server.requests) == {script.ACTOR, script.DRAFT}


def test_an_endpoint_that_varies_is_compared_on_recorded_answers(
    server: ModelServer, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    counter = itertools.count()
    answer = script.answer

    def moody(model: str, messages: list[dict[str, Any]]) -> script.Turn:
        turn = answer(model, messages)
        return turn if turn.calls else script.Turn(text=f"{turn.text} ({next(counter)})")

    monkeypatch.setattr(demo_server, "answer", moody)
    monkeypatch.setenv("OPENAI_BASE_URL", server.base_url)
    demo = Demo(tasks=1, scale=0, model=script.ACTOR, draft_model=script.DRAFT)
    assert demo.run() == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "1 parcel: the endpoint answered the same request in two ways; compared again on the recorded" in out
    assert "Results equal" in out
    assert "scripted" not in out


def test_demo_says_when_the_endpoint_has_no_such_model(server: ModelServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", server.base_url)
    with pytest.raises(CommandError, match="does not exist"):
        Demo(tasks=1, scale=0, model=script.ACTOR, draft_model="tiny", sync=True).run()
