"""What goes wrong over HTTP, in the form that OpenAI's clients read."""

import json
from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any

from pydantic import BaseModel, ValidationError


class ApiError(Exception):
    """An answer that is none.

    message: one sentence. param: the field it is about. retry: whether a client may try the same
    again; None leaves that to the client, which tries 408, 409, 429 and 5xx again.
    """

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        param: str | None = None,
        kind: str = "invalid_request_error",
        retry: bool | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.code, self.message, self.param, self.kind = (
            status, code, message, param, kind,
        )  # fmt: skip
        self.headers = dict(headers or {})
        if retry is not None:
            self.headers["x-should-retry"] = str(retry).lower()

    def body(self) -> dict[str, Any]:
        """As JSON."""
        about = {"message": self.message, "type": self.kind, "param": self.param, "code": self.code}
        return {"error": about}


def invalid(param: str | None, message: str, code: str = "invalid_value") -> ApiError:
    """A request that cannot be met as it is."""
    return ApiError(400, code, message, param=param)


def overloaded(message: str, seconds: int) -> ApiError:
    """No room now; `seconds` until it is worth trying again."""
    return ApiError(
        503, "overloaded", message, kind="server_error", headers={"Retry-After": str(seconds)}
    )


def of_validation(error: ValidationError, model: type[BaseModel], body: Any) -> ApiError:
    """The first thing that is wrong with a body, in one sentence."""
    found = error.errors(include_url=False)
    first = next((e for e in found if e["type"] != "extra_forbidden"), found[0])
    place = [str(part) for part in first["loc"]]
    # Of a union each member is named behind the field; what was wrong with each helps nobody.
    param = place[0] if place else None
    if first["type"] == "missing":
        return invalid(param, f"{param} is missing; it is needed", "missing_required_parameter")
    if first["type"] == "extra_forbidden":
        near = get_close_matches(place[-1], model.model_fields, 1)
        hint = f"; did you mean {near[0]}?" if near else "; leave it out"
        return invalid(param, f"there is no parameter {'.'.join(place)!r}{hint}",
                       "unknown_parameter")  # fmt: skip
    if param is None or not isinstance(body, dict):
        return invalid(None, "the body must be a JSON object")
    field = model.model_fields.get(param)
    wanted = field.json_schema_extra if field else None
    assert isinstance(wanted, dict)
    return invalid(param, f"{param} is {shown(body.get(param))}; it must be {wanted['must_be']}")


def shown(value: Any) -> str:
    """A value as JSON, short enough for a sentence."""
    told = json.dumps(value, ensure_ascii=True, default=repr)
    return told if len(told) <= 60 else f"{told[:57]}..."
