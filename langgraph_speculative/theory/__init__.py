"""The paper's model of a run, corrected: what speculation can save, and what it costs.

Source: "Speculative Actions: A Lossless Framework for Faster Agentic Systems" (arXiv 2510.04371), sections 3 and 5,
appendices A and C. A *call* is the Actor's, a *guess* the Speculator's. Names that begin with ``paper_`` are the
paper's own expressions; those that begin with ``corrected_`` follow from its Algorithm 1.

The paper's proof books a hit as a saving of ``(B - A)+``, the head start of the next call. Its algorithm ends a pair of
calls at ``max(B, A + C)``, so a hit saves ``min(C, (B - A)+)``: half of the paper's mean where calls and guesses are
exponential. docs/theory.md has the derivations and what they leave out.
"""

from langgraph_speculative.theory._choices import expected_saving, greedy_breadth, hit_probability
from langgraph_speculative.theory._formulas import (
    always_right_ratio,
    corrected_cost,
    corrected_ratio,
    corrected_saving_per_hit,
    expected_hits,
    expected_windows,
    paper_cost,
    paper_depth_cost,
    paper_depth_saving,
    paper_ratio,
    paper_saving_per_hit,
    top_k,
)
from langgraph_speculative.theory._schedule import Schedule, Simulation, ideal_schedule, simulate

__all__ = [
    "Schedule",
    "Simulation",
    "always_right_ratio",
    "corrected_cost",
    "corrected_ratio",
    "corrected_saving_per_hit",
    "expected_hits",
    "expected_saving",
    "expected_windows",
    "greedy_breadth",
    "hit_probability",
    "ideal_schedule",
    "paper_cost",
    "paper_depth_cost",
    "paper_depth_saving",
    "paper_ratio",
    "paper_saving_per_hit",
    "simulate",
    "top_k",
]
