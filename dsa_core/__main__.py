"""`python -m dsa_core` is the command line."""

from dsa_core.lab.cli import main

main()
