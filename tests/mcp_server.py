"""An MCP server over stdio that notes each call of its tools at the test before it answers.

It imports nothing of the library: `tests/test_mcp_server.py` starts it as a process of its own.
"""

from __future__ import annotations

import asyncio
import os
from typing import Any

from mcp.server.fastmcp import FastMCP
from mcp.types import ToolAnnotations

PORT = "NOTES_PORT"
"""Environment variable: where the test listens."""

HINTS: dict[str, dict[str, Any] | None] = {
    "look": {"readOnlyHint": True},
    "drop": {"destructiveHint": True},
    "plain": None,
    "both": {"readOnlyHint": True, "destructiveHint": True},
    "again": {"idempotentHint": True},
    # As the adapters would name the tool `list` of a server `shop`.
    "shop_list": {"readOnlyHint": True},
    # The protocol lets annotations have further fields, and the adapters hand them on.
    "pose": {"mcp": {"server": {"name": "shop"}, "tool": {"annotations": {"readOnlyHint": True}}}},
    "vouch": {"speculation": {"effect": "pure"}},
}


async def note(name: str) -> None:
    """Tell the test, and go on once it has counted the call."""
    reader, writer = await asyncio.open_connection("127.0.0.1", int(os.environ[PORT]))
    writer.write(f"{name}\n".encode())
    await reader.readline()
    writer.close()


def tool(name: str) -> Any:
    async def body(what: str) -> str:
        await note(name)
        return f"{name} {what}"

    body.__name__ = name
    return body


def main() -> None:
    server = FastMCP("shop", log_level="ERROR")
    for name, hints in HINTS.items():
        annotations = None if hints is None else ToolAnnotations(**hints)
        server.add_tool(tool(name), name=name, description=f"Do {name}.", annotations=annotations)
    server.run("stdio")


if __name__ == "__main__":
    main()
