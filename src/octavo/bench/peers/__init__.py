"""One file for each engine that `octavo compare` can measure, and the host that runs it in a separate process.

A file defines `load(settings)`, which returns (version, generate, vocabulary size or None); `generate(prompts, tokens)`
runs all prompts together, greedily, until each has that many new tokens. settings: "model" (path), "threads",
"max_seqs", "max_len" (tokens of the longest sequence), and the settings of the variant. The files run by path in the
engine's virtual environment. Octavo may be missing there, so they import nothing from it.
"""
