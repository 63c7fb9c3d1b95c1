"""Against what others have published: the same graphs, plain, theirs and ours, taking turns in one run.

    pip install 'langgraph-speculative[compare]'
    python -m benchmarks.comparison                      # a Markdown table; about a minute
    python -m benchmarks.comparison --only stream_vs_eager --json

A row whose other package is not installed is named on standard error, with the command, and left out. Exit status 1 if
a row misses its bar or one of our results is not the plain one's, 2 for a row that does not exist.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec

from benchmarks import _comparison_route as route
from benchmarks import _comparison_stream as stream
from benchmarks._command import add_rows, chosen, finish, plain_environment
from benchmarks._engine_rows import Measured, Row

ROWS: Mapping[str, Row] = {
    "stream_vs_eager": Row(
        "streaming agent, messages of a slow and a long call: time saved by Stream, of that by eager-tools-langgraph",
        1.0,
        "higher",
    ),
    "stream_unequal": Row("same: runs of ours whose messages are not the plain run's", 0, ideal=0),
    "route_vs_nat": Row("three router → branch graphs: time of ours, of that of nvidia-nat-app", 1.05),
    "route_unequal": Row("same: graphs on which ours is not equal to plain", 0, ideal=0),
}

GROUPS: tuple[tuple[tuple[str, str], str, str, Callable[[int], dict[str, Measured]]], ...] = (
    (("stream_vs_eager", "stream_unequal"), "eager_tools_langgraph", "eager-tools-langgraph", stream.measure),
    (("route_vs_nat", "route_unequal"), "nat_app", "nvidia-nat-app", route.measure),
)
"""Rows that are measured together, the module and the package that they need."""


def measure(names: Sequence[str], rounds: int) -> dict[str, Measured]:
    """Measure these rows; those whose package is missing are left out, and said so."""
    results: dict[str, Measured] = {}
    for rows, module, package, function in GROUPS:
        wanted = [row for row in rows if row in names]
        if not wanted:
            continue
        if find_spec(module) is None:
            print(f"skipped: {', '.join(wanted)} (pip install {package})", file=sys.stderr)
            continue
        measured = function(rounds)
        results.update({row: measured[row] for row in wanted})
    return results


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; its exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.comparison", description=(__doc__ or "").split("\n")[0])
    add_rows(parser, ROWS)
    parser.add_argument("--rounds", type=int, default=7, help="times that each graph is run (default: 7)")
    args = parser.parse_args(argv)
    names = chosen(parser, args.only, ROWS)
    plain_environment()
    return finish(measure(names, args.rounds), ROWS, as_json=args.json)


if __name__ == "__main__":
    sys.exit(main())
