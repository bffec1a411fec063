"""The server's settings. The engine's settings are in `config.EngineConfig`."""

from __future__ import annotations

import ssl
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from octavo.answers import reasoning, tool_formats
from octavo.errors import ConfigError
from octavo.server.http.keys import ApiKey


@dataclass(frozen=True, slots=True)
class ModelSource:
    """A model to serve. aliases: all its names, the main name first."""

    aliases: tuple[str, ...]
    source: str
    settings: dict[str, Any] = field(default_factory=dict)
    tokenizer: str | None = None
    chat_template: str | None = None
    tool_call_parser: str = "auto"
    reasoning_parser: str = "auto"
    eager: bool = True  # loaded when the server starts, and never unloaded when idle


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits on one request and on all requests together. Sizes are in bytes, times in seconds."""

    body: int = 4 << 20
    headers: int = 64 << 10
    header_seconds: float = 10.0
    body_seconds: float = 60.0
    send_seconds: float = 60.0  # a client that reads nothing for this long is disconnected
    connections: int = 4096
    messages: int = 4096
    prompts: int = 128
    answers: int = 32  # n
    queued_requests: int = 256
    queued_tokens: int = 1 << 20


@dataclass(frozen=True, slots=True)
class ServerSettings:
    models: tuple[ModelSource, ...]
    host: str = "127.0.0.1"
    port: int = 8000
    keys: tuple[ApiKey, ...] = ()
    limits: Limits = Limits()
    request_timeout: float | None = None  # seconds; a request's own `timeout` may be shorter
    shutdown_timeout: float = 30.0
    engine_timeout: float = 10.0
    idle_seconds: float = 600.0  # idle time after which a model that is not eager is unloaded
    memory: int | None = None  # bytes for all models together; None: the memory available at start
    ssl_keyfile: Path | None = None
    ssl_certfile: Path | None = None
    log_format: str = "text"
    log_level: str = "info"
    allowed_origins: tuple[str, ...] = ()
    otlp_endpoint: str | None = None


def _check_certificate(settings: ServerSettings) -> None:
    """Raises ConfigError if TLS cannot be served with the given files."""
    if settings.ssl_certfile is None:
        return
    for file in filter(None, (settings.ssl_keyfile, settings.ssl_certfile)):
        if not file.is_file():
            raise ConfigError(f"TLS: there is no file {file}")
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(settings.ssl_certfile, settings.ssl_keyfile)
    except (ssl.SSLError, OSError) as error:
        files = f"{settings.ssl_certfile} and {settings.ssl_keyfile}"
        raise ConfigError(f"TLS: {files} are no certificate and its private key, as PEM: {error}") from error


def check(settings: ServerSettings) -> ServerSettings:
    """Returns the settings. Raises ConfigError if a value is invalid or two contradict each other."""
    for model in settings.models:
        tool_formats.check_name(model.tool_call_parser)
        reasoning.check_name(model.reasoning_parser)
    names = [alias for model in settings.models for alias in model.aliases]
    if not names:
        raise ConfigError("there is no model to serve: name one, or add --model ALIAS=PATH")
    if twice := {name for name in names if names.count(name) > 1}:
        raise ConfigError(f"two models have the name {min(twice)!r}: give each another name")
    if (settings.ssl_keyfile is None) != (settings.ssl_certfile is None):
        raise ConfigError("TLS needs both --ssl-keyfile and --ssl-certfile")
    numbers = {
        "max_queued_requests": settings.limits.queued_requests,
        "max_queued_tokens": settings.limits.queued_tokens,
        "shutdown_timeout": settings.shutdown_timeout,
        "idle_timeout": settings.idle_seconds,
    }
    positive = {
        "max_body_size": settings.limits.body,
        "max_connections": settings.limits.connections,
        "send_timeout": settings.limits.send_seconds,
        "engine_timeout": settings.engine_timeout,
        "request_timeout": settings.request_timeout,
    }
    for name, value in numbers.items():
        if not value >= 0:  # also rejects NaN
            raise ConfigError(f"{name} must be at least 0; got {value}")
    for name, given in positive.items():
        if given is not None and not given > 0:
            raise ConfigError(f"{name} must be more than 0; got {given}")
    if settings.otlp_endpoint is not None and not settings.otlp_endpoint.startswith(("http://", "https://")):
        raise ConfigError(f"otlp_endpoint must be a URL, http:// or https://; got {settings.otlp_endpoint!r}")
    _check_certificate(settings)
    if not 0 <= settings.port <= 65535:
        raise ConfigError(f"port must be from 0 to 65535; got {settings.port}")
    return settings
