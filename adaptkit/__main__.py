"""`python -m adaptkit`, which `torchrun -m adaptkit` needs."""

from adaptkit.cli.main import main

main()
