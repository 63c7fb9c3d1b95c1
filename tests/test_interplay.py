"""Features beside each other: what one of them does must be seen by the others, and by nobody else."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, TypedDict

import pytest
from langchain.agents import create_agent
from langchain_core.callbacks import CallbackManagerForRetrieverRun
from langchain_core.documents import Document
from langchain_core.messages import AnyMessage, HumanMessage, ToolMessage
from langchain_core.retrievers import BaseRetriever
from langchain_core.runnables import RunnableConfig, RunnableLambda
from langchain_core.tools import tool
from langgraph.graph import add_messages

from langgraph_speculative import Policy
from langgraph_speculative.testing import check_same_run
from tests.support import ScriptedModel, Tally, call, chain, says

ASK = {"messages": [HumanMessage("how much?", id="ask")]}


class Chat(TypedDict, total=False):
    x: int
    messages: Annotated[list[AnyMessage], add_messages]


def pair(build: Callable[[Tally, Callable[[str], Any]], Any]) -> Callable[[], Any]:
    """Makes the plain graph, and then one in which a node can wait until something has been counted."""
    made: list[Tally] = []

    def make() -> Any:
        tally = Tally()
        made.append(tally)
        waits = len(made) > 1
        return build(tally, lambda name: tally.reached(name, int(waits)))

    return make


# --- what an early call has reported stays as it was --------------------------------------------------------------


@pytest.mark.parametrize("sync", [True, False], ids=["sync", "async"])
def test_a_tools_result_is_changed_after_it_was_reported(sync: bool) -> None:
    """A tool node makes text of what is no content of a message."""

    def build(tally: Tally, wait: Callable[[str], Any]) -> Any:
        @tool
        def look(what: str) -> list[str]:
            """Look."""
            tally.add("look")
            return [what, "seen"]

        def script(messages: list[Any]) -> Any:
            if isinstance(messages[-1], ToolMessage):
                return says("all seen")
            return says("", call("look", what="a"))

        async def before(messages: list[Any]) -> None:
            if not isinstance(messages[-1], ToolMessage):
                await wait("look").wait()

        return create_agent(ScriptedModel(script=script, before=before), [look])

    report = check_same_run(
        pair(build),
        ASK,
        sync=sync,
        speculators={"model": lambda state: {"messages": [says("", call("look", what="a"))]}},
        effects={"look": "read"},
    )
    assert report.claimed >= 1


class Shelf(BaseRetriever):
    def _get_relevant_documents(self, query: str, *, run_manager: CallbackManagerForRetrieverRun) -> list[Document]:
        return [Document(f"about {query}", metadata={"shelf": "b"})]


@pytest.mark.parametrize("sync", [True, False], ids=["sync", "async"])
def test_documents_and_answers_are_changed_after_they_were_reported(sync: bool) -> None:
    """A node that goes on with what a retriever, a sequence and a model have returned."""

    def build(tally: Tally, wait: Callable[[str], Any]) -> Any:
        async def a(state: Chat) -> Any:
            await wait("b").wait()
            return {"x": 1}

        def b(state: Chat, config: RunnableConfig) -> Any:
            (document,) = Shelf().invoke("hats", config)
            document.metadata["score"] = 1
            model = ScriptedModel(script=lambda ms: says("so", call("look", what="a")))
            piped: Any = RunnableLambda(lambda text: [HumanMessage(text)]).with_config(run_name="asked") | model
            answer = piped.invoke(document.page_content, config)
            answer.name = "anna"
            answer.tool_calls[0]["args"]["what"] = "b"
            tally.add("b")
            return {"messages": [answer]}

        def waiting(state: Chat) -> Any:
            wait("b").block()
            return {"x": 1}

        return chain(Chat, waiting if sync else a, b, names=("a", "b")).compile()

    report = check_same_run(
        pair(build), {"x": 0}, sync=sync, speculators={"a": lambda state: {"x": 1}}, effects={"b": "pure"}
    )
    assert report.claimed == 1
