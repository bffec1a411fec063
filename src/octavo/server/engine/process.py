"""The engine's own process: takes requests off a socket, steps, sends deltas back. Started by `supervisor`.

It ends when the server says so, or is gone.
"""

from __future__ import annotations

import ctypes
import gc
import logging
import os
import signal
import socket
import sys

from octavo.assembly import engine as assemble
from octavo.errors import OctavoError
from octavo.server import logs
from octavo.server.engine import report as engine_report
from octavo.server.engine.protocol import Failed, Loading, Start
from octavo.server.engine.server_connection import Closed, ServerConnection
from octavo.server.engine.worker import Worker

log = logging.getLogger(__name__)
PR_SET_PDEATHSIG = 1  # linux/prctl.h


def main(descriptor: int) -> int:
    """descriptor: of the inherited socket. Returns the exit status."""
    die_with_parent()
    for number in (signal.SIGINT, signal.SIGTERM):  # they reach the whole group; the server decides what they mean
        signal.signal(number, signal.SIG_IGN)
    connection = ServerConnection(socket.socket(fileno=descriptor))
    try:
        parts = load(connection)
        if parts is None:
            return 2
        gc.collect()
        gc.freeze()  # what is loaded now stays: the collector need not look at it again
        Worker(connection, parts).run()
    except Closed:
        return 0
    except Exception:
        log.exception("the engine process fails")
        return 1
    return 0


def die_with_parent() -> None:
    """Asks Linux to kill this process when the server dies, however it dies. Elsewhere the closed socket must do."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def load(connection: ServerConnection) -> assemble.Assembly | None:
    """The engine that the server asks for. If there can be none, the server is told why."""
    start = connection.receive_one()
    assert isinstance(start, Start)
    logs.configure(*start.logs)
    try:
        parts = _assemble(connection, start)
    except OctavoError as error:
        connection.send(Failed(str(error), mistake=True))
        return None
    except MemoryError:
        connection.send(Failed("not enough memory: lower kv_cache_memory or max_model_len", mistake=True))
        return None
    connection.send(engine_report.ready(parts))
    return parts


def _assemble(connection: ServerConnection, start: Start) -> assemble.Assembly:
    def report_progress(done: int, total: int) -> None:
        connection.send(Loading(done, total))

    return assemble.assemble(start.model, assemble.engine_config(**start.settings), start.tokenizer, report_progress)


if __name__ == "__main__":
    status = main(int(sys.argv[1]))
    sys.stderr.flush()
    os._exit(status)  # nothing is left to tidy up that the system does not free faster
