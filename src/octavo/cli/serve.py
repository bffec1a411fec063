"""`octavo serve`: the HTTP server."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from octavo.cli.options import MODEL_HELP, SERVED, takes
from octavo.errors import ConfigError

if TYPE_CHECKING:
    from octavo.server.settings import ModelSource

KEY_VARIABLE = "OCTAVO_API_KEY"
OPEN_ADDRESSES = ("127.", "::1", "localhost")


def _option(panel: str, name: str, help: str, metavar: str | None = None) -> Any:
    """Makes an option in the help's section `panel`."""
    return typer.Option(name, help=help, metavar=metavar, rich_help_panel=panel)


MODELS, NETWORK, ACCESS, LIMITS, LOGS = "Models", "Network", "Access", "Limits and timeouts", "Logs and traces"


@takes(engine=SERVED)
def serve(
    model: Annotated[str | None, typer.Argument(help=f"{MODEL_HELP} Loaded at the start.")] = None,
    models: Annotated[
        list[str] | None,
        _option(MODELS, "--model", "Add a model, loaded on first use; may be repeated.", "ALIAS=MODEL"),
    ] = None,
    served_model_name: Annotated[
        list[str] | None,
        _option(MODELS, "--served-model-name", "Name of the model in requests; may be repeated for more names."),
    ] = None,
    chat_template: Annotated[
        str | None,
        _option(MODELS, "--chat-template", "Jinja chat template to use instead of the model's: a file, or its text."),
    ] = None,
    tokenizer: Annotated[
        str | None,
        _option(MODELS, "--tokenizer", "Tokenizer to use instead of the model's: a tokenizer.json, or its folder."),
    ] = None,
    tool_call_parser: Annotated[
        str,
        _option(
            MODELS,
            "--tool-call-parser",
            "Format of tool calls: auto (taught as the chat template says, read in every format), hermes, llama3_json, "
            "mistral or json.",
        ),
    ] = "auto",
    enable_auto_tool_choice: Annotated[
        bool, _option(MODELS, "--enable-auto-tool-choice", "Always on; accepted for command lines of vLLM.")
    ] = True,
    reasoning_parser: Annotated[
        str,
        _option(
            MODELS,
            "--reasoning-parser",
            "Format of reasoning, which answers return as reasoning_content: auto (as the chat template says), qwen3, "
            "deepseek_r1, mistral or none.",
        ),
    ] = "auto",
    dtype: Annotated[
        str,
        _option(
            MODELS, "--dtype", "Accepted for command lines of vLLM; no effect: weights keep the encoding of the file."
        ),
    ] = "auto",
    quantization: Annotated[
        str | None, _option(MODELS, "--quantization", "Only gguf: the file says how it is quantised.")
    ] = None,
    tensor_parallel_size: Annotated[int, _option(MODELS, "--tensor-parallel-size", "Only 1 so far.")] = 1,
    memory: Annotated[
        str | None,
        _option(MODELS, "--memory", "Memory for all models together, such as 8G; by default what is free.", "SIZE"),
    ] = None,
    idle_timeout: Annotated[
        float, _option(MODELS, "--idle-timeout", "Unload a model of --model after this many seconds without use.")
    ] = 600.0,
    host: Annotated[str, _option(NETWORK, "--host", "Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, _option(NETWORK, "--port", "Port to listen on; 0 chooses a free one.")] = 8000,
    ssl_keyfile: Annotated[Path | None, _option(NETWORK, "--ssl-keyfile", "Private key file for TLS.")] = None,
    ssl_certfile: Annotated[Path | None, _option(NETWORK, "--ssl-certfile", "Certificate file for TLS.")] = None,
    api_key: Annotated[
        list[str] | None,
        _option(ACCESS, "--api-key", f"API key that clients must send; may be repeated. {KEY_VARIABLE} adds one."),
    ] = None,
    api_key_file: Annotated[
        Path | None, _option(ACCESS, "--api-key-file", "File of API keys, one per line: KEY [NAME [WEIGHT]].")
    ] = None,
    allowed_origin: Annotated[
        list[str] | None,
        _option(ACCESS, "--allowed-origin", "Web origin whose pages may call the server; may be repeated."),
    ] = None,
    max_queued_requests: Annotated[
        int, _option(LIMITS, "--max-queued-requests", "Most requests that may wait; further ones get status 429.")
    ] = 256,
    max_queued_tokens: Annotated[
        int, _option(LIMITS, "--max-queued-tokens", "Most tokens that may wait; further requests get status 429.")
    ] = 1 << 20,
    max_body_size: Annotated[int, _option(LIMITS, "--max-body-size", "Longest request body in bytes.")] = 4 << 20,
    max_connections: Annotated[int, _option(LIMITS, "--max-connections", "Most clients connected at once.")] = 4096,
    request_timeout: Annotated[
        float | None,
        _option(LIMITS, "--request-timeout", "Longest time for a request in seconds; a request may ask for less."),
    ] = None,
    send_timeout: Annotated[
        float,
        _option(LIMITS, "--send-timeout", "Close a connection whose client reads nothing for this many seconds."),
    ] = 60.0,
    shutdown_timeout: Annotated[
        float, _option(LIMITS, "--shutdown-timeout", "Seconds that running requests may still take after SIGTERM.")
    ] = 30.0,
    engine_timeout: Annotated[
        float, _option(LIMITS, "--engine-timeout", "Restart an engine that is silent for this many seconds.")
    ] = 10.0,
    log_format: Annotated[str, _option(LOGS, "--log-format", "text or json.")] = "text",
    log_level: Annotated[str, _option(LOGS, "--log-level", "debug, info, warning or error.")] = "info",
    otlp_endpoint: Annotated[
        str | None,
        _option(LOGS, "--otlp-endpoint", "Send OpenTelemetry traces to this URL (install octavo[otel])."),
    ] = None,
    engine: dict[str, Any] = {},  # noqa: B006  # always given: see `takes`
) -> None:
    """Serve models over HTTP: OpenAI's API, Anthropic's messages, and a web page with a chat and a live view."""
    from octavo.cli.options import size
    from octavo.server import logs
    from octavo.server.http.keys import make, read
    from octavo.server.serve import serve as run
    from octavo.server.settings import Limits, ServerSettings

    for name, value, allowed in (("log_format", log_format, logs.FORMATS), ("log_level", log_level, logs.LEVELS)):
        if value not in allowed:
            raise ConfigError(f"{name} must be one of {', '.join(allowed)}; got {value!r}")
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
        models=tuple(
            replace(each, tool_call_parser=tool_call_parser, reasoning_parser=reasoning_parser)
            for each in (*first, *others)
        ),
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

        complain(f"warning: {host} is open without an API key; anyone who can reach it can use it (see --api-key)")


def _name(model: str) -> str:
    """Returns the default name of a model: its alias, or its file's name without the suffix."""
    path = Path(model)
    return path.stem if path.suffix == ".gguf" else path.name if path.exists() else model


def _other(entry: str, engine: Mapping[str, Any]) -> ModelSource:
    """Reports a model that is not there, or is none, now and not at its first use. The hub is asked then only."""
    from octavo.errors import ModelFileError
    from octavo.models.registry import build_model, open_checkpoint
    from octavo.weights import sources

    alias, equals, model = entry.partition("=")
    if not (alias and equals and model):
        raise ConfigError(f"--model must have the form ALIAS=MODEL; got {entry!r}")
    try:
        if (path := sources.find(model)) is not None:
            with open_checkpoint(path) as checkpoint:
                build_model(checkpoint)
    except ModelFileError as error:
        raise ConfigError(f"--model {entry}: {error}") from error
    return _source((alias,), model, engine, None, None, eager=False)


def _source(
    names: tuple[str, ...],
    model: str,
    engine: Mapping[str, Any],
    tokenizer: str | None,
    chat_template: str | None,
    eager: bool = True,
) -> ModelSource:
    from octavo.assembly.engine import engine_config
    from octavo.server.settings import ModelSource

    engine_config(**engine)  # reports a bad setting now, before the engine's process starts
    return ModelSource(names, model, dict(engine), tokenizer, _template(chat_template), eager=eager)


def _template(given: str | None) -> str | None:
    if given is None or "{" in given:
        return given
    try:
        return Path(given).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"chat template {given}: {getattr(error, 'strerror', None) or error}") from error
