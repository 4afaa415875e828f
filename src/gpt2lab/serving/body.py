"""Reading the bodies of requests: their size and depth are bounded before anything is parsed."""

import json
import re
from typing import Any, NoReturn, TypeVar

from pydantic import BaseModel, ValidationError
from starlette.requests import Request

from gpt2lab.serving.errors import ApiError, invalid, of_validation

MOST_BYTES, DEEPEST = 4 * 2**20, 16
# A string, whatever is in it, or a bracket.
_BRACKETS = re.compile(rb'"(?:[^"\\]++|\\.)*+"?|[][{}]', re.DOTALL)
Form = TypeVar("Form", bound=BaseModel)


async def read(request: Request, form: type[Form]) -> Form:
    """A request's body as one of the forms of `schema`; ApiError if it is none."""
    data = await _data(request)
    _require_shallow(data)
    try:
        body = json.loads(data, parse_constant=_refuse)
    except (UnicodeDecodeError, ValueError) as error:
        reason = str(error).split(";")[0]
        raise invalid(None, f"the body is not JSON: {reason}", "invalid_json") from None
    try:
        return form.model_validate(body)
    except ValidationError as error:
        raise of_validation(error, form, body) from None


async def _data(request: Request) -> bytes:
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size > MOST_BYTES:
            raise _too_large(f"the body is larger than {MOST_BYTES:,} bytes; send less at once")
        parts.append(part)
    return b"".join(parts)


def _require_shallow(data: bytes) -> None:
    depth = deepest = 0
    for found in _BRACKETS.finditer(data):
        match data[found.start()]:
            case 0x5B | 0x7B:
                depth += 1
                deepest = max(deepest, depth)
            case 0x5D | 0x7D:
                depth -= 1
    if deepest > DEEPEST:
        raise _too_large(f"the body is {deepest} lists deep; at most {DEEPEST} are read")


def _too_large(message: str) -> ApiError:
    return ApiError(413, "request_too_large", message)


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no number of JSON")


def schema(form: type[BaseModel]) -> dict[str, Any]:
    """A form in the OpenAPI document."""
    made = form.model_json_schema(ref_template="#/components/schemas/{model}")
    made.pop("$defs", None)
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": made}}}}
