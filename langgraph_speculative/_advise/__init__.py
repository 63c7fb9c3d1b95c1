"""Where speculation pays: from an observe-mode report, or from recorded runs.

`_recordings` reads runs, `_replay` guesses their tool calls again. `_figures` takes from these, or from a report, what
`_verdicts` judges; `_command` puts them together.
"""
