"""What the demo's two scripted models answer: a function of the messages that they are sent, nothing else."""

from __future__ import annotations

import hashlib
import json
import random
import re
from dataclasses import dataclass
from typing import Any

ACTOR = "actor-large"
DRAFT = "draft-small"
DRAFT_ACCURACY = 0.8
"""Probability that the draft model's tool calls are those of the large model."""

_GUESS = "guess 11"  # a seed with which it keeps that share over the few default questions, too

Message = dict[str, Any]
Call = tuple[str, dict[str, Any]]


@dataclass(frozen=True)
class Speed:
    """How fast a scripted model answers, before scaling.

    Args:
        first_token: Seconds until the first token, on average.
        tokens_per_second: Rate of the tokens after it.
    """

    first_token: float
    tokens_per_second: float


SPEEDS = {ACTOR: Speed(0.9, 40.0), DRAFT: Speed(0.15, 150.0)}


@dataclass(frozen=True)
class Turn:
    """One answer of a model: tool calls, or a text.

    Args:
        calls: Pairs of tool name and arguments.
        text: The answer, empty when there are tool calls.
    """

    calls: tuple[Call, ...] = ()
    text: str = ""


def answer(model: str, messages: list[Message]) -> Turn:
    """What `model` says next in the conversation `messages` (OpenAI's format)."""
    turn = _plan(_question(messages), _Facts(messages))
    return turn if model == ACTOR else _draft(turn, messages)


def first_token_delay(model: str, messages: list[Message]) -> float:
    """Seconds to the first token: within a fifth of the model's average, the same for the same request."""
    return SPEEDS[model].first_token * _random(model, "delay", messages).uniform(0.8, 1.2)


def token_count(text: str) -> int:
    """Roughly the number of tokens in `text`."""
    return max(1, round(len(text) / 4))


def _draft(turn: Turn, messages: list[Message]) -> Turn:
    """The small model's version: often the same calls, never the same prose."""
    if not turn.calls:
        # Two models do not word a text alike: what runs behind a guessed text is nothing to claim.
        return Turn(text="Here is what I found. " + turn.text)
    rng = _random(DRAFT, _GUESS, messages)
    if rng.random() < DRAFT_ACCURACY:
        return turn
    return _mistake(turn, rng, _Facts(messages))


def _mistake(turn: Turn, rng: random.Random, facts: _Facts) -> Turn:
    """A plausible wrong guess: a call forgotten, another order, another tool."""
    if len(turn.calls) > 1:
        return Turn(calls=turn.calls[: rng.randrange(1, len(turn.calls))])
    name, args = turn.calls[0]
    others = [order for order in facts.order_ids() if order != args.get("order_id")]
    if "order_id" in args and others:
        return Turn(calls=((name, {"order_id": rng.choice(others)}),))
    return Turn(calls=(("search_help", {"topic": "orders"}),))


def _plan(question: str, facts: _Facts) -> Turn:
    """The next step towards an answer, or the answer."""
    email = re.search(r"[\w.+-]+@[\w-]+\.\w+", question)
    if email is None:
        return Turn(text="Please tell me the e-mail address of your account.")
    try:
        customer = facts.need("find_customer", email=email[0])
        orders = facts.need("list_orders", customer_id=customer["customer_id"])
        lowered = question.lower()
        if "cost" in lowered:
            return Turn(text=_cost(customer, facts, orders))
        order = facts.need("get_order", order_id=orders[0]["order_id"])
        if "in stock" in lowered:
            return Turn(text=_stock(facts, order))
        if "return" in lowered:
            return Turn(text=_returns(facts, order))
        return Turn(text=_where(facts, order))
    except _Unknown as unknown:
        return Turn(calls=unknown.calls)
    except (KeyError, IndexError, TypeError):  # a tool said "not found", or something unexpected
        return Turn(text="I could not find that in our records. A colleague will get back to you.")


def _where(facts: _Facts, order: dict[str, Any]) -> str:
    parcel = facts.need("track_shipment", tracking_number=order["tracking_number"])
    return (
        f"Your order {order['order_id']} is with {parcel['carrier']}: {parcel['status']}, "
        f"last seen in {parcel['location']}. It is expected on {parcel['expected_on']}."
    )


def _stock(facts: _Facts, order: dict[str, Any]) -> str:
    products = facts.need_all("get_product", [{"sku": item["sku"]} for item in order["items"]])
    lines = [f"{p['name']} is {'in stock' if p['stock'] else 'sold out'} at {p['price']:.2f} EUR" for p in products]
    return f"About order {order['order_id']}: " + "; ".join(lines) + "."


def _returns(facts: _Facts, order: dict[str, Any]) -> str:
    policy = facts.need("search_help", topic="returns")
    return f"Your order {order['order_id']} of {order['placed_on']} is {order['status']}. Our rule: {policy['text']}"


def _cost(customer: dict[str, Any], facts: _Facts, orders: list[dict[str, Any]]) -> str:
    details = facts.need_all("get_order", [{"order_id": order["order_id"]} for order in orders[:2]])
    total = sum(item["quantity"] * item["unit_price"] for order in details for item in order["items"])
    names = " and ".join(order["order_id"] for order in details)
    return f"{customer['name']}, your orders {names} came to {total:.2f} EUR together, shipping included."


class _Unknown(Exception):
    """A fact that has to be looked up first, with the calls that do it."""

    def __init__(self, calls: tuple[Call, ...]) -> None:
        super().__init__(calls)
        self.calls = calls


class _Facts:
    """The tool results in a conversation, by tool and arguments."""

    def __init__(self, messages: list[Message]) -> None:
        self._results: dict[str, Any] = {}
        asked: dict[str, str] = {}
        for message in messages:
            for call in message.get("tool_calls") or ():
                function = call["function"]
                asked[call["id"]] = _key(function["name"], json.loads(function["arguments"]))
            if message.get("role") == "tool" and (key := asked.get(message["tool_call_id"])):
                self._results[key] = _loads(message.get("content"))

    def need(self, tool: str, **args: Any) -> Any:
        """The result of a call, or `_Unknown` with the call to make."""
        return self.need_all(tool, [args])[0]

    def need_all(self, tool: str, arguments: list[dict[str, Any]]) -> list[Any]:
        """The results of several calls, or `_Unknown` with those that are missing, to be made in parallel."""
        missing = tuple((tool, args) for args in arguments if _key(tool, args) not in self._results)
        if missing:
            raise _Unknown(missing)
        return [self._results[_key(tool, args)] for args in arguments]

    def order_ids(self) -> list[str]:
        """All orders that a list of orders has named."""
        lists = (result for key, result in self._results.items() if key.startswith("list_orders"))
        return [order["order_id"] for found in lists if isinstance(found, list) for order in found]


def _key(tool: str, args: dict[str, Any]) -> str:
    return f"{tool} {json.dumps(args, sort_keys=True)}"


def _loads(content: Any) -> Any:
    try:
        return json.loads(content)
    except (TypeError, ValueError):
        return content


def _question(messages: list[Message]) -> str:
    questions = [str(m.get("content") or "") for m in messages if m.get("role") == "user"]
    return questions[-1] if questions else ""


def _random(model: str, purpose: str, messages: list[Message]) -> random.Random:
    """A generator seeded on what the request says: ids are minted, so they do not count."""
    said = [
        (
            message.get("role"),
            message.get("content") or "",
            [(call["function"]["name"], call["function"]["arguments"]) for call in message.get("tool_calls") or ()],
        )
        for message in messages
    ]
    seed = hashlib.sha256(json.dumps([model, purpose, said]).encode()).digest()
    return random.Random(seed)
