"""What is not lossless: apart from the rest, by name, so that nobody declares it unawares.

*Speculative Actions* (arXiv 2510.04371) lets the guessed action of an operating-system tuner act at once, since the
next action overwrites it. The world sees the guess until then, and whatever it did there stays done.
"""

from __future__ import annotations

from langgraph_speculative.effects import Declaration, Effect, Scope, checked_scope


def overwrite(*, scope: Scope | None = None) -> Declaration:
    """It changes the world, and the next action of the same scope makes the change void: last write wins.

    A guess acts at once and is not taken back: where it was wrong, the run's own action overwrites it, once the early
    one has ended. **Lossy**: between the two the world is as the guess left it, and a run that ends without an action
    of its own leaves it so.

    Args:
        scope: What it touches.

    Raises:
        SpeculationError: The scope is neither a template nor a function.
    """
    return Declaration(effect=Effect.OVERWRITE, scope=checked_scope(scope))
