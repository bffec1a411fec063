"""How many of the tool calls in a model's answers are read: 40 seeded requests with 3 tools each, tool_choice auto.

    python -m bench.tool_calls MODEL [--requests 40] [--show]

Each request asks for one or two of its tools, or for none. Every request is answered at temperature 0 and at 0.7.
`contained` counts the calls in a text by a slow search of its own, which `octavo.answers` must equal. Exits with
status 1 below 95 %.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Iterator
from dataclasses import dataclass

from octavo import LLM, SamplingParams
from octavo.answers.parts import joined
from octavo.answers.reader import Reading
from octavo.answers.tool_formats import takes_arguments
from octavo.types import Json

TEMPERATURES = (0.0, 0.7)
GOAL = 0.95
CITIES = ("Paris", "Oslo", "São Paulo", "Kyoto", "New York", "Accra")
PEOPLE = ("Anna", "Omar", "Mei", "Lukas", "Priya")
STRING, NUMBER, INTEGER = ({"type": kind} for kind in ("string", "number", "integer"))
NAMES: Json = {"type": "array", "items": STRING}
ROOMS: Json = {"type": "array", "items": {"type": "object", "properties": {"name": STRING, "celsius": NUMBER}}}


@dataclass(frozen=True)
class Tool:
    """properties: None for a tool without `parameters`. asks: requests that need the tool."""

    description: str
    properties: Json | None
    asks: tuple[str, ...]


TOOLS = {
    "get_weather": Tool(
        "Get the weather in a city",
        {"city": STRING, "unit": {"type": "string", "enum": ["C", "F"]}},
        ("What is the weather in {city}?", "Do I need an umbrella in {city} today? Use degrees Fahrenheit."),
    ),
    "send_email": Tool(
        "Send an email",
        {"to": STRING, "subject": STRING, "body": STRING},
        (
            "Email {person} that the meeting is moved to {n} o'clock.",
            'Write to {person}@example.com: "We\'re done", with a two-line body.',
        ),
    ),
    "run_python": Tool(
        "Run Python code and return its output",
        {"code": STRING},
        (
            "Run a Python script that prints the squares of 1 to {n}.",
            "Use Python to count the vowels in the word 'extraordinary'.",
        ),
    ),
    "write_file": Tool(
        "Write a text file",
        {"path": STRING, "content": STRING},
        (
            "Save an HTML page with the title {city} to index.html.",
            "Create config.json with the keys host and port ({n}).",
        ),
    ),
    "search_web": Tool(
        "Search the web",
        {"query": STRING, "limit": INTEGER},
        ("Find the {n} best museums in {city}.", "Search for news about {city}."),
    ),
    "create_event": Tool(
        "Create a calendar event",
        {"title": STRING, "date": STRING, "attendees": NAMES},
        ("Plan a lunch with {person} and Tom on 2026-05-{n}.", "Put 'dentist' into my calendar for 2026-06-{n}."),
    ),
    "set_thermostat": Tool(
        "Set the temperature of rooms", {"rooms": ROOMS}, ("Set the kitchen to {n} degrees and the bath to 24.",)
    ),
    "current_time": Tool("Get the current time", None, ("What time is it?", "Is it past noon already?")),
    "list_files": Tool("List the files of the working folder", {}, ("Which files are here?",)),
    "convert_currency": Tool(
        "Convert an amount of money",
        {"amount": NUMBER, "from": STRING, "to": STRING},
        ("How much is {n} euros in yen?", "Convert {n}.50 dollars to pounds."),
    ),
    "query_database": Tool(
        "Run an SQL query",
        {"sql": STRING},
        ("How many users named {person} are in the table users?", "List the {n} newest orders from the table orders."),
    ),
    "translate": Tool(
        "Translate a text",
        {"text": STRING, "language": STRING},
        ("Translate 'Good morning, {person}' into French.", "How do you say \"it's {n} o'clock\" in German?"),
    ),
}
PLAIN = ("Hello, how are you?", "Write a haiku about {city}.", "Explain in two sentences what a JSON object is.")

Calls = list[tuple[str, Json]]


def request(number: int) -> tuple[list[Json], str]:
    """(tools, what the user asks) of a request: in 1 of 10 nothing that needs a tool, in 2 of 10 two things."""
    rng = random.Random(number)
    names, kind = rng.sample(sorted(TOOLS), 3), rng.random()
    facts = {"city": rng.choice(CITIES), "person": rng.choice(PEOPLE), "n": rng.randrange(3, 25)}
    wanted = [] if kind < 0.1 else names[: 2 if kind > 0.8 else 1]
    asks = [rng.choice(TOOLS[name].asks) for name in wanted] or [rng.choice(PLAIN)]
    return [_as_sent(name, TOOLS[name]) for name in names], " Also: ".join(ask.format(**facts) for ask in asks)


def _as_sent(name: str, tool: Tool) -> Json:
    function: Json = {"name": name, "description": tool.description}
    if tool.properties is not None:
        required = sorted(tool.properties)[:1]
        function["parameters"] = {"type": "object", "properties": tool.properties, "required": required}
    return {"type": "function", "function": function}


def answers(llm: LLM, count: int, temperature: float) -> list[str]:
    prompts = [llm.render([{"role": "user", "content": request(n)[1]}], tools=[*request(n)[0]]) for n in range(count)]
    params = [SamplingParams(temperature=temperature, seed=n, max_tokens=300) for n in range(count)]
    return [output.outputs[0].text for output in llm.generate([*prompts], params, use_tqdm=False)]


def offered(tools: list[Json]) -> dict[str, bool]:
    return {tool["function"]["name"]: takes_arguments(tool["function"]) for tool in tools}


def contained(text: str, tools: dict[str, bool]) -> Calls:
    """The calls in a text: every object with the name of a tool and arguments. Tries to decode at every brace."""
    return list(_contained(text, tools))


def _contained(text: str, tools: dict[str, bool]) -> Iterator[tuple[str, Json]]:
    position = text.find("{")
    while position >= 0:
        found, size = _decoded(text[position:])
        call = None if found is None else _call(found, tools)
        if call is not None:
            yield call
        position = text.find("{", position + (1 if call is None else size))


def _decoded(text: str) -> tuple[Json | None, int]:
    """(the object at the start of a text, its length). Braces may be doubled, and missing at the end of the text."""
    for doubled in (False, True):
        tried = text.replace("{{", "{").replace("}}", "}") if doubled else text
        for missing in ("", "}", "}}"):
            try:
                value, size = json.JSONDecoder(strict=False).raw_decode(tried.rstrip() + missing)
            except ValueError:
                continue
            if isinstance(value, dict):
                return value, min(size, len(text))
    return None, 0


def _call(value: Json, tools: dict[str, bool]) -> tuple[str, Json] | None:
    inner = value.get("function")
    if isinstance(inner, dict) and "arguments" in inner:
        return _call(inner, tools)
    name, arguments = value.get("name"), value.get("arguments", value.get("parameters"))
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments)
        except ValueError:
            return None
    if name not in tools or not isinstance(arguments, dict):
        return None
    if "description" in value and "properties" in arguments:
        return None  # the definition of the tool, repeated
    return name, arguments if tools[name] else {}


def read(text: str, tools: dict[str, bool]) -> Calls:
    """The calls that Octavo reads, whole and from a stream of single characters."""
    reading = Reading(tools=tools)
    whole, reader = reading.read(text), reading.reader()
    parts = [part for character in text for part in reader.feed(character)] + reader.feed("", last=True)
    assert joined(parts) == whole, "a stream says something else than the whole answer"
    return [(name, _arguments(given)) for name, given in whole.calls]


def _arguments(given: str) -> Json:
    try:
        value = json.loads(given)
    except ValueError:
        return {"not JSON": given}
    return value if isinstance(value, dict) else {"not an object": value}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--requests", type=int, default=40)
    parser.add_argument("--show", action="store_true", help="print the answers whose calls are not read as contained")
    options = parser.parse_args()
    there = correct = surplus = 0
    with LLM(options.model) as llm:
        for temperature in TEMPERATURES:
            for number, text in enumerate(answers(llm, options.requests, temperature)):
                tools = offered(request(number)[0])
                wanted, got = contained(text, tools), read(text, tools)
                there += len(wanted)
                correct += sum(call in got for call in wanted)
                surplus += sum(call not in wanted for call in got)
                if options.show and wanted != got:
                    print(f"--- {request(number)[1]}\n{text}\ncontained: {wanted}\nread:      {got}")
    share = correct / max(there, 1)
    total = options.requests * len(TEMPERATURES)
    print(
        f"{options.model}: {total} answers contain {there} calls; {correct} are read correctly ({share:.1%}, goal "
        f"{GOAL:.0%}); {surplus} more are read that are not JSON as written"
    )
    return int(share < GOAL)


if __name__ == "__main__":
    raise SystemExit(main())
