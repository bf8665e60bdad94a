"""`python -m tests.fuzz`; workers import the driver, which they could not by the name of this module."""

import typer

from tests.fuzz.driver import main

typer.run(main)
