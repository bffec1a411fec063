"""`octavo serve`: the HTTP server."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from octavo.cli.options import SERVED, takes
from octavo.errors import ConfigError

if TYPE_CHECKING:
    from octavo.server.settings import ModelSource

KEY_VARIABLE = "OCTAVO_API_KEY"
OPEN_ADDRESSES = ("127.", "::1", "localhost")


@takes(engine=SERVED)
def serve(
    model: Annotated[str | None, typer.Argument(help="A path, an alias, or hf:org/repo[:file].")] = None,
    models: Annotated[
        list[str] | None,
        typer.Option("--model", metavar="ALIAS=MODEL", help="Another model, loaded at first use; may be repeated."),
    ] = None,
    host: Annotated[str, typer.Option("--host", help="Address to listen at.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", help="0 takes a free one.")] = 8000,
    api_key: Annotated[
        list[str] | None, typer.Option("--api-key", help=f"May be repeated; {KEY_VARIABLE} is one too.")
    ] = None,
    api_key_file: Annotated[
        Path | None, typer.Option("--api-key-file", help="A file with lines KEY [NAME [WEIGHT]].")
    ] = None,
    served_model_name: Annotated[
        list[str] | None, typer.Option("--served-model-name", help="What clients call the model; may be repeated.")
    ] = None,
    chat_template: Annotated[str | None, typer.Option("--chat-template", help="Jinja: a file or text.")] = None,
    tokenizer: Annotated[str | None, typer.Option("--tokenizer", help="A tokenizer.json, or its folder.")] = None,
    dtype: Annotated[str, typer.Option("--dtype", help="auto: weights stay as the file has them.")] = "auto",
    quantization: Annotated[str | None, typer.Option("--quantization", help="gguf: the file says which.")] = None,
    tensor_parallel_size: Annotated[int, typer.Option("--tensor-parallel-size", help="Only 1 so far.")] = 1,
    max_queued_requests: Annotated[int, typer.Option("--max-queued-requests", help="More get 429.")] = 256,
    max_queued_tokens: Annotated[int, typer.Option("--max-queued-tokens", help="More get 429.")] = 1 << 20,
    max_body_size: Annotated[int, typer.Option("--max-body-size", help="Bytes of a request.")] = 4 << 20,
    max_connections: Annotated[int, typer.Option("--max-connections", help="Clients connected at once.")] = 4096,
    request_timeout: Annotated[
        float | None, typer.Option("--request-timeout", help="Seconds a request may take, if it says nothing shorter.")
    ] = None,
    send_timeout: Annotated[
        float, typer.Option("--send-timeout", help="Seconds after which a client that reads nothing is cut off.")
    ] = 60.0,
    shutdown_timeout: Annotated[
        float, typer.Option("--shutdown-timeout", help="Seconds for running requests to end after SIGTERM.")
    ] = 30.0,
    engine_timeout: Annotated[
        float, typer.Option("--engine-timeout", help="Seconds of silence after which an engine is started again.")
    ] = 10.0,
    idle_timeout: Annotated[
        float, typer.Option("--idle-timeout", help="Seconds after which an unused --model is unloaded.")
    ] = 600.0,
    memory: Annotated[
        str | None, typer.Option("--memory", metavar="SIZE", help="For all models together, such as 8G.")
    ] = None,
    ssl_keyfile: Annotated[Path | None, typer.Option("--ssl-keyfile", help="TLS: the private key.")] = None,
    ssl_certfile: Annotated[Path | None, typer.Option("--ssl-certfile", help="TLS: the certificates.")] = None,
    allowed_origin: Annotated[
        list[str] | None, typer.Option("--allowed-origin", help="Web origin that browsers may call from.")
    ] = None,
    log_format: Annotated[str, typer.Option("--log-format", help="text or json.")] = "text",
    log_level: Annotated[str, typer.Option("--log-level", help="debug, info, warning or error.")] = "info",
    otlp_endpoint: Annotated[
        str | None, typer.Option("--otlp-endpoint", help="Where OpenTelemetry traces go (needs octavo[otel]).")
    ] = None,
    engine: dict[str, Any] = {},  # noqa: B006  # always given: see `takes`
) -> None:
    """Serve models over HTTP: OpenAI's API, Anthropic's messages, and a web page."""
    from octavo.cli.options import size
    from octavo.server import logs
    from octavo.server.keys import make, read
    from octavo.server.serve import serve as run
    from octavo.server.settings import Limits, ServerSettings

    if log_format not in logs.FORMATS or log_level not in logs.LEVELS:
        raise ConfigError(f"log_format is one of {', '.join(logs.FORMATS)}; log_level of {', '.join(logs.LEVELS)}")
    keys = [make(key) for key in (*(api_key or ()), *filter(None, [os.environ.get(KEY_VARIABLE)]))]
    keys += read(api_key_file) if api_key_file else []
    _check_open(host, bool(keys))
    engine = {**engine, "dtype": dtype, "quantization": quantization, "tensor_parallel_size": tensor_parallel_size}
    names = tuple(served_model_name or ([] if model is None else [_name(model)]))
    first = [] if model is None else [_source(names, model, engine, tokenizer, chat_template)]
    others = [_other(entry, engine) for entry in models or ()]
    limits = Limits(
        body=max_body_size,
        connections=max_connections,
        queued_requests=max_queued_requests,
        queued_tokens=max_queued_tokens,
        send_seconds=send_timeout,
    )
    settings = ServerSettings(
        models=(*first, *others),
        host=host,
        port=port,
        keys=tuple(keys),
        limits=limits,
        request_timeout=request_timeout,
        shutdown_timeout=shutdown_timeout,
        engine_timeout=engine_timeout,
        idle_seconds=idle_timeout,
        memory=None if memory is None else size(memory),
        ssl_keyfile=ssl_keyfile,
        ssl_certfile=ssl_certfile,
        log_format=log_format,
        log_level=log_level,
        allowed_origins=tuple(allowed_origin or ()),
        otlp_endpoint=otlp_endpoint,
    )
    if status := run(settings):
        raise typer.Exit(status)


def _check_open(host: str, has_keys: bool) -> None:
    if not has_keys and not host.startswith(OPEN_ADDRESSES):
        from octavo.cli.console import complain

        complain(f"listening at {host} without an API key: whoever reaches it can use it (see --api-key)")


def _name(model: str) -> str:
    """What clients call a model that was not given a name: its alias, or its file's name without the ending."""
    path = Path(model)
    return path.stem if path.suffix == ".gguf" else path.name if path.exists() else model


def _other(entry: str, engine: Mapping[str, Any]) -> ModelSource:
    alias, equals, model = entry.partition("=")
    if not (alias and equals and model):
        raise ConfigError(f"--model must be ALIAS=MODEL; got {entry!r}")
    return _source((alias,), model, engine, None, None, eager=False)


def _source(
    names: tuple[str, ...],
    model: str,
    engine: Mapping[str, Any],
    tokenizer: str | None,
    chat_template: str | None,
    eager: bool = True,
) -> ModelSource:
    from octavo.assemble import engine_config
    from octavo.server.settings import ModelSource

    engine_config(**engine)  # a bad setting is said now, not by the engine's process
    return ModelSource(names, model, dict(engine), tokenizer, _template(chat_template), eager)


def _template(given: str | None) -> str | None:
    if given is None or "{" in given:
        return given
    try:
        return Path(given).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"chat template {given}: {getattr(error, 'strerror', None) or error}") from error
