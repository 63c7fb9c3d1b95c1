"""Two chess players in turn, and a quick engine that guesses their moves.

    python -m examples.chess_game                              # Stockfish plays, a shallow Stockfish guesses
    python -m examples.chess_game --replay chess_gpt5.json     # recorded games of a model, its latencies scaled
    python -m examples.chess_game --actor openai:gpt-5-mini    # your own endpoint; Stockfish guesses
    python -m examples.chess_game --guess wrong                # where speculation should stay off

While one player thinks, the Speculator names the likeliest moves, and the other player starts to think about each of
them. A chess move changes nothing but the state, so both players are `pure`, and the game is the plain one.
"""

from __future__ import annotations

import argparse
import asyncio
import operator
import sys
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Annotated, Any, TypedDict

from langgraph.graph import END, START, StateGraph
from rich.console import Console

from examples import _chess_world as world
from examples._chess_world import Guesser, Player
from examples._timeline import Timeline
from langgraph_speculative import Guess, Policy, Report, SpeculativeGraph, speculative

NODES = 20_000
THINKING = 1.0
GUESS_DEPTH = 8
BREADTH = 3
DEPTH = 2
PLIES = 30


class Game(TypedDict):
    """The moves so far, in UCI notation."""

    moves: Annotated[list[str], operator.add]


def build(player: Player, plies: int) -> Any:
    """The graph: white and black in turn, until the game is over or has `plies` moves."""

    async def play(game: Game) -> dict[str, list[str]]:
        move = await player(game["moves"])
        world.position([*game["moves"], move])  # the rules are the world's, whoever plays
        return {"moves": [move]}

    def turn(game: Game) -> str:
        moves = game["moves"]
        if len(moves) >= plies or world.position(moves).is_game_over(claim_draw=True):
            return END
        return "black" if len(moves) % 2 else "white"

    builder = StateGraph(Game)
    builder.add_node("white", play)
    builder.add_node("black", play)
    builder.add_edge(START, "white")
    for colour in ("white", "black"):
        builder.add_conditional_edges(colour, turn, ["white", "black", END])
    return builder.compile()


def policy(breadth: int = BREADTH, depth: int = DEPTH, hooks: Sequence[Any] = ()) -> Policy:
    """How far and how wide to speculate, in all of this example's games."""
    return Policy(breadth=breadth, depth=depth, hooks=tuple(hooks))


def make_fast(graph: Any, guesser: Guesser, limits: Policy) -> SpeculativeGraph:
    """The same game, sooner."""

    async def guess(game: Game) -> list[Guess]:
        moves = await guesser(game["moves"])
        return [Guess({"moves": [move]}, confidence=1 / (rank + 1)) for rank, move in enumerate(moves)]

    return speculative(
        graph,
        speculators={"white": guess, "black": guess},
        effects={"white": "pure", "black": "pure"},
        policy=limits,
    )


async def played(graph: Any, plies: int) -> tuple[list[str], float]:
    """The moves of one game, and its seconds."""
    started = time.perf_counter()
    result = await graph.ainvoke({"moves": []}, {"recursion_limit": plies + 5})
    return result["moves"], time.perf_counter() - started


def same_game(plain: list[str], fast: list[str]) -> None:
    """Raises:
    AssertionError: The two games differ.
    """
    assert fast == plain, f"the speculative game differs from the plain one:\n{fast}\n{plain}"


async def compare(player: Player, guesser: Guesser, plies: int, limits: Policy) -> tuple[float, float, Report]:
    """Play one game plain and speculatively; seconds of both, and what speculation did."""
    graph = build(player, plies)
    plain, before = await played(graph, plies)
    fast = make_fast(graph, guesser, limits)
    with fast.track() as report:
        moves, seconds = await played(fast, plies)
    same_game(plain, moves)
    return before, seconds, report


async def run(options: argparse.Namespace, console: Console) -> None:
    """One game as the command line asks for it."""
    timeline = Timeline()
    limits = policy(options.k, options.d, [timeline])
    plies = options.plies
    async with AsyncExitStack() as stack:
        if options.replay:
            game = world.recorded_games(options.replay, plies)[options.game]
            player: Player = game.play
            guesser = game.wrong_guess if options.guess == "wrong" else game.guesser(options.k)
            console.print(f"Actor and Speculator: recorded in {options.replay.name}, 1 s as {world.SCALE * 1000:g} ms")
            plies = len(game)
        else:
            program = world.find_stockfish()
            if program is None:
                raise SystemExit(f"There is no stockfish here. Install it: {world.INSTALL}")
            pool = await stack.enter_async_context(world.engines(program))
            guesser = world.stockfish_guesser(pool, depth=GUESS_DEPTH, lines=options.k)
            kind, _, name = options.actor.partition(":")
            if kind == "openai" and name:
                player = world.remembering(world.model_player(name))
                console.print(f"Actor: {name}; a position seen before is answered as before, and as slowly")
            else:
                player = world.stockfish_player(pool, nodes=NODES, seconds=options.seconds)
                console.print(f"Actor: Stockfish, {NODES:,} nodes, answers after {options.seconds:g} s (injected wait)")
            if options.guess == "wrong":
                guesser = never(guesser, player)
            console.print(f"Speculator: Stockfish to depth {GUESS_DEPTH}, {options.k} lines")
        before, seconds, report = await compare(player, guesser, plies, limits)
    console.print(timeline.text(), highlight=False, soft_wrap=True)
    console.print(
        f"plain {before:.1f} s, speculative {seconds:.1f} s: {1 - seconds / before:.0%} saved; "
        f"{report.window_hits}/{report.windows} moves guessed, {report.claimed} early searches used, "
        f"{report.discarded} in vain"
    )
    console.print(f"The {plies} moves are the same.")


def never(guesser: Guesser, player: Player) -> Guesser:
    """A Speculator that is always wrong, and as slow as the Actor: it asks it, so as not to guess its move."""

    async def guess(moves: Sequence[str]) -> list[str]:
        likely, played = await asyncio.gather(guesser(moves), player(moves))
        return [move for move in likely if move != played]

    return guess


def main(argv: Sequence[str] | None = None) -> int:
    """Run the example; its exit status."""
    parser = argparse.ArgumentParser(prog="python -m examples.chess_game", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--actor", default="stockfish", help="stockfish, or openai:MODEL on your own endpoint")
    parser.add_argument("--replay", type=Path, help="a file of recorded games (chess_gpt5.json)")
    parser.add_argument("--game", type=int, default=0, help="which of the recorded games")
    parser.add_argument("--guess", choices=("good", "wrong"), default="good", help="wrong: never the move played")
    parser.add_argument("--plies", type=int, default=PLIES, help="moves of both players")
    parser.add_argument("--seconds", type=float, default=THINKING, help="Stockfish's time for a move")
    parser.add_argument("-k", type=int, default=BREADTH, help="guesses per move")
    parser.add_argument("-d", type=int, default=DEPTH, help="moves ahead")
    asyncio.run(run(parser.parse_args(argv), Console()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
