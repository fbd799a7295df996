"""`python -m skiplab.cli`."""

from skiplab.cli import main

main()
