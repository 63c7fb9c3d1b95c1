"""The command line: ``langgraph-speculative demo | inspect | compare | advise``."""

from __future__ import annotations

import argparse
import asyncio
import importlib.util
import json
import sys
import warnings
from pathlib import Path
from typing import Any

from langgraph_speculative import (
    Policy,
    SpeculationError,
    SpeculationInactiveWarning,
    SpeculativeGraph,
    speculative,
)
from langgraph_speculative._target import CommandError, load_graph

_TARGET = "FILE.py:NAME or package.module:NAME of a compiled graph, or of a function that returns one"
_INSTALL = "pip install 'langgraph-speculative[demo]'"


def main(argv: list[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: Arguments without the program's name; by default those of the process.

    Returns:
        The exit status: 0, 1 if results are not equal, 2 if the command could not run as asked.
    """
    options = _parser().parse_args(argv)
    try:
        return int(options.run(options))
    except (CommandError, SpeculationError) as error:
        # On one line, whatever somebody else's error that it quotes looks like.
        print(f"langgraph-speculative {options.command}: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="langgraph-speculative", description="The same LangGraph run, sooner.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    demo = commands.add_parser("demo", help="run a tool-calling agent plain and speculative, and compare")
    demo.add_argument("--tasks", type=_count, default=3, metavar="N", help="questions to answer (default 3)")
    demo.add_argument(
        "--scale", type=_scale, default=1.0, metavar="X", help="factor on all injected latencies (default 1)"
    )
    demo.add_argument("--model", metavar="M", help="run on your endpoint (OPENAI_API_KEY or OPENAI_BASE_URL)")
    demo.add_argument("--draft-model", metavar="M", help="the smaller model that guesses, on your endpoint")
    demo.add_argument("--sync", action="store_true", help="run without an event loop, in threads")
    demo.add_argument("--json", action="store_true", help="print a JSON object instead of the table")
    demo.set_defaults(run=_demo)

    inspect = commands.add_parser("inspect", help="print what may run early, and what to declare")
    inspect.add_argument("target", help=_TARGET)
    inspect.set_defaults(run=_inspect)

    compare = commands.add_parser("compare", help="run your graph plain and speculative, and compare")
    compare.add_argument("target", help=_TARGET)
    compare.add_argument("--draft", metavar="TARGET", help="the same graph on a faster model")
    compare.add_argument(
        "--input",
        required=True,
        type=Path,
        metavar="FILE",
        help="the graph's input, as JSON; - for standard input",
    )
    compare.add_argument("--config", type=Path, metavar="FILE", help="the run's config, as JSON")
    compare.add_argument("--runs", type=_count, default=3, metavar="N", help="pairs of runs (default 3)")
    compare.add_argument("--depth", type=_count, metavar="D", help="steps ahead (default 3)")
    compare.add_argument("--breadth", type=_count, metavar="K", help="guesses for each step (default 1)")
    compare.add_argument(
        "--effect",
        action="append",
        type=_effect,
        default=[],
        metavar="NAME=EFFECT",
        help="declare a node or tool pure, read or irreversible; may be repeated",
    )
    compare.add_argument(
        "--allow-effects", action="store_true", help="run it although it may change something each time"
    )
    compare.add_argument("--recorded", action="store_true", help="compare on the model answers of the first run")
    compare.add_argument("--sync", action="store_true", help="run without an event loop, in threads")
    compare.set_defaults(run=_compare)

    advise = commands.add_parser("advise", help="say where speculation pays, from a report or from recorded runs")
    what = advise.add_mutually_exclusive_group(required=True)
    what.add_argument("report", nargs="?", type=Path, help="json.dumps(graph.report().to_dict()); - for standard input")
    what.add_argument("--runs", type=Path, metavar="FILE", help="recorded runs: message lists, or LangSmith's export")
    advise.add_argument(
        "--value-per-second",
        type=_amount,
        default=0.0,
        metavar="USD",
        help="what a saved second is worth (default 0: advise only what costs nothing)",
    )
    advise.add_argument(
        "--price",
        action="append",
        type=_price,
        default=[],
        metavar="[NAME=]USD",
        help="per million tokens, of all models or of one; or per call of a tool; may be repeated",
    )
    advise.add_argument(
        "--effect",
        action="append",
        type=_effect,
        default=[],
        metavar="NAME=EFFECT",
        help="what a node or tool is declared as, or * for all; may be repeated",
    )
    advise.add_argument(
        "--seconds",
        action="append",
        type=_seconds,
        default=[],
        metavar="NAME=S",
        help="with --runs: how long a tool takes, or `model`, where the file has no times; may be repeated",
    )
    advise.add_argument("--breadth", type=_count, metavar="K", help="with --runs: guesses for each step (default 1)")
    advise.add_argument("--folds", type=_count, metavar="N", help="with --runs: parts to cross-validate (default 5)")
    advise.add_argument("--json", action="store_true", help="print a JSON object instead of the table")
    advise.set_defaults(run=_advise)
    return parser


def _demo(options: argparse.Namespace) -> int:
    _need("rich", "langchain", "langchain_openai")
    from langgraph_speculative._demo.agent import own_endpoint
    from langgraph_speculative._demo.run import Demo

    if bool(options.model) != bool(options.draft_model):
        raise CommandError("--model and --draft-model belong together: the large model, and the one that guesses.")
    if options.model and not own_endpoint():
        raise CommandError(
            "--model runs on your own endpoint: set OPENAI_API_KEY or OPENAI_BASE_URL, "
            "or leave --model and --draft-model out to run on the demo's local server."
        )
    demo = Demo(options.tasks, options.scale, options.model, options.draft_model, options.sync)
    return demo.run(as_json=options.json)


def _inspect(options: argparse.Namespace) -> int:
    with asyncio.Runner() as runner, warnings.catch_warnings():
        # The table says it better than the warning.
        warnings.simplefilter("ignore", SpeculationInactiveWarning)
        graph = load_graph(options.target, runner)
        fast = graph if isinstance(graph, SpeculativeGraph) else speculative(graph)
        effects = fast.effects()
        print(effects)
        print()
        print(effects.skeleton())
        fast.close()
    return 0


def _compare(options: argparse.Namespace) -> int:
    _need("rich")
    from rich.console import Console

    from langgraph_speculative._trial import Comparison, Runs

    value, config = _json(options.input), _json(options.config) if options.config else {}
    if not isinstance(config, dict):
        raise CommandError(f"{options.config} must hold a JSON object, the run's config.")
    errors = Console(stderr=True)
    with Runs(sync=options.sync) as runs:
        graph = load_graph(options.target, runs.runner)
        comparison = Comparison(graph, graph, value, options.runs, config, recorded=options.recorded)
        notes: list[str] = []
        if isinstance(graph, SpeculativeGraph):
            if options.draft or options.effect or options.depth or options.breadth:
                raise CommandError(
                    f"{options.target} is speculative already: --draft, --effect, --depth and --breadth "
                    "belong into its own speculative(...) call; or name the graph inside it."
                )
            off = {"metadata": config.get("metadata", {}) | {"speculation": "off"}}
            comparison.plain_config = config | off
        else:
            draft = load_graph(options.draft, runs.runner) if options.draft else None
            comparison.use_own_memory()
            comparison.fast, notes = _wrap(comparison.plain, draft, options)
        try:
            if not options.allow_effects:
                _refuse_effects(options.target, comparison.fast)
            for note in notes:
                errors.print(f"note: {note}", markup=False)
            return comparison.run(runs, Console(), errors)
        finally:
            comparison.fast.close()


def _wrap(graph: Any, draft: Any, options: argparse.Namespace) -> tuple[SpeculativeGraph, list[str]]:
    """The speculative graph, and why it may have nothing to do."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fast = speculative(
            graph,
            draft=draft,
            effects=dict(options.effect),
            policy=Policy(depth=options.depth or 3, breadth=options.breadth or 1),
        )
    return fast, [str(warning.message) for warning in caught]


def _refuse_effects(target: str, fast: SpeculativeGraph) -> None:
    """Refuse what could change something each time that it runs."""
    rows = [row for row in fast.effects().rows if not row.effect.may_run_early]
    if rows:
        named = ", ".join(f"{row.kind} {row.name!r} ({row.effect.value})" for row in rows)
        raise CommandError(
            f"{target} would run several times, and these may change something each time: {named}. "
            f"Declare what does not, with --effect {rows[0].name}=read or in the code (langgraph-speculative "
            f"inspect {target} prints what to paste); or pass --allow-effects, on data that you can spare."
        )


def _advise(options: argparse.Namespace) -> int:
    from langgraph_speculative._advise._command import advise_on_report, advise_on_runs, printed
    from langgraph_speculative._advise._figures import Prices
    from langgraph_speculative.effects import Effect

    unknown = [effect for _, effect in options.effect if effect not in list(Effect)]
    if unknown:
        raise CommandError(f"{unknown[0]!r} is no effect: it is one of {', '.join(Effect)}.")
    named = dict(options.price)
    prices = Prices(named.pop("", None), named)
    effects = {name: Effect(effect) for name, effect in options.effect}
    common = {"effects": effects, "prices": prices, "value_per_second": options.value_per_second}
    if options.runs:
        breadth, folds = options.breadth or 1, options.folds or 5
        rows, notes = advise_on_runs(
            options.runs, seconds=dict(options.seconds), breadth=breadth, folds=folds, **common
        )
    else:
        if options.seconds or options.breadth or options.folds:
            raise CommandError("--seconds, --breadth and --folds belong to --runs: a report has been measured.")
        rows, notes = advise_on_report(_json(options.report), str(options.report), **common)
    print(printed(rows, notes, as_json=options.json))
    return 0


def _need(*modules: str) -> None:
    missing = [module for module in modules if importlib.util.find_spec(module) is None]
    if missing:
        raise CommandError(f"this needs {', '.join(missing)}: {_INSTALL}")


def _json(path: Path) -> Any:
    try:
        return json.loads(sys.stdin.read() if str(path) == "-" else path.read_text(encoding="utf-8"))
    except OSError as error:
        raise CommandError(f"{path} cannot be read: {error.strerror or error}") from None
    except ValueError as error:
        raise CommandError(f"{path} is not JSON: {error}") from None


def _count(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is below 1")
    return number


def _scale(text: str) -> float:
    number = float(text)
    if not 0 <= number <= 100:
        raise argparse.ArgumentTypeError(f"{text} is not between 0 and 100")
    return number


def _amount(text: str) -> float:
    number = float(text)
    if not 0 <= number < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not a number of at least 0")
    return number


def _price(text: str) -> tuple[str, float]:
    name, _, usd = text.rpartition("=")
    return name, _amount(usd)


def _seconds(text: str) -> tuple[str, float]:
    name, _, seconds = text.rpartition("=")
    if not name:
        raise argparse.ArgumentTypeError(f"{text!r} must be NAME=S, for example search=1.5")
    return name, _amount(seconds)


def _effect(text: str) -> tuple[str, str]:
    name, _, effect = text.rpartition("=")
    if not name or not effect:
        raise argparse.ArgumentTypeError(f"{text!r} must be NAME=EFFECT, for example search=read")
    return name, effect


if __name__ == "__main__":
    sys.exit(main())
