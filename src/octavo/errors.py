"""The errors a user can meet. Each message says what is wrong and names the setting to change.

Anything that is not an `OctavoError` is a bug of ours and keeps its traceback.
"""

from __future__ import annotations


class OctavoError(Exception):
    """A mistake the user can correct. The CLI prints it as one line and exits with status 2; the server answers 400."""


class ModelFileError(OctavoError):
    """A model file is missing, truncated, corrupt or unsupported."""


class TokenizerError(OctavoError):
    """A tokenizer or chat template cannot be used."""


class RequestError(OctavoError):
    """A request has an invalid parameter or prompt. `field` names the parameter."""

    def __init__(self, message: str, field: str | None = None):
        super().__init__(message)
        self.field = field


class CapacityError(OctavoError):
    """More memory, blocks or context is needed than configured. The message says how much."""


class EngineError(OctavoError):
    """The engine process failed, or could not compute a request. The log says why."""


class ConfigError(OctavoError):
    """An engine setting is out of range, or two settings contradict each other."""


# Optional packages, and the extra that installs each.
EXTRAS = {
    "fastapi": "server",
    "uvicorn": "server",
    "prometheus_client": "server",
    "llguidance": "server",
    "opentelemetry": "otel",
}


def lacking_extra(error: ModuleNotFoundError) -> ConfigError | None:
    """Returns the error for a failed import of an optional package; None for any other package, which is our bug."""
    package = (error.name or "").partition(".")[0]
    if (extra := EXTRAS.get(package)) is None:
        return None
    return ConfigError(
        f"{package} is not installed: pip install 'octavo[{extra}]' (from a clone: pip install '.[{extra}]')"
    )
