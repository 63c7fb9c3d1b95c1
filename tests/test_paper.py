"""The frame of the paper's benchmark, and its parts at a fraction of their size; their numbers are not judged here."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from benchmarks.paper import __main__ as paper
from benchmarks.paper import _parts, chess, os_tuning
from benchmarks.paper._parts import Group, Measured, Outcome, Part, Row, Settings
from tests.test_examples import write_recording

ROW = Row("a case", 0.5, "higher", "19.5 %")


def drawn(series: Mapping[str, Any], directory: Path) -> list[Path]:
    file = directory / "figure.png"
    file.write_text(json.dumps(sorted(series)))
    return [file]


def part(*groups: Group) -> Part:
    return Part("Some system", groups, drawn)


def group(name: str, value: float | Exception, needs: str = "") -> Group:
    def measure(settings: Settings) -> Outcome:
        if isinstance(value, Exception):
            raise value
        return Outcome({f"{name}_row": Measured(value, "0.7", "two runs")})

    return Group(name, {f"{name}_row": ROW}, measure, (lambda settings: needs,))


class TestCommand:
    def run(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, *groups: Group, argv: tuple[str, ...] = ()) -> int:
        monkeypatch.setattr(paper, "part", lambda system: part(*groups))
        return paper.main(["--only", "chess", "--out", str(tmp_path / "out"), *argv])

    def test_a_table_and_a_figure(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        groups = (group("good", 0.625), group("bad", 0.125), group("lacking", 1.0, "stockfish (apt-get install it)"))
        assert self.run(monkeypatch, tmp_path, *groups) == 0
        captured = capsys.readouterr()
        assert "| good_row | a case | 19.5 % | 0.625 | ≥ 0.5 | 0.7 |" in captured.out
        assert "| bad_row | a case | 19.5 % | 0.125 **missed** | ≥ 0.5 | 0.7 |" in captured.out
        assert "* good_row: two runs" in captured.out
        assert "* skipped: chess lacking: needs stockfish (apt-get install it)" in captured.out
        assert "lacking_row" not in captured.out
        assert "skipped: chess lacking" in captured.err
        assert json.loads((tmp_path / "out" / "figure.png").read_text()) == ["bad", "good"]

    @pytest.mark.parametrize(
        ("error", "kind"), [(AssertionError("the moves differ"), "differs"), (OSError("no room"), "failed")]
    )
    def test_a_result_that_differs_fails_the_command(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str], error: Any, kind: str
    ) -> None:
        assert self.run(monkeypatch, tmp_path, group("one", error), group("two", 1.0)) == 1
        captured = capsys.readouterr()
        assert "| one_row | a case | 19.5 % | failed **missed** |" in captured.out
        assert f"* one_row: {kind}: {error}" in captured.out
        assert "| two_row | a case | 19.5 % | 1 |" in captured.out
        assert "Traceback" in captured.err

    def test_json(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        argv = ("--json",)
        groups = (group("one", 0.12345678), group("two", AssertionError("unequal")))
        assert self.run(monkeypatch, tmp_path, *groups, argv=argv) == 1
        assert json.loads(capsys.readouterr().out) == {
            "one_row": {"value": 0.1235, "bar": 0.5, "better": "higher"},
            "two_row": {"value": None, "bar": 0.5, "better": "higher"},
        }


def test_every_system_is_registered_with_rows_of_its_own() -> None:
    parts = [_parts.part(system) for system in _parts.SYSTEMS]
    rows = [row for one in parts for group in one.groups for row in group.rows]
    assert len(rows) == len(set(rows)) > len(parts)


def test_what_is_missing_is_named_with_the_command_that_installs_it(tmp_path: Path) -> None:
    settings = Settings(data=tmp_path)
    needs = Group("x", {}, lambda s: Outcome({}), (_parts.module("no_such_module"), _parts.data("runs.json")))
    assert needs.missing(settings) == [
        "Python module no_such_module (pip install 'langgraph-speculative[paper]')",
        f"{tmp_path / 'runs.json'} (--data DIR)",
    ]
    (tmp_path / "runs.json").touch()
    assert len(needs.missing(settings)) == 1
    assert _parts.module("json")(settings) == ""


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    write_recording(tmp_path / chess.FILE)
    return Settings(data=tmp_path, quick=True)


@pytest.fixture
def few_plies(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chess, "PLIES", 6)


@pytest.mark.usefixtures("few_plies")
def test_chess_replays_are_measured_and_drawn(settings: Settings, tmp_path: Path) -> None:
    outcome = chess.replay(settings)
    assert set(outcome.rows) == {"chess_replay_d1", "chess_replay_d3", "chess_replay_d8"}
    assert all(math.isfinite(row.value) for row in outcome.rows.values())
    assert outcome.series[3, 8].ideal > outcome.series[3, 1].ideal > 0
    (figure,) = chess.draw({"replay": outcome.series}, tmp_path)
    assert figure.read_bytes().startswith(b"\x89PNG")
    assert chess.draw({}, tmp_path) == []


@pytest.mark.usefixtures("few_plies")
def test_a_game_that_differs_is_not_measured(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    from examples import chess_game

    real = chess_game.played

    async def played(graph: Any, plies: int) -> tuple[list[str], float]:
        moves, seconds = await real(graph, plies)
        return (moves[:-1] if hasattr(graph, "track") else moves), seconds

    monkeypatch.setattr(chess_game, "played", played)
    with pytest.raises(AssertionError, match="the speculative game differs from the plain one"):
        chess.replay(settings)


@pytest.mark.usefixtures("few_plies")
def test_a_speculator_that_is_always_wrong_is_measured(settings: Settings) -> None:
    measured = chess.off(settings).rows["chess_wrong_cost"]
    assert math.isfinite(measured.value)
    assert "all in vain" in measured.detail


def test_rehearsed_tuning_is_measured(settings: Settings) -> None:
    assert os_tuning.rehearsed(settings).rows["os_equal"].value == 1.0


def test_settings_within_a_tenth_of_the_best_are_good() -> None:
    assert os_tuning.good_settings({0.1: 10.0, 1.0: 10.9, 10.0: 11.1, 100.0: 50.0}) == {0.1, 1.0}


def test_sessions_are_drawn(tmp_path: Path) -> None:
    from examples._tuning_world import Window

    session = os_tuning.Session([Window(1.0, 5.0, 9.0, 14.0), Window(1.0, 6.0, 11.0, 14.0)], 4.0)
    assert session.mean_p95 == 10.0
    both = {False: session, True: session}
    (figure,) = os_tuning.draw({"real": {"found": both, "shaken": both}}, tmp_path)
    assert figure.read_bytes().startswith(b"\x89PNG")
    assert os_tuning.draw({"rehearsed": None}, tmp_path) == []
