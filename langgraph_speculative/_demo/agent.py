"""The demo's agents and questions, and the endpoint of their models: the local server, or the user's own."""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import openai
from langchain.agents import create_agent
from langchain_openai import ChatOpenAI

from langgraph_speculative._demo import shop

SYSTEM_PROMPT = (
    "You are the support agent of an online shop. Look up every fact with the tools; never guess. "
    "Call tools without any text beside the calls. When you know enough, answer in at most two sentences. "
    "The latest order is the first in the list of orders."
)
_QUESTIONS = {
    "parcel": "Where is my latest order? My e-mail address is {email}.",
    "stock": "Is everything from my latest order still in stock, and at what price? I am {email}.",
    "cost": "What did my latest two orders cost together? My account is {email}.",
    "return": "Can I still return my latest order? You find me as {email}.",
}


@dataclass(frozen=True)
class Endpoint:
    """Where the models are served.

    Args:
        model: Name of the Actor's model.
        draft_model: Name of the draft's model.
        base_url: URL of the local server; ``None`` for the user's own endpoint, named by the environment.
    """

    model: str
    draft_model: str
    base_url: str | None = None

    @property
    def scripted(self) -> bool:
        """Whether the demo's own stand-ins answer."""
        return self.base_url is not None


class Clients:
    """The HTTP clients of one demo, so that it can close them in the loop that they belong to."""

    def __init__(self) -> None:
        # A proxy of the environment cannot reach a server on this machine.
        self.sync = openai.DefaultHttpxClient(trust_env=False)
        self.asynchronous = openai.DefaultAsyncHttpxClient(trust_env=False)

    def close(self) -> None:
        """Close them without a loop: then the async client was never used."""
        self.sync.close()

    async def aclose(self) -> None:
        """Close them."""
        self.sync.close()
        await self.asynchronous.aclose()


def own_endpoint(environ: Mapping[str, str] = os.environ) -> bool:
    """Whether the environment names an endpoint of the user's."""
    return bool(environ.get("OPENAI_API_KEY") or environ.get("OPENAI_BASE_URL"))


def questions(database: Path, count: int) -> list[tuple[str, str]]:
    """`count` questions of customers that exist in `database`: what it is about, and its text."""
    kinds = itertools.cycle(_QUESTIONS.items())
    customers = shop.emails(database, count)
    return [(about, text.format(email=email)) for (about, text), email in zip(kinds, customers, strict=False)]


def make_agent(endpoint: Endpoint, model: str, database: Path, scale: float, clients: Clients) -> Any:
    """The support agent on one model: the Actor's graph, or with a smaller model the draft."""
    if endpoint.scripted:
        chat = ChatOpenAI(
            model=model,
            base_url=endpoint.base_url,
            api_key="local",  # type: ignore[arg-type]
            openai_proxy="",  # whatever OPENAI_PROXY says
            temperature=0,
            max_retries=0,
            timeout=60,
            streaming=True,
            stream_usage=True,
            http_client=clients.sync,
            http_async_client=clients.asynchronous,
        )
    else:
        # A base URL alone is enough: local servers want no key, ChatOpenAI wants one.
        key = os.environ.get("OPENAI_API_KEY") or "none"
        chat = ChatOpenAI(model=model, api_key=key, temperature=_temperature(model))  # type: ignore[arg-type]
    return create_agent(chat, shop.make_tools(database, scale), system_prompt=SYSTEM_PROMPT)


def _temperature(model: str) -> float | None:
    # Reasoning models refuse a temperature.
    return None if re.match(r"(?:.*/)?(o\d|gpt-5)", model) else 0.0
