"""The names that users may import, exactly."""

from __future__ import annotations

import inspect
import pkgutil
from pathlib import Path

import pytest

import langgraph_speculative
from langgraph_speculative import Effect, Policy, Report, SpeculativeGraph, speculative, testing


def test_exports() -> None:
    assert set(langgraph_speculative.__all__) == {
        "Action",
        "BetweenTurns",
        "Budget",
        "CommitRefused",
        "Effect",
        "Event",
        "Guess",
        "Policy",
        "Prepared",
        "Recovery",
        "Report",
        "RollbackFailure",
        "SpeculationError",
        "SpeculationInactiveWarning",
        "SpeculativeGraph",
        "Speculator",
        "UntestedLangGraphWarning",
        "speculative",
    }
    assert sorted(langgraph_speculative.__all__) == langgraph_speculative.__all__
    assert not hasattr(langgraph_speculative, "START")


@pytest.mark.parametrize("name", langgraph_speculative.__all__)
def test_each_is_there_and_documented(name: str) -> None:
    thing = getattr(langgraph_speculative, name)
    if inspect.isclass(thing) or inspect.isfunction(thing):
        assert thing.__module__.startswith("langgraph_speculative")
        assert inspect.getdoc(thing)


def test_public_modules() -> None:
    public = {m.name for m in pkgutil.iter_modules(langgraph_speculative.__path__) if not m.name.startswith("_")}
    assert {
        "budget",
        "effects",
        "errors",
        "experimental",
        "graph",
        "journal",
        "policy",
        "report",
        "speculators",
        "testing",
    } <= public


def test_arguments() -> None:
    parameters = inspect.signature(speculative).parameters
    assert list(parameters) == ["graph", "draft", "speculators", "effects", "keys", "policy", "trust_mcp"]
    assert all(p.kind is p.KEYWORD_ONLY for n, p in parameters.items() if n != "graph")


def test_testing() -> None:
    assert testing.__all__ == ["check_same_run", "check_speculator"]
    parameters = inspect.signature(testing.check_same_run).parameters
    assert list(parameters) == [
        *("graph_factory", "inputs", "config", "sync", "ordered", "timeout"),
        *("draft", "speculators", "effects", "keys", "policy", "trust_mcp", "kwargs"),
    ]
    # All options of `speculative` but the graph.
    assert set(inspect.signature(speculative).parameters) - set(parameters) == {"graph"}


def test_methods() -> None:
    for name in ("effects", "track", "report", "close", "drain", "__enter__", "__aenter__"):
        assert callable(getattr(SpeculativeGraph, name))


def test_values() -> None:
    assert [e.value for e in Effect] == [
        *("pure", "read", "reversible", "staged", "overwrite", "irreversible", "undeclared")
    ]
    assert (Policy().breadth, Policy().depth, Policy().mode, Policy().hooks) == (1, 1, "on", ())
    assert Report().to_dict()["claimed"] == 0
    with pytest.raises(AttributeError):
        Policy().depth = 2  # type: ignore[misc]


def test_typed() -> None:
    assert (Path(langgraph_speculative.__file__).parent / "py.typed").exists()


def test_internals_of_langgraph_are_touched_in_one_package() -> None:
    package = Path(langgraph_speculative.__file__).parent
    for path in package.rglob("*.py"):
        if path.parent.name == "_compat":
            continue
        for line in path.read_text().splitlines():
            if line.lstrip().startswith(("from langgraph.", "import langgraph.", "from langchain")):
                words = line.replace(",", " ").split()
                module, names = words[1], words[3:]
                assert "._" not in module, f"{path.name}: {line}"
                assert not [n for n in names if n.startswith("_")], f"{path.name}: {line}"
