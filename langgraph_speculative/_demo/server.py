"""A local OpenAI-compatible server for the demo's scripted models. Standard library only."""

from __future__ import annotations

import json
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, cast

from langgraph_speculative._demo.script import SPEEDS, Message, Turn, answer, first_token_delay, token_count


class ModelServer:
    """Serves ``/v1/chat/completions`` on 127.0.0.1, on a free port, from daemon threads. A context manager.

    Args:
        scale: Factor on all injected latencies; 0 for none.
    """

    def __init__(self, scale: float = 1.0) -> None:
        self._server = _Server(scale)
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, name="demo-models", daemon=True
        )

    @property
    def base_url(self) -> str:
        """What ``ChatOpenAI(base_url=...)`` takes."""
        return f"http://127.0.0.1:{self._server.server_address[1]}/v1"

    @property
    def requests(self) -> dict[str, int]:
        """How many completions each model was asked for."""
        with self._server.lock:
            return dict(self._server.requests)

    def close(self) -> None:
        """Stop serving; answers that are still being typed out end at once."""
        self._server.stopping.set()
        if self._thread.is_alive():
            self._server.shutdown()
            self._thread.join()
        self._server.server_close()

    def __enter__(self) -> ModelServer:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, scale: float) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.scale = scale
        self.stopping = threading.Event()
        self.lock = threading.Lock()
        self.requests: dict[str, int] = {}

    def handle_error(self, request: Any, client_address: Any) -> None:
        # A client that hangs up is everyday life here: a discarded pre-execution does so.
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


class _BadRequest(Exception):
    """What the client did wrong, with the HTTP status."""

    def __init__(self, status: int, message: str, code: str) -> None:
        super().__init__(message)
        self.status = status
        self.body = {"error": {"message": message, "type": "invalid_request_error", "param": None, "code": code}}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # Small writes would otherwise wait for the acknowledgement of the ones before: 40 ms for each token.
    disable_nagle_algorithm = True

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing: the demo has the terminal."""

    def do_POST(self) -> None:
        try:
            request = self._read()
            self._answer(request)
        except _BadRequest as bad:
            self._send_json(bad.status, bad.body)
        except ConnectionError:
            self.close_connection = True

    def _read(self) -> dict[str, Any]:
        # The body is read before anything is refused, or it would be taken for the next request.
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.path.partition("?")[0] != "/v1/chat/completions":
            raise _BadRequest(404, f"Unknown path {self.path}", "unknown_url")
        try:
            request = json.loads(body)
            model, messages = request["model"], request["messages"]
        except (ValueError, KeyError, TypeError):
            raise _BadRequest(400, "The body must be JSON with 'model' and 'messages'.", "invalid_body") from None
        if model not in SPEEDS:
            raise _BadRequest(404, f"The model {model!r} does not exist.", "model_not_found")
        if not isinstance(messages, list) or not all(isinstance(m, dict) for m in messages):
            raise _BadRequest(400, "'messages' must be a list of objects.", "invalid_messages")
        return cast(dict[str, Any], request)

    def _answer(self, request: dict[str, Any]) -> None:
        server = cast(_Server, self.server)
        model, messages = request["model"], request["messages"]
        start = time.monotonic()
        with server.lock:
            server.requests[model] = server.requests.get(model, 0) + 1
        try:
            reply = _Reply(model, messages, answer(model, messages))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise _BadRequest(400, f"Malformed messages: {error!r}", "invalid_messages") from None
        first = start + server.scale * first_token_delay(model, messages)
        gap = server.scale / SPEEDS[model].tokens_per_second
        if not request.get("stream"):
            self._wait_until(first + gap * reply.completion_tokens)
            self._send_json(200, reply.completion())
            return
        usage = bool((request.get("stream_options") or {}).get("include_usage"))
        self._wait_until(first)
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Cache-Control", "no-cache")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for n, delta in enumerate(reply.deltas()):
            # Absolute times: the waits of many tokens must not add up their own overhead.
            self._wait_until(first + gap * n)
            self._send_event(json.dumps(delta))
        if usage:
            self._send_event(json.dumps(reply.usage_chunk()))
        self._send_event("[DONE]")
        self.wfile.write(b"0\r\n\r\n")

    def _wait_until(self, when: float) -> None:
        server = cast(_Server, self.server)
        if server.stopping.wait(max(0.0, when - time.monotonic())):
            raise ConnectionAbortedError("the server is closing")

    def _send_event(self, data: str) -> None:
        event = f"data: {data}\n\n".encode()
        self.wfile.write(b"%x\r\n%b\r\n" % (len(event), event))

    def _send_json(self, status: int, body: dict[str, Any]) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


class _Reply:
    """One answer in OpenAI's wire format, with fresh ids."""

    def __init__(self, model: str, messages: list[Message], turn: Turn) -> None:
        self.model = model
        self.turn = turn
        self.id = f"chatcmpl-{uuid.uuid4().hex[:24]}"
        self.created = int(time.time())
        self.calls: list[dict[str, Any]] = [
            {
                "id": f"call_{uuid.uuid4().hex[:24]}",
                "type": "function",
                "function": {"name": name, "arguments": json.dumps(args)},
            }
            for name, args in turn.calls
        ]
        self.finish_reason = "tool_calls" if turn.calls else "stop"
        self.prompt_tokens = token_count(json.dumps(messages))
        said = turn.text or "".join(c["function"]["name"] + c["function"]["arguments"] for c in self.calls)
        self.completion_tokens = token_count(said) + 4 * len(self.calls)

    @property
    def usage(self) -> dict[str, int]:
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "total_tokens": self.prompt_tokens + self.completion_tokens,
        }

    def completion(self) -> dict[str, Any]:
        """The whole answer at once."""
        message: dict[str, Any] = {"role": "assistant", "content": self.turn.text or None, "refusal": None}
        if self.calls:
            message["tool_calls"] = self.calls
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": self.finish_reason}
        return self._envelope("chat.completion", [choice]) | {"usage": self.usage}

    def deltas(self) -> Iterator[dict[str, Any]]:
        """The answer token by token."""
        yield self._delta({"role": "assistant", "content": "" if self.turn.text else None})
        for piece in _pieces(self.turn.text):
            yield self._delta({"content": piece})
        for index, call in enumerate(self.calls):
            function = call["function"]
            head = call | {"function": {"name": function["name"], "arguments": ""}, "index": index}
            yield self._delta({"tool_calls": [head]})
            for piece in _pieces(function["arguments"]):
                yield self._delta({"tool_calls": [{"index": index, "function": {"arguments": piece}}]})
        yield self._delta({}, self.finish_reason)

    def usage_chunk(self) -> dict[str, Any]:
        """The last chunk of a stream that asked for ``include_usage``."""
        return self._envelope("chat.completion.chunk", []) | {"usage": self.usage}

    def _delta(self, delta: dict[str, Any], finish_reason: str | None = None) -> dict[str, Any]:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
        return self._envelope("chat.completion.chunk", [choice])

    def _envelope(self, kind: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return {
            "id": self.id,
            "object": kind,
            "created": self.created,
            "model": self.model,
            "system_fingerprint": "fp_scripted",
            "choices": choices,
        }


def _pieces(text: str) -> list[str]:
    """`text` in pieces of about a token."""
    return [text[i : i + 4] for i in range(0, len(text), 4)]
