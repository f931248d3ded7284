"""What a request can do wrong, as RFC 9457 has it: one sentence, a type, a status."""

import json
from collections.abc import Mapping

from starlette.responses import Response

STATUSES: Mapping[str, int] = {
    "malformed": 400,
    "unauthorized": 401,
    "wrong-host": 403,
    "wrong-origin": 403,
    "read-only": 403,
    "not-found": 404,
    "no-labels": 404,
    "no-such-model": 404,
    "no-such-image": 404,
    "wrong-method": 405,
    "not-ours": 409,
    "body-too-large": 413,
    "too-many-pixels": 413,
    "response-too-large": 413,
    "not-an-image": 415,
    "bad-parameter": 422,
    "damaged-image": 422,
    "image-too-small": 422,
    "unusable-image": 422,
    "url-refused": 422,
    "internal": 500,
    "starting": 503,
    "queue-full": 503,
    "draining": 503,
    "deadline": 504,
    "cannot-save": 507,
}


class Problem(Exception):
    """A request that cannot be answered.

    Args:
        kind: one of `STATUSES`.
        detail: what is wrong, in one sentence.
        retry_after: seconds after which it may be worth trying again.
    """

    def __init__(self, kind: str, detail: str, *, retry_after: float | None = None) -> None:
        super().__init__(detail)
        self.kind, self.detail, self.retry_after = kind, detail, retry_after

    @property
    def status(self) -> int:
        """The HTTP status."""
        return STATUSES[self.kind]

    def response(self) -> Response:
        """As `application/problem+json`."""
        body = {
            "type": f"urn:pixelwise:{self.kind}",
            "title": self.kind.replace("-", " "),
            "status": self.status,
            "detail": self.detail,
        }
        headers = {}
        if self.retry_after is not None:
            headers["Retry-After"] = str(max(1, round(self.retry_after)))
        if self.kind == "unauthorized":
            headers["WWW-Authenticate"] = "Bearer"
        return Response(json.dumps(body), self.status, headers, "application/problem+json")
