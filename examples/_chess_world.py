"""The chess example's world: the rules, live Stockfish processes, recorded games, and a model as a player."""

from __future__ import annotations

import asyncio
import heapq
import itertools
import json
import os
import shutil
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import chess
import chess.engine

Player = Callable[[Sequence[str]], Awaitable[str]]
"""From the moves so far (UCI) to the next one."""

Guesser = Callable[[Sequence[str]], Awaitable[list[str]]]
"""From the moves so far to the likeliest next ones, likeliest first."""

SCALE = 1 / 500
"""Seconds of a replay per recorded second."""

INSTALL = "apt-get install stockfish"


class IllegalMove(ValueError):
    """A player has made a move that the rules do not allow."""


def position(moves: Sequence[str]) -> chess.Board:
    """The board after these moves.

    Raises:
        IllegalMove: One of them is not legal.
    """
    board = chess.Board()
    for move in moves:
        try:
            board.push_uci(move)
        except ValueError as error:
            raise IllegalMove(str(error)) from None
    return board


def find_stockfish() -> str | None:
    """The engine's program; Debian keeps games outside of many a PATH."""
    return shutil.which("stockfish") or shutil.which("stockfish", path="/usr/games")


class Engines:
    """As many Stockfish processes as are asked for. Who comes for an earlier move goes first.

    The run itself is always at the earliest move, so it never queues behind the searches of its branches; one that is
    under way it has to wait for, which the time that a player takes to answer hides.
    """

    def __init__(self) -> None:
        self._all: list[tuple[asyncio.SubprocessTransport, chess.engine.UciProtocol]] = []
        self._free: list[chess.engine.UciProtocol] = []
        self._waiting: list[tuple[int, int, asyncio.Future[chess.engine.UciProtocol]]] = []
        self._order = itertools.count()
        self._searches: set[asyncio.Task[list[str]]] = set()

    async def start(self, program: str) -> None:
        """Start one more."""
        transport, engine = await chess.engine.popen_uci(program)
        self._all.append((transport, engine))
        await engine.configure({"Threads": 1, "Hash": 16})  # one thread: the same nodes give the same move
        self._give(engine)

    async def _take(self, ply: int) -> chess.engine.UciProtocol:
        if self._free:
            return self._free.pop()
        turn: asyncio.Future[chess.engine.UciProtocol] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._waiting, (ply, next(self._order), turn))
        try:
            return await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self._give(turn.result())
            raise

    def _give(self, engine: chess.engine.UciProtocol) -> None:
        while self._waiting:
            _, _, turn = heapq.heappop(self._waiting)
            if not turn.done():
                turn.set_result(engine)
                return
        self._free.append(engine)

    async def best(self, moves: Sequence[str], limit: chess.engine.Limit, lines: int = 1) -> list[str]:
        """The engine's best moves, best first."""
        engine = await self._take(len(moves))
        # A discarded search is not cut off: python-chess cannot stop one that has not begun yet, and it is short.
        search = asyncio.create_task(self._search(engine, position(moves), limit, lines))
        self._searches.add(search)
        search.add_done_callback(self._searches.discard)
        return await asyncio.shield(search)

    async def _search(
        self, engine: chess.engine.UciProtocol, board: chess.Board, limit: chess.engine.Limit, lines: int
    ) -> list[str]:
        try:
            # A new game each time: what an earlier search has left in the hash table would change the move.
            found = await engine.analyse(board, limit, multipv=lines, game=object())
        finally:
            self._give(engine)
        return [info["pv"][0].uci() for info in found if info.get("pv")]

    async def close(self) -> None:
        """End all processes, once their searches have ended."""
        await asyncio.gather(*self._searches, return_exceptions=True)
        for transport, engine in self._all:
            await engine.quit()
            transport.close()


@asynccontextmanager
async def engines(program: str, count: int | None = None) -> AsyncIterator[Engines]:
    """`count` processes, as many as there are cores if it is not given."""
    pool = Engines()
    try:
        for _ in range(count or os.cpu_count() or 1):
            await pool.start(program)
        yield pool
    finally:
        await pool.close()


def stockfish_player(pool: Engines, *, nodes: int, seconds: float) -> Player:
    """A search of exactly `nodes`, so that the move is always the same; its answer comes `seconds` after the question.

    The wait stands for the rest of a longer search, or for an engine on another machine: several searches of a second
    each on two cores would measure how they share these.
    """

    async def play(moves: Sequence[str]) -> str:
        answer = asyncio.create_task(asyncio.sleep(seconds))
        try:
            best = await pool.best(moves, chess.engine.Limit(nodes=nodes))
            await answer
        finally:
            answer.cancel()
        return best[0]

    return play


