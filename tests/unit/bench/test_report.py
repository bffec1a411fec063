"""A comparison as a table and as a self-contained page."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from typing import Any

import pytest

from octavo.bench.limits import to_json
from octavo.bench.report import absent, cells, html, number, table
from tests.unit.bench.test_limits import MADE_UP


def row(engine: str, batch: int, prompt: int, prefill: float, decode: float) -> dict[str, Any]:
    place = {"engine": engine, "batch": batch, "prompt_tokens": prompt, "gen_tokens": 8}
    return place | {"prefill_tok_s": prefill, "decode_tok_s": decode}


def engine(name: str, startup: float | None, note: str = "", **settings: Any) -> dict[str, Any]:
    version = None if note else "1.2"
    return {"engine": name, "version": version, "startup_s": startup, "peak_rss": 1, "note": note, "settings": settings}


RESULT = {
    "model": "/models/<m>.gguf",
    "threads": 2,
    "workload": {"gen_tokens": 8, "repeat": 3, "rows": [[1, 128], [4, 128], [1, 512]]},
    "engines": [
        engine("octavo", 0.2, model="m"),
        engine("llama.cpp", 1.5, model="m", repack=True),
        engine("llama.cpp", 0.9, model="m", repack=False),
        engine("vllm", None, "not installed & <hidden>", model="m"),
    ],
    "rows": [
        row("octavo", 1, 128, 900.0, 80.0),
        row("octavo", 4, 128, 1000.0, 200.0),
        row("octavo", 1, 512, 1200.0, 70.0),
        row("llama.cpp", 1, 128, 300.0, 40.0),
        row("llama.cpp", 1, 512, 400.0, 35.0),
    ],
    "ratios": [
        {
            "batch": 1,
            "prompt_tokens": 128,
            "prefill": 3.0,
            "best_prefill": "llama.cpp",
            "decode": 2.0,
            "best_decode": "llama.cpp",
        },
        {
            "batch": 1,
            "prompt_tokens": 512,
            "prefill": 3.0,
            "best_prefill": "llama.cpp",
            "decode": 2.0,
            "best_decode": "llama.cpp",
        },
    ],
}


def test_the_table_has_the_long_prefill_and_a_decode_a_batch() -> None:
    titles, rows = table(RESULT)
    assert titles == ["engine", "prefill 512, B=1", "decode B=1", "decode B=4", "ready after"]
    assert rows == [
        ["octavo", "1,200", "80.0", "200", "0.2 s"],
        ["llama.cpp", "400", "40.0", "-", "0.9 s"],
        ["octavo / best peer", "3.00 x llama.cpp", "2.00 x llama.cpp", "", ""],
    ]
    assert [cell.batch for cell in cells(RESULT)] == [1, 1, 4]


def test_without_another_engine_there_is_no_ratio() -> None:
    _, rows = table({**RESULT, "ratios": []})
    assert [line[0] for line in rows] == ["octavo", "llama.cpp"]


def test_a_speed_that_could_not_be_measured_is_left_open() -> None:
    rows = [dict(line, decode_tok_s=None) for line in RESULT["rows"]]  # type: ignore[attr-defined]
    ratios = [dict(line, decode=None) for line in RESULT["ratios"]]  # type: ignore[attr-defined]
    _, lines = table({**RESULT, "rows": rows, "ratios": ratios})
    assert lines[0] == ["octavo", "1,200", "-", "-", "0.2 s"] and lines[-1][1:3] == ["3.00 x llama.cpp", ""]
    assert "<svg" in html({**RESULT, "rows": rows, "ratios": ratios})


def test_what_is_absent_says_why() -> None:
    assert list(absent(RESULT)) == [("vllm", "not installed & <hidden>")]


@pytest.mark.parametrize(("value", "text"), [(None, "-"), (0.04, "0.0"), (99.94, "99.9"), (1234.6, "1,235")])
def test_numbers_are_short(value: float | None, text: str) -> None:
    assert number(value) == text


class Balanced(HTMLParser):
    """Raises if a closed tag was not open."""

    VOID = ("meta", "rect", "line", "circle", "br")

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[str] = []

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.seen.append(tag)
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self.open.pop() == tag


def test_the_page_stands_alone() -> None:
    page = html({**RESULT, "limits": to_json(MADE_UP), "roofline": [{"name": "p", "intensity": 9.0, "gops": 3.0}]})
    parser = Balanced()
    parser.feed(page)
    assert not parser.open
    assert parser.seen.count("svg") == 4  # a chart a column, and the roofline
    assert not re.search(r"(?:src|href)\s*=|@import|url\(|<script", page)
    assert "&lt;m&gt;.gguf" in page and "not installed &amp; &lt;hidden&gt;" in page
    assert "llama.cpp (repack=False) 1.2" in page


def test_a_page_without_limits_has_no_roofline() -> None:
    assert "<h2>" not in html(RESULT)
