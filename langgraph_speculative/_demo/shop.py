"""The demo's shop: a SQLite database of some hundred rows, and the tools that read it."""

from __future__ import annotations

import asyncio
import json
import random
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from datetime import date, timedelta
from pathlib import Path
from typing import Any

from langchain_core.tools import BaseTool, StructuredTool

LATENCIES = {
    "find_customer": 0.35,
    "list_orders": 0.45,
    "get_order": 0.5,
    "get_product": 0.3,
    "track_shipment": 0.6,
    "search_help": 0.4,
}
"""Injected seconds of each tool before scaling: what a service behind a network would take."""

_SCHEMA = """
CREATE TABLE customers (
    id INTEGER PRIMARY KEY, email TEXT NOT NULL UNIQUE, name TEXT NOT NULL, tier TEXT NOT NULL,
    city TEXT NOT NULL
);
CREATE TABLE products (
    sku TEXT PRIMARY KEY, name TEXT NOT NULL, category TEXT NOT NULL, price REAL NOT NULL,
    stock INTEGER NOT NULL
);
CREATE TABLE shipments (
    tracking_number TEXT PRIMARY KEY, carrier TEXT NOT NULL, status TEXT NOT NULL, location TEXT NOT NULL,
    expected_on TEXT NOT NULL
);
CREATE TABLE orders (
    id TEXT PRIMARY KEY, customer_id INTEGER NOT NULL REFERENCES customers (id), placed_on TEXT NOT NULL,
    status TEXT NOT NULL, tracking_number TEXT NOT NULL REFERENCES shipments (tracking_number)
);
CREATE INDEX orders_of_customer ON orders (customer_id, placed_on);
CREATE TABLE order_items (
    order_id TEXT NOT NULL REFERENCES orders (id), sku TEXT NOT NULL REFERENCES products (sku),
    quantity INTEGER NOT NULL, unit_price REAL NOT NULL, PRIMARY KEY (order_id, sku)
);
CREATE TABLE help_articles (topic TEXT PRIMARY KEY, title TEXT NOT NULL, body TEXT NOT NULL);
"""
_FIRST = "Ada Ben Chloe David Elif Farid Greta Hugo Ines Jonas Keiko Liam Maya Nils Olga Pavel Rosa Samir".split()
_LAST = "Abel Brandt Costa Dietz Eriksen Fischer Garcia Haddad Ito Jansen Keller Lopez Moreau Novak Okoye".split()
_CITIES = "Berlin Lyon Porto Gdansk Vienna Malmo Utrecht Bologna".split()
_ITEMS = {
    "lamp": ("Desk lamp", "Floor lamp", "Reading light", "Lantern"),
    "chair": ("Office chair", "Folding chair", "Bar stool", "Rocking chair"),
    "audio": ("Headphones", "Bookshelf speaker", "Turntable", "Microphone"),
    "garden": ("Watering can", "Hedge shears", "Planter", "Bird feeder"),
}
_EDITIONS = ("oak", "black", "sand", "blue")
_ARTICLES = {
    "returns": ("Returns", "Unused goods can be sent back within 30 days of delivery, free of charge."),
    "orders": ("Orders", "Orders can be changed until they are handed to the carrier."),
    "shipping": ("Shipping", "We ship within two working days."),
    "warranty": ("Warranty", "All goods carry a warranty of two years."),
}
_CUSTOMERS = 120


def create_database(path: Path) -> None:
    """Write the shop to a new SQLite file; the same rows each time."""
    rng = random.Random(20240229)
    with closing(sqlite3.connect(path)) as db, db:
        db.executescript(_SCHEMA)
        names = rng.sample([(first, last) for first in _FIRST for last in _LAST], _CUSTOMERS)
        db.executemany(
            "INSERT INTO customers VALUES (?, ?, ?, ?, ?)",
            [
                (1001 + n, _email(*name), " ".join(name), rng.choice(("basic", "plus")), rng.choice(_CITIES))
                for n, name in enumerate(names)
            ],
        )
        products = [
            (f"{kind[:2].upper()}-{n}{m}", f"{name}, {edition}", kind, rng.randrange(900, 19900) / 100)
            for kind, group in _ITEMS.items()
            for n, name in enumerate(group)
            for m, edition in enumerate(_EDITIONS)
        ]
        db.executemany(
            "INSERT INTO products VALUES (?, ?, ?, ?, ?)",
            [(*p, rng.choice((0, 3, 12, 40))) for p in products],
        )
        db.executemany("INSERT INTO help_articles VALUES (?, ?, ?)", [(k, *v) for k, v in _ARTICLES.items()])
        for number, customer in enumerate(sorted(list(range(1001, 1001 + _CUSTOMERS)) * 3)):
            _add_order(db, rng, number, customer, products)


