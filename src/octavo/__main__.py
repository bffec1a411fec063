"""`python -m octavo`: the command line, where the `octavo` command is not on the path."""

from octavo.cli.main import entry

entry()
