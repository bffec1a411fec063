"""Hosts an engine for `octavo compare`: loads it, then runs the jobs from standard input and reports their times.

    PYTHON -I host.py FILE '{"model": ..., "threads": 2, ...}'

JSON lines: first {"version", "startup_s", "vocab_size"} or {"missing"} or {"error"}; then for each job {"prompts": ids,
"tokens": n} a line {"seconds", "peak_rss"} or {"error"}. The process exits when its input ends. It uses only the
standard library.
"""

import json
import os
import resource
import runpy
import sys
import time

STARTED = time.time()


def main(file: str, settings: str) -> None:
    # Engines print to standard output too: send that to standard error, so that the pipe carries answers alone.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def answer(**values: object) -> None:
        print(json.dumps(values), file=answers, flush=True)

    try:
        version, generate, vocab_size = runpy.run_path(file)["load"](json.loads(settings))
    except ImportError as error:
        return answer(missing=str(error))
    except Exception as error:
        return answer(error=f"{type(error).__name__}: {error}")
    answer(version=version, startup_s=round(time.time() - STARTED, 2), vocab_size=vocab_size)
    for line in sys.stdin:
        job = json.loads(line)
        begin = time.perf_counter()
        try:
            generate(job["prompts"], job["tokens"])
        except Exception as error:
            answer(error=f"{type(error).__name__}: {error}")
        else:
            answer(seconds=time.perf_counter() - begin, peak_rss=peak_rss())


def peak_rss() -> int:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


if __name__ == "__main__":
    main(*sys.argv[1:3])
