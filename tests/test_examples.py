"""Every example in a short form, with the real programs where they are installed, and what they are made of."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import chess.engine
import pytest
from langchain_core.language_models.fake_chat_models import GenericFakeChatModel
from langchain_core.messages import AIMessage

from examples import _chess_world, _tuning_world, chess_game, os_tuning
from examples._timeline import Timeline
from examples._tuning_world import GRID, Monitor, Window
from langgraph_speculative import Event

needs_stockfish = pytest.mark.skipif(
    _chess_world.find_stockfish() is None, reason=f"no stockfish here: {_chess_world.INSTALL}"
)
needs_sysbench = pytest.mark.skipif(bool(_tuning_world.missing()), reason=f"missing: {_tuning_world.missing()}")

MOVES = ("e2e4", "e7e5", "g1f3", "b8c6", "f1c4", "g8f6")


def write_recording(file: Path, hits: str = "yynyny", actor_s: float = 30.0) -> Path:
    """A made-up recording of one game: whether each move is among its guesses, as a letter."""
    plies = []
    for ply, (move, hit) in enumerate(zip(MOVES, hits, strict=True)):
        legal = sorted(m.uci() for m in _chess_world.position(MOVES[:ply]).legal_moves if m.uci() != move)
        guesses = [legal[0], move if hit == "y" else legal[1], legal[2]]
        plies.append({"ply": ply, "move": move, "actor_s": actor_s, "guesses": guesses, "guess_s": 4.0})
    file.write_text(json.dumps([{"game": "made up", "plies": plies}]))
    return file


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    return write_recording(tmp_path / "games.json")


# --- chess ------------------------------------------------------------------------------------------------------------


def test_a_replayed_game_is_the_plain_one_and_sooner(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # Moves that take long enough for the guesses to come before them on a busy machine, too.
    recording = write_recording(tmp_path / "games.json", actor_s=200.0)
    assert chess_game.main(["--replay", str(recording), "--plies", "6", "-d", "3"]) == 0
    out = capsys.readouterr().out
    assert "The 6 moves are the same." in out
    assert "4/6 moves guessed" in out
    assert all(f"\n{lane}" in out for lane in ("committed", "early", "claimed", "discarded"))


def test_a_speculator_that_is_never_right(recording: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert chess_game.main(["--replay", str(recording), "--plies", "6", "--guess", "wrong"]) == 0
    out = capsys.readouterr().out
    assert "The 6 moves are the same." in out
    assert "0/6 moves guessed, 0 early searches used" in " ".join(out.split())


@needs_stockfish
def test_a_live_game_is_the_plain_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert chess_game.main(["--plies", "4", "--seconds", "0.3"]) == 0
    assert "The 4 moves are the same." in capsys.readouterr().out


@needs_stockfish
async def test_searches_of_equal_size_find_equal_moves() -> None:
    program = _chess_world.find_stockfish()
    assert program is not None
    limit = chess.engine.Limit(nodes=5_000)
    async with _chess_world.engines(program, 1) as pool:
        first = [await pool.best(MOVES[:ply], limit, lines=5) for ply in range(6)]
        # What the engine has seen meanwhile must not show.
        again = [await pool.best(MOVES[:ply], limit, lines=5) for ply in reversed(range(6))]
        assert again[::-1] == first


async def test_who_comes_for_an_earlier_move_goes_first() -> None:
    pool = _chess_world.Engines()
    order: list[int] = []

    async def take(ply: int) -> None:
        engine = await pool._take(ply)
        order.append(ply)
        pool._give(engine)

    tasks = [asyncio.create_task(take(ply)) for ply in (4, 2, 3, 2)]
    await asyncio.sleep(0)
    tasks[2].cancel()
    pool._give(object())  # type: ignore[arg-type]
    await asyncio.gather(*tasks, return_exceptions=True)
    assert order == [2, 2, 4]
    assert len(pool._free) == 1


async def test_an_illegal_move_ends_the_game() -> None:
    async def player(moves: Any) -> str:
        return "e2e5"

    with pytest.raises(_chess_world.IllegalMove, match="illegal uci: 'e2e5'"):
        await chess_game.played(chess_game.build(player, 4), 4)


async def test_a_game_that_is_over_ends() -> None:
    mate = iter(("f2f3", "e7e5", "g2g4", "d8h4", "never played"))

    async def player(moves: Any) -> str:
        return next(mate)

    moves, _ = await chess_game.played(chess_game.build(player, 30), 30)
    assert moves == ["f2f3", "e7e5", "g2g4", "d8h4"]


async def test_off_the_recorded_game_nobody_knows_a_guess(recording: Path) -> None:
    (game,) = _chess_world.recorded_games(recording, 6, scale=0.0)
    assert game.hits(1) == [False] * 6
    assert game.hits(3) == [True, True, False, True, False, True]
    assert await game.guesser(2)(MOVES[:1]) == list(game.guesses[1][:2])
    assert await game.guesser(2)(["d2d4"]) == []
    assert await game.play(["d2d4"]) in [m.uci() for m in _chess_world.position(["d2d4"]).legal_moves]
    assert MOVES[1] not in await game.wrong_guess(MOVES[:1])


async def test_a_model_is_asked_once_for_a_position(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = iter([AIMessage("I play **e2e4**."), AIMessage("castle!")])
    model = GenericFakeChatModel(messages=answers)
    monkeypatch.setattr("langchain_openai.ChatOpenAI", lambda **options: model)
    player = _chess_world.remembering(_chess_world.model_player("some-model"))
    assert [await player([]), await player([])] == ["e2e4", "e2e4"]
    with pytest.raises(_chess_world.IllegalMove, match=r"some-model answered 'castle!'"):
        await player(["e2e4"])


def test_without_stockfish_the_command_says_what_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_chess_world, "find_stockfish", lambda: None)
    with pytest.raises(SystemExit, match="apt-get install stockfish"):
        chess_game.main([])


# --- operating-system tuning ------------------------------------------------------------------------------------------


def test_rehearsed_decisions_are_the_plain_ones(capsys: pytest.CaptureFixture[str]) -> None:
    assert os_tuning.main(["--rehearse", "--thinking", "0.2", "--decisions", "4"]) == 0
    out = capsys.readouterr().out
    assert "Decisions and measurements are the plain run's." in out
    assert "\nearly" in out
    assert ": [0.32, 18.0, 0.18, 1.0]; 0 early calls" not in out


def test_an_undeclared_knob_is_left_alone(capsys: pytest.CaptureFixture[str]) -> None:
    assert os_tuning.main(["--rehearse", "--thinking", "0.1", "--decisions", "2", "--careful"]) == 0
    assert "Nothing acted early, and no Speculator was asked." in capsys.readouterr().out


@needs_sysbench
def test_real_settings_are_carried_out(capsys: pytest.CaptureFixture[str]) -> None:
    assert os_tuning.main(["--decisions", "1", "--thinking", "2"]) == 0
    out = capsys.readouterr().out
    assert "slice 0.1 ms" in out  # the Speculator's first
    assert "decided: [0.32]" in out


@needs_sysbench
def test_the_kernel_takes_a_slice() -> None:
    before = _tuning_world.slice_of(0)
    try:
        _tuning_world.set_slice(0, 18.0)
        assert _tuning_world.slice_of(0) == 18.0
    finally:
        _tuning_world.set_slice(0, 0)
    assert _tuning_world.slice_of(0) == before


def windows(*pairs: tuple[float, float]) -> Monitor:
    return Monitor(windows=[Window(setting, 0.0, cost, 0.0) for setting, cost in pairs])


def test_the_quick_rule_tries_everything_and_stays_with_the_best() -> None:
    monitor = Monitor()
    for _ in GRID:
        setting = os_tuning.quick(monitor)
        monitor.windows.append(Window(setting, 0.0, abs(setting - 3.2), 0.0))
    assert {w.slice for w in monitor.windows} == set(GRID)
    assert [w.slice for w in monitor.windows[:4]] == [0.1, 1.0, 10.0, 100.0]
    assert os_tuning.quick(monitor) == 3.2
    monitor.windows += windows((3.2, 0.0), (3.2, 50.0)).windows
    assert os_tuning.quick(monitor) == 3.2  # one bad second does not decide
    monitor.windows += windows((3.2, 50.0)).windows
    assert os_tuning.quick(monitor) == 1.8


def test_a_99th_percentile_above_its_guard_counts() -> None:
    assert Window(1.0, 0.0, 5.0, _tuning_world.GUARD - 1).cost == 5.0
    assert Window(1.0, 0.0, 5.0, _tuning_world.GUARD + 7).cost == 12.0


def test_the_optimiser_depends_on_what_it_is_told_alone() -> None:
    log = [{"slice": setting, "cost": abs(setting - 3.2)} for setting in GRID]
    assert os_tuning.optimiser(log, 1) == os_tuning.optimiser(log, 1)
    assert os_tuning.optimiser(log, 1) in GRID
    assert len({os_tuning.optimiser(log[:n], 5) for n in range(os_tuning.STARTS)}) == os_tuning.STARTS


def test_percentiles_of_a_histogram() -> None:
    output = "\n".join(
        (
            "Latency histogram (values are in milliseconds)",
            "       value  ------------- distribution ------------- count",
            "       1.102 |**                                       2",
            "       1.142 |**************************************** 96",
            "      33.120 |                                         2",
            " ",
        )
    )
    assert _tuning_world.percentile_of(output, 0.98) == 1.142
    assert _tuning_world.percentile_of(output, 0.99) == 33.12
    with pytest.raises(ValueError, match="no histogram"):
        _tuning_world.percentile_of("nothing", 0.5)


# --- the timeline -----------------------------------------------------------------------------------------------------


def test_a_timeline_draws_the_latest_run() -> None:
    timeline = Timeline()
    assert timeline.text() == ""
    timeline(Event("launch", run=1, at=0.0))
    for kind, at in (
        *(("run", 10.0), ("launch", 12.0), ("launch", 12.1), ("hit", 14.0), ("claim", 14.0), ("discard", 16.5)),
        *(("miss", 18.0), ("end", 20.0)),
    ):
        timeline(Event(kind, run=2, at=at))  # type: ignore[arg-type]
    lanes = [line[11:21] for line in timeline.text(10).splitlines()[:4]]
    assert lanes == ["    1   1 ", "  22211   ", "    1     ", "      1   "]
    assert timeline.text(10).splitlines()[4].endswith("10.0 s")
