"""Chess (the paper's section 4.1 and Figure 2): recorded games of GPT-5 with their own latencies, and live engines."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from benchmarks._engine_rows import run_async
from benchmarks.paper._parts import Group, Measured, Outcome, Part, Row, Settings, data, module
from langgraph_speculative.theory import ideal_schedule

if TYPE_CHECKING:
    from examples._chess_world import Recorded

PLIES = 30
FILE = "chess_gpt5.json"
BREADTH = 3
"""That of the rows; the others are for the figure."""

CONFIGS = ((1, 1), (2, 1), (3, 1), (3, 3), (3, 8))
"""Breadth and depth of the replays."""

PAPER_SAVED = {1: 0.118, 2: 0.150, 3: 0.195}
"""By breadth; booked after the fact, not measured (arXiv 2510.04371, Figure 2)."""


@dataclass(frozen=True)
class Replay:
    """What one breadth and depth have saved of the plain time, and what the ideal schedule would have."""

    saved: float
    ideal: float


def ideal_saving(games: Sequence[Recorded], breadth: int, depth: int) -> float:
    """The share of a game's time that no schedule of this breadth and depth can beat, mean of the games."""
    return fmean(
        1 - ideal_schedule(g.calls, g.guessing, g.hits(breadth), depth=depth).total / sum(g.calls) for g in games
    )


async def _replays(games: Sequence[Recorded], configs: Sequence[tuple[int, int]], settings: Settings) -> Any:
    """Seconds of each plain game, and for each configuration the share of a game's time that it saved, their mean.

    The games that are judged are played two at a time, each plain and then in all configurations; those that are for
    the figure alone all side by side.
    """
    from examples import chess_game

    async def plain(game: Recorded) -> tuple[list[str], float]:
        return await chess_game.played(chess_game.build(game.play, len(game)), len(game))

    async def fast(game: Recorded, breadth: int, depth: int) -> tuple[list[str], float]:
        graph = chess_game.build(game.play, len(game))
        limits = chess_game.policy(breadth, depth)
        return await chess_game.played(chess_game.make_fast(graph, game.guesser(breadth), limits), len(game))

    await plain(games[0].first(4))  # to warm up
    await fast(games[0].first(4), 3, 3)
    before: dict[Recorded, tuple[list[str], float]] = {}
    saved: dict[tuple[int, int], list[float]] = {config: [] for config in configs}

    def add(config: tuple[int, int], expected: tuple[list[str], float], found: tuple[list[str], float]) -> None:
        chess_game.same_game(expected[0], found[0])
        saved[config].append(1 - found[1] / expected[1])

    async def lane(some: Sequence[Recorded]) -> None:
        for game in some:
            before[game] = await plain(game)
            for config in configs:
                if config[0] == BREADTH:
                    add(config, before[game], await fast(game, *config))
            settings.meter.advance()

    # Games wait most of their time: two at once do not get in each other's way.
    await asyncio.gather(lane(games[::2]), lane(games[1::2]))
    for config in configs:
        if config[0] != BREADTH:
            played = await asyncio.gather(*(fast(game, *config) for game in games))
            for game, found in zip(games, played, strict=True):
                add(config, before[game], found)
            settings.meter.advance()
    return sum(seconds for _, seconds in before.values()), {config: fmean(shares) for config, shares in saved.items()}


def replay(settings: Settings) -> Outcome:
    """All recorded games, plain and speculative, against the ideal of the same latencies and the same hits."""
    from examples._chess_world import recorded_games

    games = recorded_games(settings.data / FILE, PLIES)[: settings.times(5, 2)]
    configs = CONFIGS if not settings.quick else CONFIGS[2:]
    settings.meter.start("chess: recorded games", len(games) + sum(k != BREADTH for k, _ in configs))
    before, after = run_async(_replays(games, configs, settings))
    found = {(k, d): Replay(saved, ideal_saving(games, k, d)) for (k, d), saved in after.items()}
    rows = {}
    for k, d in ((3, 1), (3, 3), (3, 8)):
        one = found[k, d]
        rows[f"chess_replay_d{d}"] = Measured(
            one.saved / one.ideal,
            f"{one.ideal:.1%} saved",
            f"{one.saved:.1%} saved, {len(games)} games of {before / len(games):.0f} s",
        )
    return Outcome(rows, found)


