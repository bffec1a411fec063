"""Errors as clients see them, in OpenAI's format. `param` names the field at fault."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from octavo.errors import CapacityError, EngineError, OctavoError, RequestError


class ApiError(Exception):
    """An error response. retry_after: seconds after which the client should try again."""

    def __init__(
        self,
        status: int,
        message: str,
        kind: str = "invalid_request_error",
        param: str | None = None,
        code: str | None = None,
        retry_after: float | None = None,
    ):
        super().__init__(message)
        self.status = status
        self.message = message
        self.kind = kind
        self.param = param
        self.code = code
        self.retry_after = retry_after

    def body(self) -> dict[str, Any]:
        return {"error": {"message": self.message, "type": self.kind, "param": self.param, "code": self.code}}

    def encoded(self) -> bytes:
        return msgspec.json.encode(self.body())

    def renamed(self, names: Mapping[str, str]) -> ApiError:
        """Returns the error with the client's name of the field. names: maps our names to the client's.

        A name also holds for the items of a list: "prompt[3]" where names has "prompt".
        """
        param = self.param or ""
        field, bracket, rest = param.partition("[")
        name = names.get(param) or (names[field] + bracket + rest if field in names else None)
        if name is None:
            return self
        message = name + self.message[len(param) :] if self._begins_with_field else self.message
        return ApiError(self.status, message, self.kind, name, self.code, self.retry_after)

    def of_prompt(self, number: int) -> ApiError:
        """Returns the error with the number of the prompt at fault."""
        name = f"prompt[{number}]"
        param = name if self.param == "prompt" else self.param
        return ApiError(self.status, f"{name}: {self.message}", self.kind, param, self.code, self.retry_after)

    @property
    def _begins_with_field(self) -> bool:
        return self.param is not None and self.message.startswith(self.param)

    def headers(self) -> dict[str, str]:
        if self.status == 401:
            return {"www-authenticate": "Bearer"}
        return {} if self.retry_after is None else {"retry-after": str(max(1, round(self.retry_after)))}


def bad_request(message: str, param: str | None = None, code: str | None = None) -> ApiError:
    return ApiError(400, message, param=param, code=code)


def from_octavo(error: OctavoError) -> ApiError:
    """A user's mistake, as a 400. `param` is the field of SamplingParams; `ApiError.renamed` adapts it."""
    field = getattr(error, "field", None)
    code = "context_length_exceeded" if isinstance(error, CapacityError) else None
    assert isinstance(error, RequestError | CapacityError | OctavoError)
    return bad_request(str(error), field, code)


def to_octavo(error: ApiError) -> OctavoError:
    """The inverse of `from_octavo`, for programs without HTTP. An error whose cause is known is that cause."""
    if isinstance(error.__cause__, OctavoError):
        return error.__cause__
    if error.code == "context_length_exceeded":
        return CapacityError(error.message)
    if error.status in (400, 408):
        return RequestError(error.message, error.param)
    return EngineError(error.message)


def unauthorized() -> ApiError:
    message = "this server needs an API key: send it as `Authorization: Bearer KEY` (or `x-api-key`)"
    return ApiError(401, message, "authentication_error", code="invalid_api_key")


def not_found(path: str, known: Sequence[str] = ()) -> ApiError:
    """known: the paths that exist. One that differs at its start is suggested: clients forget the /v1, or add one."""
    meant = next((each for each in known if each.endswith(path) or path.endswith(each)), None)
    hint = "" if meant is None else f"; did you mean {meant}?"
    return ApiError(404, f"there is no {path}{hint}", "not_found_error", code="not_found")


def no_model(name: str, names: list[str]) -> ApiError:
    message = f"there is no model {name[:100]!r}: this server has {', '.join(names)}"
    return ApiError(404, message, "not_found_error", "model", "model_not_found")


def overloaded(message: str, retry_after: float) -> ApiError:
    return ApiError(429, message, "rate_limit_error", code="overloaded", retry_after=retry_after)


def unavailable(message: str, retry_after: float | None = 2) -> ApiError:
    return ApiError(503, message, "service_unavailable_error", code="unavailable", retry_after=retry_after)


def past_deadline(tokens: int) -> ApiError:
    message = f"the request's deadline passed after {tokens} tokens: raise `timeout`, or lower max_tokens"
    return ApiError(408, message, "timeout_error", "timeout", "deadline_exceeded")


def internal(message: str = "the server failed on this request: see its log") -> ApiError:
    return ApiError(500, message, "server_error", code="internal_error")


def engine_failed() -> ApiError:
    return internal("the engine could not compute this request (other requests are not affected); the log says why")
