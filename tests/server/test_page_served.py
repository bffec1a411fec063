"""The page and the load generator on a real server show what the engine does."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from octavo.cli.main import main
from tests.server import browser as chromium
from tests.server.browser import Browser
from tests.server.harness import Server
from tests.server.page_probes import DONE, READY, say, text


@pytest.fixture(scope="module")
def page(smollm: Server) -> Iterator[Browser]:
    with chromium.browser() as opened:
        opened.window(1280, 860)
        opened.open(smollm.url)
        opened.wait(READY)
        yield opened
        assert opened.complaints == []


def test_a_conversation_and_the_blocks_that_hold_it(page: Browser) -> None:
    page.js("document.querySelector('[name=temperature]').value = 0")
    page.js("document.querySelector('[name=max_tokens]').value = 300")
    say(page, "Write a long story about a printer who folds paper into eight leaves.")
    page.wait("document.querySelector('.requests small')", 30)  # the sequence of this chat, on the map
    page.wait("Number(document.querySelector('.legend b').innerText) > 0")
    assert text(page, ".tile b").split()[0] == "1"
    page.wait(DONE, 60)
    note = text(page, ".answer .note")
    assert "tokens ·" in note and "first token after" in note
    page.wait("document.querySelector('.tile b').innerText === '0'")
    cached = page.js("document.querySelector('.key.cached').parentElement.querySelector('b').innerText")
    assert int(cached.replace(",", "")) > 0  # the conversation's blocks stay, for its next turn
    say(page, "Go on.")
    page.wait("document.querySelectorAll('.answer[aria-busy=false] .note').length === 2", 60)
    assert "of the prompt cached" in text(page, ".answer:last-child .note")


def test_stop_frees_the_engine(page: Browser, smollm: Server) -> None:
    say(page, "Count to one thousand.")
    page.wait("document.querySelector('.answer:last-child .text').innerText.length > 5", 30)
    page.press("Escape")
    page.wait(DONE)
    assert text(page, ".answer:last-child .note") == "stopped"
    smollm.wait_idle()


def test_bench_serving_agrees_with_the_server(smollm: Server, capsys: pytest.CaptureFixture[str]) -> None:
    before = smollm.state()["snapshot"]["stats"]["generation_tokens"]
    options = (
        "--requests 8 --concurrency 4 --prompt-words 30 --prefix-words 60 --output-tokens 12 --ignore-eos --warmup 0"
    )
    assert main(["bench", "serving", "--url", smollm.url, *options.split(), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["completed"] == 8 and found["errors"] == {} and found["tokens_counted_by"] == "server"
    assert found["output_tokens"] == 96
    assert smollm.state()["snapshot"]["stats"]["generation_tokens"] - before == 96
    assert found["cached_tokens"] > 0 and found["prompt_tokens"] > 8 * 90
