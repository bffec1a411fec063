"""One file for each engine that `octavo compare` can measure, and the host that runs it in a process of its own.

A file defines `load(settings)`, which returns (version, generate, vocabulary size or None); `generate(prompts, tokens)`
runs all prompts together, greedily, until each has that many new tokens. settings: "model" (path), "threads",
"max_seqs", "max_len" (tokens of the longest sequence), and what the engine's variant adds. They are run by path in the
engine's virtual environment, where Octavo need not be: nothing is imported from here.
"""
