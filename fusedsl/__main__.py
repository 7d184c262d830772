"""`python -m fusedsl` is the command line."""

from .cli import app

app(prog_name="fusedsl")