def off(settings: Settings) -> Outcome:
    """A Speculator that is never right, as quick as the recorded one: what does asking it cost?"""
    from examples import chess_game
    from examples._chess_world import recorded_games

    game = recorded_games(settings.data / FILE, PLIES)[0]
    settings.meter.start("chess: always wrong", 1)
    before, after, report = run_async(
        chess_game.compare(game.play, game.wrong_guess, len(game), chess_game.policy(BREADTH, 2))
    )
    settings.meter.advance()
    detail = f"{report.launched} early calls, all in vain"
    return Outcome({"chess_wrong_cost": Measured(after / before - 1, "0", detail)})


def _stockfish(settings: Settings) -> str:
    from examples._chess_world import INSTALL, find_stockfish

    return "" if find_stockfish() else f"stockfish ({INSTALL})"


def live(settings: Settings) -> Outcome:
    """Stockfish against Stockfish, with a shallow Stockfish guessing: real processes, one search after another."""
    from examples import _chess_world as world
    from examples import chess_game

    plies = settings.times(PLIES, 12)
    settings.meter.start("chess: live engines", 1)

    async def compare() -> tuple[float, float, Any]:
        program = world.find_stockfish()
        assert program is not None
        async with world.engines(program) as pool:
            player = world.stockfish_player(pool, nodes=chess_game.NODES, seconds=chess_game.THINKING)
            guesser = world.stockfish_guesser(pool, depth=chess_game.GUESS_DEPTH, lines=BREADTH)
            return await chess_game.compare(player, guesser, plies, chess_game.policy(BREADTH, 2))

    before, after, report = asyncio.run(compare())
    settings.meter.advance()
    wasted = report.discarded / max(1, report.claimed)
    detail = (
        f"{report.window_hit_rate:.0%} of the moves guessed in time, {wasted:.1f} early searches in vain for each one "
        f"used, {plies} plies"
    )
    return Outcome({"chess_live": Measured(1 - after / before, "-", detail)})


def draw(series: Mapping[str, Any], directory: Path) -> list[Path]:
    """Answers the paper's Figure 2: time saved by number of guesses, and by depth."""
    if not (found := series.get("replay")):
        return []
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4))
    names = [f"k={k}, d={d}" for k, d in found]
    places = range(len(names))
    booked = [PAPER_SAVED.get(k, 0) * 100 if d == 1 else 0 for k, d in found]
    axes.bar([p - 0.27 for p in places], booked, 0.27, label="paper (booked)", color="#bbbbbb")
    axes.bar(places, [r.saved * 100 for r in found.values()], 0.27, label="ours (measured)", color="#1f77b4")
    axes.bar([p + 0.27 for p in places], [r.ideal * 100 for r in found.values()], 0.27, label="limit", color="#2ca02c")
    axes.set_xticks(list(places), names)
    axes.set_ylabel("time saved, % of the plain game")
    axes.set_title("Chess, recorded GPT-5 games, 30 plies (paper's Figure 2)")
    axes.legend()
    file = directory / "figure2_chess.png"
    figure.savefig(file, dpi=120, bbox_inches="tight")
    plt.close(figure)
    return [file]


_REPLAY = "recorded GPT-5 games, their latencies at 1/500, k=3"

PART = Part(
    title="Chess",
    groups=(
        Group(
            "replay",
            {
                f"chess_replay_d{d}": Row(f"{_REPLAY}, d={d}: time saved, of the ideal", 0.97, "higher", paper)
                for d, paper in ((1, "19.5 % saved (booked)"), (3, "-"), (8, "-"))
            },
            replay,
            (module("chess"), data(FILE)),
        ),
        Group(
            "always wrong",
            {
                "chess_wrong_cost": Row(
                    "the same with a Speculator that is never right, k=3, d=2: time added, of plain", 0.02, "lower"
                )
            },
            off,
            (module("chess"), data(FILE)),
        ),
        Group(
            "live",
            {
                "chess_live": Row(
                    "Stockfish (20,000 nodes, answer padded to 1 s) against depth 8, k=3, d=2: time saved, of plain",
                    0.30,
                    "higher",
                )
            },
            live,
            (module("chess"), _stockfish),
        ),
    ),
    draw=draw,
)
