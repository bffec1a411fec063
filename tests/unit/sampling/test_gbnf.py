"""llama.cpp's grammars: what they allow is what llama.cpp would accept."""

from __future__ import annotations

import re
from itertools import islice, product

import pytest

from octavo.sampling.gbnf import looks_like, to_lark
from octavo.sampling.grammar import Compiler
from octavo.sampling_params import StructuredOutputs
from tests.unit.sampling.test_grammar import SIZE, WORDS

JSON = r"""
# Source: json.gbnf of llama.cpp, shortened.
root   ::= object
value  ::= object | array | string | number | ("true" | "false" | "null") ws
object ::=
  "{" ws (
            string ":" ws value
    ("," ws string ":" ws value)*
  )? "}" ws
array  ::= "[" ws ( value ("," ws value)* )? "]" ws
string ::=
  "\"" (
    [^"\\\x7F\x00-\x1F] |
    "\\" (["\\bfnrt] | "u" [0-9a-fA-F]{4}) # escapes
  )* "\"" ws
number ::= ("-"? ([0-9] | [1-9] [0-9]{0,15})) ("." [0-9]+)? ([eE] [-+]? [0-9] [1-9]{0,15})? ws
ws ::= | " " | "\n" [ \t]{0,20}
"""


COMPILER = Compiler(WORDS, SIZE)


def accepts(grammar: str, text: str) -> bool:
    """Whether the grammar allows this text and then its end."""
    matcher = COMPILER.compile(StructuredOutputs(grammar=grammar)).matcher()
    tokens = list(text.encode())
    for i, token in enumerate([*tokens, WORDS.eos_ids[0]]):
        mask = matcher.mask_after(tokens[:i], i)
        if not mask[token // 32] >> token % 32 & 1:
            return False
    return True


@pytest.mark.parametrize(
    ("grammar", "pattern"),
    [
        ('root ::= "a" | "b" "c"?', "a|bc?"),
        ('root ::= "a"\n  | "b"\n', "a|b"),
        ("root ::= item+\nitem ::= [ab] [^ab]", "([ab][^ab])+"),
        ('root ::= word "c"\nword ::= [a-c]+', "[abc]+c"),
        ("root ::= [b-]{2} [-c]{,1}", "[b-]{2}[-c]?"),
        ('root ::= ("a" | "b")* "-" # the end', "[ab]*-"),
        (r'root ::= "\x61" "\u0062" [\U00000063\]]', r"ab[c\]]"),
        ('root ::= . "a"', "(?s:.)a"),
        ('root ::= start foo-bar\nstart ::= "a"\nfoo-bar ::= fooBar\nfooBar ::= "b"', "ab"),
        ('root ::= "(" root ")" | "a"', r"a|\(a\)|\(\(a\)\)"),
        ('root ::= root "a" | "b"', "ba*"),
    ],
)  # fmt: skip
def test_it_allows_what_the_grammar_says(grammar: str, pattern: str) -> None:
    texts = ["".join(chars) for size in range(5) for chars in islice(product("abc-]()", repeat=size), 500)]
    wanted = {text for text in texts if re.fullmatch(pattern, text)}
    assert wanted and {text for text in texts if accepts(grammar, text)} == wanted


@pytest.mark.parametrize(
    ("text", "fits"),
    [('{"a": [1, -2.5e3, "\\n", {}]}', True), ('{"a": }', False), ('{"a": "\x01"}', False), ("[1]", False)],
)
def test_json(text: str, fits: bool) -> None:
    assert accepts(JSON, text) is fits


@pytest.mark.parametrize(
    ("grammar", "reason"),
    [
        ('first ::= "a"', "no rule root"),
        ("root ::= other", "no rule other"),
        ('root ::= "a', "line 1, column 10: '\"a' is not GBNF"),
        ('root ::= "a"\nroot2 ::= %', "line 2, column 11: '%' is not GBNF"),
        (r'root ::= "\q"', r"line 1, column 10: the escape \q is not known"),
    ],
)  # fmt: skip
def test_mistakes_are_named_with_their_place(grammar: str, reason: str) -> None:
    with pytest.raises(ValueError, match=re.escape(reason)):
        to_lark(grammar)


def test_rules_that_lead_to_no_recursion_are_terminals() -> None:
    chain = "\n".join(f"a{i} ::= a{i + 1}" for i in range(3000)) + '\na3000 ::= "a"\nroot ::= a0 root | "b"'
    lark = to_lark(chain)
    assert lark.startswith("start: r3001\n") and "\nT0: T1\n" in lark
    assert lark.endswith('\nr3001: T0 r3001 | "b"')


def test_lark_is_not_taken_for_it() -> None:
    assert looks_like(JSON) and not looks_like('start: "::=" | "a ::="\nb: "x"')
