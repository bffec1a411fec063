"""Prints a table of clients and features that work with a server: `python run.py URL MODEL [CLIENT ...]`."""

from __future__ import annotations

import os
import sys
import traceback
from importlib.metadata import version

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # before litellm is imported: else it asks the internet for prices
from features import FEATURES, Served  # run as a script, from this folder


def main(url: str, model: str, *clients: str) -> int:
    """Returns 1 if a feature does not work, else 0. clients: all, if none is given."""
    served, failures = Served(url.rstrip("/"), model), []
    print(f"{'client':24} {'feature':42} works")
    for client, name, works in FEATURES:
        if clients and client not in clients:
            continue
        problem = ""
        try:
            works(served)
        except Exception as error:
            problem = f"NO: {type(error).__name__}: {error}".splitlines()[0][:120]
            failures.append(f"\n{client}: {name}\n{traceback.format_exc()}")
        print(f"{client + ' ' + version(client):24} {name:42} {problem or 'yes'}", flush=True)
    print(*failures, sep="\n", file=sys.stderr, end="")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
