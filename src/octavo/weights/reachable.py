"""Asks whether a server answers at all, before a client that tries again for half a minute is started."""

from __future__ import annotations

import http.client
import ssl
import threading
import urllib.error
import urllib.request

SECONDS = 8.0  # for the first answer


def why_unreachable(url: str) -> str | None:
    """Returns why no HTTP answer comes from `url`; None if one comes, whatever its status.

    A certificate that is refused counts as an answer: the real client may be set up to trust it.
    """
    reason = [f"no answer in {SECONDS:.0f} s"]
    asking = threading.Thread(target=lambda: reason.__setitem__(0, _ask(url)), daemon=True)
    asking.start()
    asking.join(SECONDS)  # the time limit of a request does not hold while its host's name is looked up
    return reason[0] or None


def _ask(url: str) -> str:
    """Returns the reason, or "" if there was an answer."""
    try:
        urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=SECONDS).close()
    except urllib.error.HTTPError:
        return ""
    except urllib.error.URLError as error:
        if isinstance(error.reason, ssl.SSLError):
            return ""
        return getattr(error.reason, "strerror", None) or str(error.reason)
    except (OSError, ValueError, http.client.HTTPException) as error:
        return str(error) or type(error).__name__
    return ""
