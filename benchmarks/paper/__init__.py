"""The paper's four systems, measured: see `README.md` beside this file."""