def _add_order(
    db: sqlite3.Connection, rng: random.Random, number: int, customer: int, products: list[tuple[Any, ...]]
) -> None:
    order, tracking = f"SO-{20000 + number}", f"TR{rng.randrange(10**9, 10**10)}"
    placed = date(2026, 1, 5) + timedelta(days=rng.randrange(150))
    status = rng.choice(("delivered", "in transit", "out for delivery"))
    expected = placed + timedelta(days=rng.randrange(3, 9))
    carrier = rng.choice(("Nordpost", "Rapido", "Brieftaube"))
    db.execute(
        "INSERT INTO shipments VALUES (?, ?, ?, ?, ?)",
        (tracking, carrier, status, rng.choice(_CITIES), expected.isoformat()),
    )
    db.execute("INSERT INTO orders VALUES (?, ?, ?, ?, ?)", (order, customer, placed.isoformat(), status, tracking))
    db.executemany(
        "INSERT INTO order_items VALUES (?, ?, ?, ?)",
        [(order, p[0], rng.randrange(1, 4), p[3]) for p in rng.sample(products, rng.randrange(1, 4))],
    )


def _email(first: str, last: str) -> str:
    return f"{first}.{last}@example.com".lower()


def emails(path: Path, count: int) -> list[str]:
    """The addresses of `count` customers, repeated when there are fewer."""
    rows = [row["email"] for row in _select(path, "SELECT email FROM customers ORDER BY id")]
    return [rows[7 * n % len(rows)] for n in range(count)]


def _select(path: Path, query: str, *args: Any) -> list[dict[str, Any]]:
    # Read-only and one connection for each call: tools run in parallel, and early.
    with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as db:
        db.row_factory = sqlite3.Row
        return [dict(row) for row in db.execute(query, args)]


def make_tools(path: Path, scale: float = 1.0) -> list[BaseTool]:
    """The agent's tools on the database at `path`.

    Each has a sync and an async form, and declares that it only reads: it may run early.

    Args:
        path: The SQLite file.
        scale: Factor on the injected latencies.
    """

    def one(query: str, *args: Any) -> dict[str, Any]:
        rows = _select(path, query, *args)
        return rows[0] if rows else {"error": "not found"}

    def find_customer(email: str) -> Any:
        """Find a customer by e-mail address."""
        return one("SELECT id AS customer_id, name, tier, city FROM customers WHERE email = ?", email.strip().lower())

    def list_orders(customer_id: int) -> Any:
        """List a customer's orders, the latest first."""
        return _select(
            path,
            "SELECT id AS order_id, placed_on, status FROM orders WHERE customer_id = ?"
            " ORDER BY placed_on DESC, id DESC",
            customer_id,
        )

    def get_order(order_id: str) -> Any:
        """Get one order with its items and its tracking number."""
        order = one("SELECT id AS order_id, placed_on, status, tracking_number FROM orders WHERE id = ?", order_id)
        if "error" not in order:
            order["items"] = _select(
                path,
                "SELECT sku, quantity, unit_price FROM order_items WHERE order_id = ? ORDER BY sku",
                order_id,
            )
        return order

    def get_product(sku: str) -> Any:
        """Get a product: its name, price and stock."""
        return one("SELECT sku, name, category, price, stock FROM products WHERE sku = ?", sku)

    def track_shipment(tracking_number: str) -> Any:
        """Ask the carrier where a parcel is."""
        return one(
            "SELECT carrier, status, location, expected_on FROM shipments WHERE tracking_number = ?",
            tracking_number,
        )

    def search_help(topic: str) -> Any:
        """Look up a rule of the shop. Topics: returns, orders, shipping, warranty."""
        return one("SELECT title, body AS text FROM help_articles WHERE topic = ?", topic.strip().lower())

    queries = (find_customer, list_orders, get_order, get_product, track_shipment, search_help)
    return [_tool(query, scale * LATENCIES[query.__name__]) for query in queries]


def _tool(query: Callable[..., Any], latency: float) -> BaseTool:
    """A tool that takes `latency` seconds before `query` is made, in a sync and an async form."""

    def sync(**args: Any) -> str:
        time.sleep(latency)
        return json.dumps(query(**args))

    async def asynchronous(**args: Any) -> str:
        await asyncio.sleep(latency)
        return json.dumps(await asyncio.to_thread(query, **args))

    return StructuredTool.from_function(
        func=sync,
        coroutine=asynchronous,
        name=query.__name__,
        description=query.__doc__,
        args_schema=StructuredTool.from_function(query).args_schema,
        metadata={"speculation": {"effect": "read"}},
    )
