"""Speculative execution for LangGraph: the same run, sooner.

General layout (an underscore marks mechanism, no underscore what users read or extend):

* `graph`: `speculative()` and the graph it returns, whose copies share a `_speculation`; `_decorator` for functions
  that return one. `_rewrite` makes the instrumented nodes, `_nodes` knows about them, `_wiring` gives them their
  Speculators, `_learning` tells these what the runs did, `_draw` draws them, `effects` says what they may do early.
* `_session`: one run, as the real run calls it; `_claims` takes pre-executions over, `_counters` counts what
  the run does and spends, `_saved` the time saved.
* `_tree`: the branches below a run, on the session's loop. `_shadow` asks Speculators, `_stream` reads what a
  model has written by now, `_fork` makes checkpoints, `_early` pre-executes, `_pruning` ends what is refuted,
  `_workers` owns the tasks. `_branch` and `_ledger` hold the states, and decide.
* `_gate` holds what a pre-execution emits (`_recorder` hears it, `_claimant` gets it), `_saver` the checkpoints of
  graphs inside it, `_journal` what it does to the store, which it sees as a `_store` overlay made of `_items`, and
  `_changes` what it does to its input. `_values` copies and compares values, `_ids` matches and renames ids,
  `_histories` lends copied messages, `_tools` claims tool calls, `_view` tells running code where it stands,
  `_scheduler` owns the threads.
* `_admission` says what may start early. `_actions` are what a run does early to the world, `_handlers` call what takes
  it back, `_fence` is a real call against them, `_limits` how often they may be made. `journal` (`_entries`, `_owner`,
  `_store_journal`) writes them down, `_recovery` takes back what a killed process has left. `transactions`
  (`_transactions`) begins those of a database early; `experimental` is not lossless.
* What is worth it: `policy` and `budget` are what users say. `_valuation` decides in one run, by the pure functions of
  `_admission_value` and `_calibration`, from what `_knowledge` (kept by `_memory`) and `_spending` know of all runs.
  `_rate_limiters` and `_concurrency` give way to real calls, `_groups` holds threads out, `_node_stats` counts.
* `testing`: is a speculative run the same as a plain one? `_observe` keeps what can be seen of a run, `_compare` finds
  the first difference.
* `speculators`: the protocol and the ready-made ones; `_asking` asks one from within another, `_content` compares
  inputs and outputs across runs, and `_questions` words what `Model` asks.
* `report`, `theory`, `errors`; `cli` with `_demo`, `_trial`, `_replay`, `_advise`, `_target`.
* `_compat` is the only package that touches LangGraph's internals.
"""

from langgraph_speculative._handlers import RollbackFailure
from langgraph_speculative._recovery import Recovery
from langgraph_speculative.between_turns import BetweenTurns
from langgraph_speculative.budget import Budget
from langgraph_speculative.effects import Action, Effect, Prepared
from langgraph_speculative.errors import (
    CommitRefused,
    SpeculationError,
    SpeculationInactiveWarning,
    UntestedLangGraphWarning,
)
from langgraph_speculative.graph import SpeculativeGraph, speculative
from langgraph_speculative.policy import Policy
from langgraph_speculative.report import Event, Report
from langgraph_speculative.speculators import Guess, Speculator

__all__ = [
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
]
