"""The page's other parts: tools, reasoning, settings, the completion pad, code, words explained, the layout."""

from __future__ import annotations

import json
from typing import Any

from tests.server.browser import CONTROL, Browser
from tests.server.fake import Fake, wait_for
from tests.server.page_probes import DONE, READY, say, set_field, text
from tests.server.state import state

WEATHER = {"name": "get_weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}}


def call(index: int, name: str, *arguments: str) -> list[str | dict[str, Any]]:
    """The deltas of one call, its arguments cut in pieces."""
    start = {"index": index, "id": f"call_{index}", "type": "function", "function": {"name": name, "arguments": ""}}
    pieces = [{"index": index, "function": {"arguments": piece}} for piece in arguments]
    return [{"tool_calls": [each]} for each in (start, *pieces)]


def test_calls_of_tools_are_shown_and_answered(page: Browser, fake: Fake) -> None:
    set_field(page, "tools", json.dumps([WEATHER]))
    fake.pieces = ["Let me see. ", *call(0, "get_weather", '{"city": ', '"<b>Paris"}'), *call(1, "now", "{")]
    say(page, "Weather?")
    page.wait(DONE)
    assert fake.bodies[0]["tools"] == [{"type": "function", "function": WEATHER}]
    assert text(page, ".call .call-head code") == "get_weather\nnow" and text(page, ".answer .text") == "Let me see."
    assert text(page, ".call pre") == '{\n  "city": "<b>Paris"\n}\n{'  # text, whole or not; no markup
    page.js("document.querySelector('.call textarea').focus()")
    page.type('{"degrees": 21}')
    fake.pieces = ["21 degrees."]
    page.press("Enter", CONTROL)
    page.wait("document.querySelectorAll('.answer').length === 2 && " + DONE)
    asked, called, *results = fake.bodies[1]["messages"]
    assert asked == {"role": "user", "content": "Weather?"} and called["content"] == "Let me see. "
    functions = [{"name": "get_weather", "arguments": '{"city": "<b>Paris"}'}, {"name": "now", "arguments": "{"}]
    assert called["tool_calls"] == [
        {"id": f"call_{n}", "type": "function", "function": each} for n, each in enumerate(functions)
    ]
    assert results == [
        {"role": "tool", "tool_call_id": "call_0", "content": '{"degrees": 21}'},
        {"role": "tool", "tool_call_id": "call_1", "content": ""},
    ]
    page.open(fake.url)
    page.wait(READY)
    assert '"degrees": 21' in text(page, ".call-below") and not page.js("document.querySelector('.call textarea')")
    assert text(page, ".answer:last-child .text") == "21 degrees."


def test_results_can_be_given_after_a_reload(page: Browser, fake: Fake) -> None:
    fake.pieces = call(0, "now", "{}")
    say(page, "x")
    page.wait(DONE)
    page.open(fake.url)
    page.wait(READY)
    fake.pieces = ["noon"]
    page.click(".results button")
    page.wait("document.querySelectorAll('.answer').length === 2 && " + DONE)
    assert [message["role"] for message in fake.bodies[1]["messages"]] == ["user", "assistant", "tool"]


def test_reasoning_is_folded(page: Browser, fake: Fake) -> None:
    fake.pieces = [{"reasoning_content": "Let me "}, {"reasoning_content": "**think** <i>"}, "So: 4."]
    fake.delay = 0.15
    say(page, "2+2?")
    page.wait("document.querySelector('.reasoning summary')?.innerText === 'Thinking'")
    page.wait(DONE)
    assert text(page, ".answer > .text") == "So: 4."
    assert page.js("!document.querySelector('.reasoning').open")
    assert text(page, ".reasoning summary").startswith("Thought for ")
    page.click(".reasoning summary")
    page.wait("document.querySelector('.reasoning strong')")
    assert text(page, ".reasoning .text") == "Let me think <i>"
    page.open(fake.url)
    page.wait(READY)
    assert text(page, ".reasoning summary").startswith("Thought for ")


def test_all_settings_are_sent_and_a_wrong_one_is_shown(page: Browser, fake: Fake) -> None:
    given = {"top_k": "40", "min_p": "0.05", "presence_penalty": "0.5", "frequency_penalty": "-1",
             "repetition_penalty": "1.1", "temperature": "0.33"}  # fmt: skip
    for name, value in given.items():
        set_field(page, name, value)
    set_field(page, "stop", "END\n\\n\\n\n\na\\\\b")
    say(page, "x")
    page.wait(DONE)
    body = fake.bodies[0]
    assert {name: body[name] for name in given} == {name: float(value) for name, value in given.items()}
    assert body["stop"] == ["END", "\n\n", "a\\b"] and "tools" not in body and "seed" not in body
    wrong = {"temperature": "3", "top_p": "0", "tools": '{"name": 1}', "min_p": "2"}
    for name, value in wrong.items():
        was = page.js(f"document.querySelector('[name={name}]').value")
        set_field(page, name, value)
        say(page, "not yet")
        assert page.js("document.querySelector('#settings').open && document.activeElement.name") == name
        set_field(page, name, was)
        page.click("#close-settings")
        assert page.js("document.querySelector('#prompt').value") == "not yet"  # what was written is still there
        page.js("document.querySelector('#prompt').value = ''")
    assert len(fake.bodies) == 1
    page.open(fake.url)
    page.wait(READY)
    assert page.js("document.querySelector('[name=min_p]').value") == "0.05"


def test_tools_that_are_wrong_are_explained(page: Browser) -> None:
    for wrong, said in (("{", "this is not JSON"), ("{}", "a list"), ("[{}]", "needs a name"), ("[5]", "needs a name")):
        set_field(page, "tools", wrong)
        assert said in page.js("document.querySelector('[name=tools]').validationMessage")
    set_field(page, "tools", "")
    assert page.js("document.querySelector('[name=tools]').validity.valid")


def test_the_system_prompt_belongs_to_its_chat(page: Browser, fake: Fake) -> None:
    set_field(page, "system", "One.")
    say(page, "x")
    page.wait(DONE)
    page.click("#new-chat")
    assert page.js("document.querySelector('[name=system]').value") == "One."  # new chats begin with the latest
    set_field(page, "system", "Two.")
    say(page, "y")
    page.wait(DONE)
    assert [body["messages"][0]["content"] for body in fake.bodies] == ["One.", "Two."]
    page.js("[...document.querySelectorAll('.open')].find(node => node.title === 'x').click()")
    assert page.js("document.querySelector('[name=system]').value") == "One." and "One." in text(page, "#system")
    page.click("#system")
    assert page.js("document.activeElement.name") == "system"


def test_a_base_model_gets_a_completion_pad(page: Browser, fake: Fake) -> None:
    fake.state = state(chat_template=False)
    page.wait("document.querySelector('#pad').offsetParent")
    assert text(page, "#model option:checked") == "fake-1 (base)"
    set_field(page, "stop", "END")
    fake.pieces, fake.delay = [" upon", " a <b>", "time"], 0.15
    page.js("document.querySelector('#pad-text').focus()")
    page.type("Once")
    page.press("Enter", CONTROL)
    page.wait("document.querySelector('#pad-fresh').textContent === ' upon'")
    assert page.js("document.querySelector('#pad-text').readOnly && document.querySelector('#pad-go').hidden")
    page.wait("!document.querySelector('#pad-go').hidden")
    body = fake.bodies[0]
    assert body["prompt"] == "Once" and "messages" not in body and body["stop"] == ["END"]
    value = "document.querySelector('#pad-text').value"
    assert page.js(value) == "Once upon a <b>time" and text(page, "#pad-note").startswith("3 tokens")
    heights = page.js("[...document.querySelectorAll('.sheet-text')].map(n => n.getBoundingClientRect().height)")
    assert heights[0] == heights[1]
    page.click("#pad-again")
    wait_for(lambda: len(fake.bodies) == 2)
    assert fake.bodies[1]["prompt"] == "Once"
    page.wait("!document.querySelector('#pad-go').hidden")
    page.click("#pad-undo")
    assert page.js(value) == "Once" and page.js("document.querySelector('#pad-undo').disabled")
    fake.trouble = lambda _: 500
    page.click("#pad-go")
    page.wait("!document.querySelector('#pad-problem').hidden")
    assert text(page, "#pad-problem").startswith("no") and page.js(value) == "Once"
    page.open(fake.url)
    page.wait(READY)
    assert page.js(value) == "Once" and text(page, ".open[aria-current] span") == "Once"


def test_a_pad_can_be_stopped_and_left(page: Browser, fake: Fake) -> None:
    """Also one of a model that chats, which has its button beside "New chat"."""
    fake.pieces, fake.delay = [" word"] * 100, 0.05
    page.click("[data-new=pad]")
    page.js("document.querySelector('#pad-text').focus()")
    page.type("One")
    page.click("#pad-go")
    page.wait("document.querySelector('#pad-text').value.length > 8")
    page.press("Escape")
    page.wait("!document.querySelector('#pad-go').hidden")
    wait_for(lambda: fake.cut_off == 1)
    assert text(page, "#pad-note") == "stopped"
    page.click("#pad-go")
    page.click("#new-chat")
    assert page.js("!document.querySelector('#chat').hidden && document.querySelector('#pad').hidden")
    page.js("document.querySelector('.open').click()")
    page.wait("document.querySelector('#pad-text').readOnly")
    page.click("#pad-stop")
    page.wait("!document.querySelector('#pad-text').readOnly")


def test_a_chat_that_meets_a_base_model_is_told(page: Browser, fake: Fake) -> None:
    say(page, "x")
    page.wait(DONE)
    fake.state = state(chat_template=False)
    page.wait("document.querySelector('#banner p')?.innerText.startsWith('fake-1 is a base model')")
    page.click("#banner button")
    assert page.js("document.querySelector('#pad').offsetParent && document.querySelector('#banner').hidden")


CODE = {
    "python": ('x = "a" # b\nif None: 0x1f', "string comment keyword keyword number"),
    "js": ("const s = `a\n${b}`; // c", "keyword string comment"),
    "json": ('{"a": ["b", 1.5e3, true]}', "keyword string number number"),
    "c++": ("auto n = 1'000; /* open", "keyword number number comment"),
    "rust": ("fn f<'a>(s: &'a str) { 'x' }", "keyword keyword string"),
    "sh": ("echo '$a' $HOME # it's", "keyword string number comment"),
    "html": ('<a href="x">it\'s</a><!-- y', "keyword string keyword keyword keyword comment"),
    "sql": ("select 'it''s' FROM t -- x", "keyword string keyword comment"),
    "diff": ("@@ 1\n+a\n-b\n c", "comment inserted deleted"),
    "yaml": ("a: 1\n- b: 'c' # d", "keyword number keyword string comment"),
    "unknown": ("if x # y", ""),
}


def test_code_is_coloured(page: Browser, fake: Fake) -> None:
    fake.pieces = [f"```{language}\n{code}\n```\n" for language, (code, _) in CODE.items()]
    say(page, "x")
    page.wait(DONE)
    found = page.js("""[...document.querySelectorAll('pre code')].map(code => [code.textContent,
        [...code.children].map(node => node.className.replace('code-', '')).join(' ')])""")
    assert found == [[code, kinds] for code, kinds in CODE.values()]


def test_no_code_takes_long_to_colour(page: Browser) -> None:
    """Unclosed strings and comments included: no pattern tries the same text again and again."""
    hard = ['"a', "'a", "`a", "`\\", "/*", "a-", "<a", "aaaa", '"""', "$", " :"]
    found = page.js(f"""import('/text/syntax.js').then(({{ coloured }}) => {json.dumps(hard)}.flatMap((part) =>
        ['python', 'js', 'css', 'html', 'yaml', 'sh', 'c', 'json'].map((language) => {{
            const from = performance.now();
            coloured(part.repeat(30000 / part.length), language);
            return [performance.now() - from, language, part]; }})))""")
    assert len(found) == 8 * len(hard) and max(found)[0] < 500, max(found)


def test_words_are_explained(page: Browser, fake: Fake) -> None:
    """Every word that is marked has an explanation; it comes on hover, on focus and on a tap, and goes with Esc."""
    fake.cached_tokens = 4
    fake.pieces = ["a", *call(0, "now", "{}")]
    say(page, "x")
    page.wait(DONE)
    names = page.js("[...document.querySelectorAll('[data-term]')].map(node => node.dataset.term)")
    assert {"ttft", "itl", "block", "token", "top-k", "min-p", "tool call", "seed"} <= {*names}
    known = page.js("""Promise.all([import('/text/terms.js'), import('/lib/api.js')]).then(async ([terms, api]) =>
        [...terms.entries(await api.getGlossary()).keys()])""")
    assert {*names} <= {*known}
    tip = "document.querySelector('#tip:popover-open')"
    box = page.js("document.querySelector('[data-term=ttft]').getBoundingClientRect().toJSON()")
    page.call("Input.dispatchMouseEvent", type="mouseMoved", x=box["x"] + 5, y=box["y"] + 5)
    page.wait(tip)
    assert text(page, "#tip").startswith("Time to first token. From the arrival")
    page.call("Input.dispatchMouseEvent", type="mouseMoved", x=640, y=700)
    page.wait(f"!{tip}")
    page.js("document.querySelector('[data-term=itl]').focus()")
    page.wait(tip)
    assert page.js("document.activeElement.getAttribute('aria-describedby')") == "tip"
    page.press("Escape")
    page.wait(f"!{tip}")
    page.click("#open-settings")
    page.js("document.querySelector('[name=temperature]').focus()")
    page.press("Tab")
    page.wait(tip)
    assert "have this probability together" in text(page, "#tip")  # top-p, over the dialog
    page.click("#close-settings")


def test_the_live_view_can_be_hidden(page: Browser, fake: Fake) -> None:
    shown = "Boolean(document.querySelector('#live').offsetParent)"
    assert page.js(shown) and page.js("document.querySelector('#toggle-live').getAttribute('aria-pressed')") == "true"
    page.click("#toggle-live")
    assert not page.js(shown)
    page.js("new Promise(done => setTimeout(done, 200))")  # the answer to a question asked before
    before = fake.paths.count("/octavo/state")
    page.js("new Promise(done => setTimeout(done, 1500))")
    assert fake.paths.count("/octavo/state") - before <= 1  # only the status line asks
    page.open(fake.url)
    page.wait(READY)
    assert (
        not page.js(shown) and page.js("document.querySelector('#toggle-live').getAttribute('aria-pressed')") == "false"
    )
    page.click("#toggle-live")
    assert page.js(shown)


def test_the_list_can_be_hidden_and_is_a_drawer_on_a_phone(page: Browser, fake: Fake) -> None:
    say(page, "hello")
    page.wait(DONE)
    shown = "document.querySelector('#chats').checkVisibility()"
    page.click("#toggle-list")
    assert not page.js(shown) and page.js("document.querySelector('#new-chat').checkVisibility()")
    page.click("#toggle-list")
    assert page.js(shown) and not page.js("document.querySelector('#new-chat').checkVisibility()")
    page.window(390, 844, phone=True)
    page.wait(f"!{shown}")
    page.click("#toggle-list")
    assert page.js(shown) and page.js("document.querySelector('#toggle-list').getAttribute('aria-expanded')") == "true"
    page.js("document.querySelector('.more').click()")
    assert page.js(f"{shown} && document.querySelector('#chat-menu').matches(':popover-open')")
    page.press("Escape")  # the menu
    page.press("Escape")  # the drawer
    page.wait(f"!{shown}")
    page.click("#toggle-list")
    page.click(".open")
    page.wait(f"!{shown}")
    page.window(1280, 860)
    page.wait(shown)
