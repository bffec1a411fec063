"""OpenTelemetry traces: one span per request. OpenTelemetry is imported only if the operator sets an endpoint."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from octavo import __version__
from octavo.errors import ConfigError

# Maps fields of the access log to the semantic conventions for generative AI.
ATTRIBUTES = {
    "model": "gen_ai.request.model",
    "prompt_tokens": "gen_ai.usage.input_tokens",
    "output_tokens": "gen_ai.usage.output_tokens",
    "cached_tokens": "octavo.cached_tokens",
    "request_id": "octavo.request_id",
    "status": "http.response.status_code",
}


class Tracer:
    """endpoint: URL of an OTLP/HTTP collector. Raises ConfigError if OpenTelemetry is not installed."""

    def __init__(self, endpoint: str):
        try:
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
            from opentelemetry.sdk.resources import Resource
            from opentelemetry.sdk.trace import TracerProvider
            from opentelemetry.sdk.trace.export import BatchSpanProcessor
        except ImportError as error:
            raise ConfigError("traces need OpenTelemetry: pip install 'octavo[otel]'") from error
        resource = Resource.create({"service.name": "octavo", "service.version": __version__})
        self._provider = TracerProvider(resource=resource)
        exporter = OTLPSpanExporter(endpoint=endpoint.rstrip("/") + "/v1/traces")
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("octavo.server", __version__)

    def begin(self, name: str, headers: Mapping[str, str]) -> Callable[[Mapping[str, Any]], None]:
        """Starts a span, as a child of the span in the headers if there is one. Returns a function that ends it."""
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        span = self._tracer.start_span(name, context=TraceContextTextMapPropagator().extract(headers))

        def end(facts: Mapping[str, Any]) -> None:
            span.set_attributes({ATTRIBUTES[key]: value for key, value in facts.items() if key in ATTRIBUTES})
            span.end()

        return end

    def close(self) -> None:
        """Sends the remaining spans."""
        self._provider.shutdown()