def stockfish_guesser(pool: Engines, *, depth: int, lines: int) -> Guesser:
    """The best lines of a shallow search."""

    async def guess(moves: Sequence[str]) -> list[str]:
        return await pool.best(moves, chess.engine.Limit(depth=depth), lines)

    return guess


# --- recorded games ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Recorded:
    """A recorded game: of each ply the move, the guesses at it, and how long both took (seconds, scaled)."""

    moves: tuple[str, ...]
    calls: tuple[float, ...]
    guesses: tuple[tuple[str, ...], ...]
    guessing: tuple[float, ...]

    def __len__(self) -> int:
        return len(self.moves)

    def first(self, plies: int) -> Recorded:
        """Its first plies."""
        return Recorded(self.moves[:plies], self.calls[:plies], self.guesses[:plies], self.guessing[:plies])

    def hits(self, breadth: int) -> list[bool]:
        """Whether one of the first `breadth` guesses at each ply is right."""
        return [move in guesses[:breadth] for move, guesses in zip(self.moves, self.guesses, strict=True)]

    def knows(self, moves: Sequence[str]) -> bool:
        """Whether the recorded game has been here."""
        return len(moves) < len(self) and self.moves[: len(moves)] == tuple(moves)

    async def play(self, moves: Sequence[str]) -> str:
        """The recorded move, as long as it took. Elsewhere, in a branch that will come to nothing, any legal move."""
        ply = len(moves)
        await asyncio.sleep(self.calls[ply])
        if self.knows(moves):
            return self.moves[ply]
        return min(move.uci() for move in position(moves).legal_moves)

    def guesser(self, breadth: int) -> Guesser:
        """The recorded guesses. Elsewhere there are none: nobody has recorded what would be guessed there."""

        async def guess(moves: Sequence[str]) -> list[str]:
            if not self.knows(moves):
                return []
            await asyncio.sleep(self.guessing[len(moves)])
            return list(self.guesses[len(moves)][:breadth])

        return guess

    async def wrong_guess(self, moves: Sequence[str]) -> list[str]:
        """As quick as the recorded guesses, legal, and never right."""
        if not self.knows(moves):
            return []
        await asyncio.sleep(self.guessing[len(moves)])
        played = self.moves[len(moves)]
        return sorted(m.uci() for m in position(moves).legal_moves if m.uci() != played)[:3]


def recorded_games(file: Path, plies: int, scale: float = SCALE) -> list[Recorded]:
    """The games of a file of recorded ones, their first plies.

    Raises:
        FileNotFoundError: There is no such file.
    """
    games = []
    for game in json.loads(file.read_text()):
        chosen = game["plies"][:plies]
        games.append(
            Recorded(
                moves=tuple(p["move"] for p in chosen),
                calls=tuple(p["actor_s"] * scale for p in chosen),
                guesses=tuple(tuple(p["guesses"]) for p in chosen),
                guessing=tuple(p["guess_s"] * scale for p in chosen),
            )
        )
    return games


# --- models as players ------------------------------------------------------------------------------------------------


def remembering(player: Player) -> Player:
    """Answers a position that it has seen as before, and as slowly: so two games with a model can be compared."""
    known: dict[tuple[str, ...], tuple[str, float]] = {}

    async def play(moves: Sequence[str]) -> str:
        if (before := known.get(tuple(moves))) is not None:
            await asyncio.sleep(before[1])
            return before[0]
        started = time.perf_counter()
        move = await player(moves)
        known[tuple(moves)] = move, time.perf_counter() - started
        return move

    return play


def model_player(name: str, base_url: str | None = None) -> Player:
    """A chat model of an OpenAI-compatible endpoint, named by the environment as ever (``OPENAI_API_KEY``, …)."""
    from langchain_openai import ChatOpenAI

    options: dict[str, Any] = {"base_url": base_url} if base_url else {}
    model = ChatOpenAI(model=name, **options)

    async def play(moves: Sequence[str]) -> str:
        board = position(moves)
        legal = [move.uci() for move in board.legal_moves]
        answer = await model.ainvoke(
            f"You play {'white' if board.turn else 'black'}. Position (FEN): {board.fen()}\n"
            f"Legal moves: {' '.join(legal)}\nAnswer with the best one of them and nothing else."
        )
        words = str(answer.text).split()
        move = next((word.strip(".,`*") for word in reversed(words) if word.strip(".,`*") in legal), None)
        if move is None:
            raise IllegalMove(f"{name} answered {answer.text!r}, which names no legal move")
        return move

    return play
