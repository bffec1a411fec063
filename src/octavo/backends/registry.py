"""The devices that `backend` can name. A new one is its file, and its line here."""

from __future__ import annotations

from importlib import import_module

from octavo.backends import host
from octavo.backends.base import Device
from octavo.errors import ConfigError

# Name -> the module that defines its `DEVICE`. It is imported when first needed, and imports what it runs on later.
DEVICES = {
    "cpu": "octavo.backends.cpu.device",
    "reference": "octavo.backends.reference",
    "null": "octavo.backends.null",
    "cuda": "octavo.backends.cuda.device",
}


def choose(name: str) -> str:
    """The device that "auto" means on this machine: cuda where a GPU is, else cpu. Other names stay as they are."""
    if name != "auto":
        return name
    return "cuda" if host.has_gpu() else "cpu"


def device(name: str) -> Device:
    """Raises ConfigError for a name that is not in the table."""
    if name not in DEVICES:
        raise ConfigError(f"backend must be one of {', '.join(DEVICES)}, auto; got {name!r}")
    found: Device = import_module(DEVICES[name]).DEVICE
    return found


def option_names() -> list[str]:
    """The options of all devices."""
    return [option for name in DEVICES for option in device(name).options]


def owner(option: str, preferred: str) -> str | None:
    """The device that an option belongs to, the preferred one if it has it. None: no device has it."""
    return next((name for name in (preferred, *DEVICES) if option in device(name).options), None)
