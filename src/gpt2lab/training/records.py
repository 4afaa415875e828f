"""What a record teaches: a text, a completion after a prompt, or an assistant's turns in a chat."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

# The longest field of a row, or line, in characters; longer ones are refused.
LONGEST = 16 << 20
ROLES = ("system", "user", "assistant")


class Part(NamedTuple):
    """A stretch of an example."""

    text: str
    learned: bool
    """Whether loss is taken on it; prompts are only read."""
    special: bool = False
    """Whether it is one control token, not text."""


@dataclass(frozen=True)
class Example:
    """One text, after which the model is to stop."""

    parts: tuple[Part, ...]
    where: str
    """File and line or row."""
    conversation: str = ""
    """The whole of what it is a part of, if it is."""

    @property
    def text(self) -> str:
        """All of it."""
        return "".join(part.text for part in self.parts)

    @property
    def group(self) -> str:
        """What it shares with examples that must not be held out without it."""
        return self.conversation or self.text


@dataclass(frozen=True)
class Form:
    """How turns of a chat are written."""

    markers: dict[str, str]
    """What stands before a turn, by role."""
    specials: tuple[str, ...]
    """Control tokens among them, which a tokenizer may lack."""
    between: str
    before: str
    """Between a marker and what is said; part of what is learned."""
    template: str
    """The same in Jinja, as transformers, vLLM and llama.cpp read it beside a tokenizer."""


PLAIN = Form(
    {role: f"{role.capitalize()}:" for role in ROLES},
    (),
    "\n",
    " ",
    "{% for turn in messages %}{% if not loop.first %}{{ '\\n' }}{% endif %}"
    "{% if turn['role'] == 'user' %}User{% elif turn['role'] == 'assistant' %}Assistant"
    "{% else %}System{% endif %}: {{ turn['content'] | trim }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '\\nAssistant:' }}{% endif %}",
)
TOKENS = Form(
    {role: f"<|{role}|>" for role in ROLES},
    tuple(f"<|{role}|>" for role in ROLES),
    "",
    "",
    "{% for turn in messages %}{{ '<|' + turn['role'] + '|>' }}{{ turn['content'] | trim }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}",
)


# All that is looked for in a record.
FIELDS = (
    "text", "prompt", "completion", "instruction", "input", "context", "output", "response",
    "messages", "conversations",
)  # fmt: skip


class UnfitError(Exception):
    """Why a record cannot be used."""


def examples_of(record: Any, where: str, column: str, form: Form) -> Iterator[Example]:
    """What a record teaches; UnfitError says what it lacks.

    column: the field that holds the text, if it is not called `text`.
    """
    if not isinstance(record, Mapping):
        raise UnfitError("not an object")
    if column:
        yield Example((Part(_string(record, column), True),), where)
    elif "messages" in record:
        yield from _chat(record["messages"], where, form)
    elif "conversations" in record:
        yield from _chat(_shared(record["conversations"]), where, form)
    elif "instruction" in record:
        asked = _string(record, "instruction")
        for more in ("input", "context"):  # Alpaca's and Dolly's
            if record.get(more):
                asked += "\n\n" + _string(record, more)
        answer = "response" if "response" in record else "output"
        turns = [("user", asked), ("assistant", _string(record, answer))]
        yield from _chat([{"role": role, "content": text} for role, text in turns], where, form)
    elif "prompt" in record or "completion" in record:
        yield Example(_completion(record), where)
    elif "text" in record:
        yield Example((Part(_string(record, "text"), True),), where)
    else:
        shown = ", ".join(map(str, list(record)[:5])) or "nothing"
        raise UnfitError(
            f"has {shown}; wanted are text, prompt and completion, instruction and output, or "
            "messages; --column names another"
        )


def _shared(conversations: Any) -> Any:
    """Turns as ShareGPT writes them, as messages."""
    if not isinstance(conversations, list):
        return conversations
    names = {"human": "user", "gpt": "assistant"}
    return [
        {"role": names.get(str(turn.get("from")), turn.get("from")), "content": turn.get("value")}
        if isinstance(turn, Mapping)
        else turn
        for turn in conversations
    ]


def _completion(record: Mapping[str, Any]) -> tuple[Part, ...]:
    prompt, completion = (
        _string(record, name, empty=name == "prompt") for name in ("prompt", "completion")
    )
    # A prompt is read by itself when it is used: its last blank belongs to what follows.
    bare = prompt.rstrip()
    between = prompt[len(bare) :]
    if bare and not between and not completion[:1].isspace():
        between = "\n"
    given = (Part(bare, False),) if bare else ()
    return (*given, Part(between + completion, True))


def _string(record: Mapping[str, Any], name: str, *, empty: bool = False) -> str:
    value = record.get(name)
    if value is None:
        raise UnfitError(f"has no {name!r}")
    if not isinstance(value, str):
        raise UnfitError(f"{name!r} is not text")
    if not empty and not value.strip():
        raise UnfitError(f"{name!r} is empty")
    if len(value) > LONGEST:
        raise UnfitError(f"{name!r} has over {LONGEST:,} characters")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise UnfitError(f"{name!r} holds half a surrogate pair, which is no text") from None
    return value


def _chat(messages: Any, where: str, form: Form) -> list[Example]:
    """For each turn of the assistant, what was said before it, and the turn, which is learned.

    So every answer is followed by the end of the text, where the model is to stop.
    """
    if not isinstance(messages, list) or not messages:
        raise UnfitError("'messages' is not a list of turns")
    said: list[Part] = []
    answers: list[tuple[Part, ...]] = []
    role: Any = ""
    for number, turn in enumerate(messages, start=1):
        if not isinstance(turn, Mapping):
            raise UnfitError(f"turn {number} is not an object with role and content")
        role = turn.get("role")
        if not isinstance(role, str) or role not in form.markers:
            raise UnfitError(f"turn {number} has role {role!r}; there are {', '.join(ROLES)}")
        if said and form.between:
            said.append(Part(form.between, False))
        marker = form.markers[role]
        said.append(Part(marker, False, marker in form.specials))
        text = form.before + _said(turn).strip()
        if role == "assistant":
            answers.append((*_joined(said), Part(text, True)))
        said.append(Part(text, False))
    if role != "assistant":
        raise UnfitError("the last turn is not the assistant's; nothing follows it to learn")
    whole = "".join(part.text for part in said)
    return [Example(parts, where, whole) for parts in answers]


def _said(turn: Mapping[str, Any]) -> str:
    """What a turn says; some write a list of pieces of text."""
    content = turn.get("content")
    if isinstance(content, list) and all(isinstance(piece, Mapping) for piece in content):
        return "".join(_string(piece, "text", empty=True) for piece in content)
    return _string(turn, "content")


def _joined(parts: list[Part]) -> list[Part]:
    """Neighbours of plain text as one, since that is how a prompt is tokenised."""
    found: list[Part] = []
    for part in parts:
        if found and not (part.special or found[-1].special):
            found[-1] = Part(found[-1].text + part.text, False)
        else:
            found.append(part)
    return found
