"""Errors of the protocol, raised where they occur and rendered in one place (api.middleware).

Texts, `param` and `code` are those of recorded answers; the official SDKs map the status to an exception class. A
logical conflict is a 400 because they would retry a 409.
"""

from __future__ import annotations

import math


class ApiError(Exception):
    """An error of the client or the service, in OpenAI's error envelope."""

    def __init__(
        self,
        message: str,
        *,
        status: int = 400,
        param: str | None = None,
        code: str | None = None,
        kind: str = "invalid_request_error",
        headers: dict[str, str] | None = None,
        detailed: bool = False,
    ) -> None:
        """`detailed`: the message is also repeated outside the envelope, as in some recorded errors of files."""
        message = message.encode(errors="replace").decode()  # it may quote bytes of the client that are not text
        super().__init__(message)
        self.message, self.status, self.param, self.code, self.kind = message, status, param, code, kind
        self.headers, self.detailed = headers or {}, detailed


def no_such(what: str, object_id: str) -> ApiError:
    """404 for an unknown id, and for one of another project: the two look alike on purpose."""
    return ApiError(f"No {what} found with id '{object_id}'.", status=404)


def no_such_file(file_id: str) -> ApiError:
    return ApiError(f"No such File object: {file_id}", status=404, param="id", detailed=True)


def no_such_upload(upload_id: str) -> ApiError:
    return ApiError(f"No such Upload object: {upload_id}", status=404, param="id")


def invalid_id(param: str, value: str, prefix: str) -> ApiError:
    return ApiError(
        f"Invalid '{param}': '{value}'. Expected an ID that begins with '{prefix}'.", param=param, code="invalid_value"
    )


def server_error() -> ApiError:
    return ApiError(
        "The server had an error processing your request. Sorry about that! You can retry your request.",
        status=500,
        kind="server_error",
    )


def unreadable() -> ApiError:
    """500 for stored data that cannot be read: the SDKs must not retry it, as they do any other 500."""
    return ApiError(
        "This object cannot be read: a part of its stored data is missing or damaged. Retrying does not help."
        " Contact the operator of this service, whose log names the part.",
        status=500,
        kind="server_error",
        code="storage_unreadable",
        headers={"x-should-retry": "false"},
    )


def undecided() -> ApiError:
    """503 for a request that may have succeeded: the SDKs must not retry it by themselves, which
    `x-should-retry` tells them."""
    return ApiError(
        "It is unknown whether your request was saved. Check before retrying.",
        status=503,
        kind="server_error",
        code="storage_undecided",
        headers={"x-should-retry": "false"},
    )


def storage_unavailable() -> ApiError:
    """503 while the store does not respond; the SDKs wait Retry-After and try again."""
    return ApiError(
        "The storage of this service is not responding. Please retry your request.",
        status=503,
        kind="server_error",
        code="storage_unavailable",
        headers={"Retry-After": "1"},
    )


def storage_full() -> ApiError:
    """503 when the store is full; the SDKs retry it as they do when the store does not respond."""
    return ApiError(
        "Your request was not saved: the disk of this service is full. Please retry when its operator has freed space.",
        status=503,
        kind="server_error",
        code="storage_unavailable",
        headers={"Retry-After": "1"},
    )


def stopping() -> ApiError:
    """503 of a process that drains: another one serves the next requests."""
    return ApiError(
        "The server is shutting down. Please retry.",
        status=503,
        kind="server_error",
        code="stopping",
        headers={"Retry-After": "1"},
    )


def overloaded() -> ApiError:
    """503 for a connection beyond MAX_CONNECTIONS."""
    return ApiError(
        "This service has too many open connections. Please retry your request.",
        status=503,
        kind="server_error",
        code="overloaded",
        headers={"Retry-After": "1"},
    )


def too_slow() -> ApiError:
    return ApiError("The request body took too long to arrive.", status=408, code="request_timeout")


def undecodable() -> ApiError:
    """400 for a body with broken framing."""
    return ApiError("The request body is not in the chunked encoding that its 'Transfer-Encoding' header announces.")


def rate_limit_reached(what: str, kind: str, wait: float) -> ApiError:
    headers = {"Retry-After": str(math.ceil(wait)), "retry-after-ms": str(math.ceil(wait * 1000))}
    message = f"Rate limit reached for {what}. Please try again in {wait:.3g}s."
    return ApiError(message, status=429, kind=kind, code="rate_limit_exceeded", headers=headers)
