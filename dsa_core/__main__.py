"""`python -m dsa_core` is the command line."""

from dsa_core.cli import main

main()
