"""Logs: one line per event, as JSON or text. Control characters are escaped, so that clients cannot forge lines."""

from __future__ import annotations

import logging
import sys
import time
from typing import Any

import msgspec

FORMATS = ("text", "json")
LEVELS = ("debug", "info", "warning", "error")
_PLAIN = set(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName", "color_message"}
_ESCAPES = {code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160), 0x2028, 0x2029) if code not in (9,)}


def configure(format: str, level: str) -> None:
    """Sends the logs of this process to standard error. Fields given as log.info(..., extra={}) are printed too."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if format == "json" else TextFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access", "httpx", "asyncio"):
        logging.getLogger(name).handlers.clear()
        logging.getLogger(name).propagate = True
    logging.getLogger("uvicorn.access").disabled = True  # `http.middleware` writes the access log
    logging.getLogger("uvicorn.error").setLevel(logging.WARNING if level != "debug" else logging.DEBUG)


def extras(record: logging.LogRecord) -> dict[str, Any]:
    return {name: value for name, value in vars(record).items() if name not in _PLAIN}


def clean(text: str) -> str:
    """Escapes control characters as \\xNN, including newlines and terminal escapes."""
    return text.translate(_ESCAPES)


class JsonFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        entry: dict[str, Any] = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{record.msecs:03.0f}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            "process": record.process,
            **extras(record),
        }
        if record.exc_info:
            entry["traceback"] = self.formatException(record.exc_info)
        return _json(entry)


class TextFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        when = time.strftime("%H:%M:%S", time.localtime(record.created))
        more = "".join(f" {name}={value}" for name, value in extras(record).items() if value is not None)
        line = f"{when} {record.levelname.lower():7} {record.name}: {clean(record.getMessage())}{clean(more)}"
        if record.exc_info:
            line += "\n" + "\n".join(map(clean, self.formatException(record.exc_info).split("\n")))
        return line


def _json(entry: dict[str, Any]) -> str:
    """Encodes JSON, which escapes only the control characters below 0x20, and escapes the others too."""
    text = msgspec.json.encode(entry, enc_hook=str).decode("utf-8", "replace")
    return text.translate({code: f"\\u{code:04x}" for code in (*range(127, 160), 0x2028, 0x2029)})
