"""llama.cpp's grammars, GBNF, as Lark. Source: grammars/README.md of llama.cpp.

    root ::= "yes" | item+        start: T0
    item ::= "- " [^\\n]+ "\\n"    T0: "yes" | T1 +
                                  T1: "- " /[^\\x{a}]/ + "\\n"

A rule that does not contain itself becomes a terminal. So a grammar without recursion is one regular expression, and
the same texts follow both. Between the rules of a recursive grammar llguidance reads each terminal as far as it goes: a
terminal `[a-z]+` before an "s" takes the "s" too.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

RULE = re.compile(r"^[ \t]*[\w-]+[ \t]*::=", re.MULTILINE)
_TOKEN = re.compile(
    r"""(?P<space>\s+|\#[^\n]*)
    |(?P<head>[\w-]+)\s*::=
    |(?P<name>[\w-]+)
    |"(?P<text>(?:[^"\\\n]|\\.)*)"
    |\[(?P<set>(?:[^\]\\\n]|\\.)*)\]
    |(?P<any>\.)
    |\{\s*(?P<least>\d*)\s*(?P<comma>,?)\s*(?P<most>\d*)\s*\}
    |(?P<sign>[()|*+?])""",
    re.VERBOSE,
)
_ESCAPE = re.compile(r"\\(?:x(?P<two>[0-9a-fA-F]{2})|u(?P<four>[0-9a-fA-F]{4})|U(?P<eight>[0-9a-fA-F]{8})|(?P<char>.))")
_LETTERS = {"n": "\n", "r": "\r", "t": "\t"}
_PLAIN = '"\\[]'  # characters that a backslash may precede


@dataclass(slots=True)
class _Rule:
    """body: Lark's tokens. A name of another rule stands in it as a key of `uses`."""

    body: list[str] = field(default_factory=list)
    uses: dict[int, str] = field(default_factory=dict)  # position in `body`: the rule used there


def looks_like(grammar: str) -> bool:
    """Whether a grammar is written in GBNF. Lark has no `::=`."""
    return RULE.search(grammar) is not None


def to_lark(grammar: str) -> str:
    """Raises ValueError that says where the mistake is."""
    rules = _parsed(grammar)
    if "root" not in rules:
        raise ValueError("there is no rule root, with which a GBNF grammar begins")
    if unknown := next((name for rule in rules.values() for name in rule.uses.values() if name not in rules), None):
        raise ValueError(f"there is no rule {unknown}")
    flat = _without_recursion(rules)
    names = {name: f"T{i}" if name in flat else f"r{i}" for i, name in enumerate(rules)}
    lines = [f"{names[name]}: {_body(rule, names)}" for name, rule in rules.items()]
    return "\n".join([f"start: {names['root']}", *lines])


def _body(rule: _Rule, names: Mapping[str, str]) -> str:
    return " ".join(names[rule.uses[i]] if i in rule.uses else token for i, token in enumerate(rule.body))


def _parsed(grammar: str) -> dict[str, _Rule]:
    rules: dict[str, _Rule] = {}
    rule: _Rule | None = None
    place = 0
    while place < len(grammar):
        found = _TOKEN.match(grammar, place)
        if found is None or (rule is None and not (found["space"] or found["head"])):
            raise ValueError(_at(grammar, place) + f"{grammar[place : place + 10]!r} is not GBNF")
        if found["head"]:
            rule = rules[found["head"]] = _Rule()
        elif not found["space"] and rule is not None:
            _add(rule, found, grammar)
        place = found.end()
    return rules


def _add(rule: _Rule, found: re.Match[str], grammar: str) -> None:
    """Adds a token to a rule."""
    if found["name"]:
        rule.uses[len(rule.body)] = found["name"]
        token = found["name"]
    elif found["text"] is not None:
        token = json.dumps(_characters(found["text"], found, grammar))
    elif found["set"] is not None:
        token = f"/{_set(found['set'], found, grammar)}/"
    elif found["any"]:
        token = r"/(?s:.)/"
    elif found["sign"]:
        token = found["sign"]
    else:
        least, most = found["least"] or "0", found["most"]
        token = f"{{{least},{most if found['comma'] else least}}}"
    rule.body.append(token)


def _characters(text: str, found: re.Match[str], grammar: str) -> str:
    """A literal without its escapes."""

    def plain(escape: re.Match[str]) -> str:
        if digits := escape["two"] or escape["four"] or escape["eight"]:
            return chr(int(digits, 16))
        if escape["char"] not in (*_LETTERS, *_PLAIN):
            raise ValueError(_at(grammar, found.start()) + f"the escape {escape[0]} is not known")
        return _LETTERS.get(escape["char"], escape["char"])

    return _ESCAPE.sub(plain, text)


def _set(text: str, found: re.Match[str], grammar: str) -> str:
    """A set of characters as a regular expression has it. A dash keeps its meaning: a range, or itself at an end."""
    inverted = text.startswith("^")
    pieces = re.findall(r"\\(?:x..|u.{4}|U.{8}|.)|.", text[inverted:], re.DOTALL)
    members = [
        "-" if piece == "-" and 0 < i < len(pieces) - 1 else _member(_characters(piece, found, grammar))
        for i, piece in enumerate(pieces)
    ]
    return f"[{'^' if inverted else ''}{''.join(members)}]"


def _member(char: str) -> str:
    return char if char.isalnum() else f"\\x{{{ord(char):x}}}"


def _without_recursion(rules: Mapping[str, _Rule]) -> set[str]:
    """The rules that contain neither themselves nor a rule that does."""
    missing = {name: set(rule.uses.values()) for name, rule in rules.items()}  # rules in it that are not flat so far
    users: dict[str, list[str]] = {name: [] for name in rules}
    for name, used in missing.items():
        for each in used:
            users[each].append(name)
    flat: set[str] = set()
    ready = [name for name, used in missing.items() if not used]
    while ready:
        flat.add(done := ready.pop())
        for name in users[done]:
            missing[name].discard(done)
            if not missing[name]:
                ready.append(name)
    return flat


def _at(grammar: str, place: int) -> str:
    before: Sequence[str] = grammar[:place].split("\n")
    return f"line {len(before)}, column {len(before[-1]) + 1}: "
