"""A mutation run over the engine: small faults put in one at a time, and the share that the tests notice.

    pip install -e '.[dev,mutation]'
    python -m benchmarks.mutation --sample 100 --seed 1      # about half an hour
    python -m benchmarks.mutation --sample 100 --seed 1 --jobs 2 --json

The faults are cosmic-ray's. A place in the code is drawn first and then one of the faults possible there, or the many
variants of an arithmetic operator would crowd out the rest. Annotations are left alone: nothing runs them. The tests
run in copies of the tree, which is not touched. Exit status 1 if the share is below the bar.
"""

from __future__ import annotations

import argparse
import ast
import json
import os
import random
import shutil
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

BAR = 0.85
ROOT = Path(__file__).parent.parent
NOT_ENGINE = {"cli.py", "_compare.py", "_draw.py", "_replay.py", "_target.py", "_trial.py"}
"""Modules that no run depends on."""

QUICK = (
    "branch nodes ids values values_more ledger histories lending limits scheduler session tree gate changes fail_open"
)
"""Tests of single modules: in front, since they notice most faults in seconds."""

OF_OTHERS = "advise benchmarks benchmarks_theory cli compare demo theory theory_formulas fuzz"
"""Tests of other modules; and the fuzzer's, which are slow and would stand before most others."""

TESTS = " ".join(
    [f"{sys.executable} -m pytest -x -q -p no:cacheprovider --timeout 60"]
    + [f"tests/test_{name}.py" for name in QUICK.split()]
    + ["tests", *(f"--ignore tests/test_{name}.py" for name in OF_OTHERS.split())]
)
SECONDS = 600


def engine_modules() -> list[Path]:
    """The modules to put faults into, from the root of the tree."""
    package = ROOT / "langgraph_speculative"
    found = [*package.glob("*.py"), *package.glob("_compat/*.py"), *package.glob("speculators/*.py")]
    return sorted(p.relative_to(ROOT) for p in found if p.name not in NOT_ENGINE | {"__init__.py"})


def annotations(source: str) -> Iterator[tuple[tuple[int, int], tuple[int, int]]]:
    """Start and end of what is read by type checkers alone."""
    for node in ast.walk(ast.parse(source)):
        parts: list[ast.expr | None] = []
        if isinstance(node, ast.AnnAssign | ast.arg):
            parts = [node.annotation]
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            parts = [node.returns]
        elif isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            parts = [node.test]
        for part in parts:
            if part is not None:
                end = (part.end_lineno or 0, part.end_col_offset or 0)
                yield (part.lineno, part.col_offset), end


def sample(count: int, seed: int) -> list[Any]:
    """Work items of cosmic-ray: one fault at each of `count` places."""
    from cosmic_ray.commands.init import init
    from cosmic_ray.work_db import use_db

    places: defaultdict[tuple[str, tuple[int, int]], list[Any]] = defaultdict(list)
    with tempfile.TemporaryDirectory() as folder, use_db(Path(folder) / "session.sqlite") as session:
        init(engine_modules(), session, {})
        items = list(session.work_items)
    skipped = {str(path): list(annotations((ROOT / path).read_text())) for path in engine_modules()}
    for item in sorted(items, key=lambda i: (str(i.mutations[0].module_path), i.mutations[0].start_pos)):
        fault = item.mutations[0]
        path = str(fault.module_path)
        if not any(start <= fault.start_pos < end for start, end in skipped[path]):
            places[path, fault.start_pos].append(item)
    draw = random.Random(seed)
    chosen = draw.sample(sorted(places), min(count, len(places)))
    return [draw.choice(sorted(places[c], key=lambda i: i.mutations[0].operator_name)) for c in chosen]


def _enter_copy(parent: str) -> None:
    own = Path(tempfile.mkdtemp(dir=parent))
    ignored = shutil.ignore_patterns(".git", ".venv*", "*_cache", "__pycache__", ".hypothesis")
    shutil.copytree(ROOT, own / "tree", ignore=ignored)
    os.chdir(own / "tree")


def _test(item: Any) -> tuple[bool, str]:
    """Whether the tests notice a fault, and the fault as a diff."""
    from cosmic_ray.mutating import mutate_and_test

    result = mutate_and_test(item.mutations, TESTS, SECONDS)
    return bool(result.is_killed), result.diff or result.output or ""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; its exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.mutation", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--sample", type=int, default=100, metavar="N", help="faults to try (default 100)")
    parser.add_argument("--seed", type=int, default=1, help="which ones (default 1)")
    parser.add_argument("--jobs", type=int, default=1, help="processes (default 1)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    args = parser.parse_args(argv)
    os.chdir(ROOT)
    items = sample(args.sample, args.seed)
    killed, survivors = 0, []
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with (
        tempfile.TemporaryDirectory() as parent,
        Progress(*columns, console=Console(stderr=True)) as progress,
        ProcessPoolExecutor(args.jobs, initializer=_enter_copy, initargs=(parent,)) as pool,
    ):
        task = progress.add_task("faults", total=len(items))
        for future in as_completed([pool.submit(_test, item) for item in items]):
            noticed, diff = future.result()
            killed += noticed
            if not noticed:
                survivors.append(diff)
                progress.console.print(diff, markup=False)
            progress.advance(task)
    share = killed / len(items)
    if args.json:
        print(json.dumps({"mutants": len(items), "killed": killed, "share": share, "bar": BAR}))
    else:
        print(f"{killed} of {len(items)} faults noticed: {share:.1%} (bar {BAR:.0%}; seed {args.seed})")
    return 0 if share >= BAR else 1


if __name__ == "__main__":
    sys.exit(main())
