"""The errors a user can meet. Each message says what is wrong and names the setting to change.

Anything that is not an `OctavoError` is a bug of ours and keeps its traceback.
"""

from __future__ import annotations


class OctavoError(Exception):
    """A mistake the user can mend. The CLI prints it as one line and exits with status 2; the server answers 400."""


class ModelFileError(OctavoError):
    """A model file that is missing, truncated, corrupt, or of a kind that is not supported."""


class TokenizerError(OctavoError):
    """A tokenizer or chat template that cannot be used."""


class RequestError(OctavoError):
    """A request that cannot be served as it stands. `field` names the parameter at fault."""

    def __init__(self, message: str, field: str | None = None):
        super().__init__(message)
        self.field = field


class CapacityError(OctavoError):
    """More memory, blocks or context is needed than the configuration allows; the message says by how much."""


class ConfigError(OctavoError):
    """An engine setting out of range, or two settings that contradict each other."""


# Packages that only a part of Octavo needs, and the extra that installs them.
EXTRAS = {
    "fastapi": "server",
    "uvicorn": "server",
    "prometheus_client": "server",
    "llguidance": "server",
    "opentelemetry": "otel",
}


def lacking_extra(error: ModuleNotFoundError) -> ConfigError | None:
    """What to tell the user whose import failed; None if the package belongs to no extra, so that it is our bug."""
    package = (error.name or "").partition(".")[0]
    if (extra := EXTRAS.get(package)) is None:
        return None
    return ConfigError(
        f"{package} is not installed: pip install 'octavo[{extra}]' (from a clone: pip install '.[{extra}]')"
    )
