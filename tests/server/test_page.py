"""The web page in a headless Chromium, against a server that answers by script."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from tests.server.browser import SHIFT, Browser
from tests.server.fake import Fake, wait_for
from tests.server.page_probes import CELL, CONTRAST, DONE, DRAWN, PAGE, READY, say, set_field, text
from tests.server.state import state


def test_it_needs_nothing_but_its_own_files() -> None:
    """No build step, nothing inline (a strict policy would block it), nothing from elsewhere, no HTML from text."""
    index = (PAGE / "index.html").read_text()
    named = re.findall(r'(?:src|href)="([^"#]+)"', index)
    assert named and all((PAGE / name).is_file() for name in named)
    assert not re.search(r"<style|style=|<script(?![^>]*src)|\son\w+=|javascript:", index)
    for path in PAGE.rglob("*.js"):
        source = path.read_text()
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|new Function", source)
        imported = re.findall(r'from "(.+?)"', source)
        assert all((path.parent / name).is_file() for name in imported), path.name
    assert not re.search(r"https?://(?!www\.w3\.org)", "".join(p.read_text() for p in PAGE.rglob("*.[chs][stv][msg]*")))


def test_an_answer_streams_in(page: Browser, fake: Fake) -> None:
    fake.delay, fake.cached_tokens = 0.15, 7
    say(page, "Good morning")
    page.wait("document.querySelector('.answer[aria-busy=true] .text').innerText.startsWith('Hello')")
    page.wait(DONE)
    assert text(page, ".user") == "Good morning" and text(page, ".answer .text") == "Hello there."
    note = r"3 tokens · 7 of the prompt cached · first token after \d+ ms · [\d.]+ tokens/s$"
    assert re.match(note, text(page, ".answer .note"))
    body = fake.bodies[0]
    assert body["model"] == "fake-1" and body["stream"] and body["stream_options"] == {"include_usage": True}
    assert body["messages"] == [{"role": "user", "content": "Good morning"}]
    assert all(url.startswith(fake.url) for url in page.requested if not url.startswith(("about:", "chrome")))
    say(page, "And again")
    page.wait("document.querySelectorAll('.answer[aria-busy=false]').length === 2")
    assert [message["role"] for message in fake.bodies[1]["messages"]] == ["user", "assistant", "user"]


def test_what_a_model_says_is_never_markup(page: Browser, fake: Fake) -> None:
    attack = (
        "<img src=x onerror='hacked=1'> [a](javascript:hacked=1) ![b](data:text/html,x) <script>hacked=1</script>\n"
    )
    attack += "```html\n</code><img src=x onerror='hacked=1'>\n```\n[good](https://example.org/?a=1&b=%22) \"><b>x</b>"
    fake.pieces = list(attack)
    say(page, "<b onmouseover='hacked=1'>me</b>")
    page.wait(DONE)
    assert page.js("typeof hacked") == "undefined"
    assert page.js("document.querySelectorAll('.message :is(img, script, iframe, b)').length") == 0
    assert page.js("[...document.querySelectorAll('.message a')].map(a => a.href)") == [
        "https://example.org/?a=1&b=%22"
    ]
    assert "<script>hacked=1</script>" in text(page, ".answer") and "<b onmouseover" in text(page, ".user")


def test_markdown(page: Browser, fake: Fake) -> None:
    fake.pieces = [
        "# Top\nA *b* **c** `d*e*`\n\n3. one\n   - in\n4. two\n\n> q\n\n| h | i |\n|---|---|\n| 1 | 2 |\n\n",
        "```py\nif a_b_c:\n    pass\n\n# no heading\n```\nsnake_case_name 2 * 3 * 4",
    ]
    say(page, "x")
    page.wait(DONE)
    tags = page.js("[...document.querySelectorAll('.text *')].map(n => n.localName).join(' ')")
    assert tags == (
        "h3 p em strong code ol li ul li li blockquote p div table thead tr th th tbody tr td td "
        "figure figcaption span button pre code span span span p"
    )
    assert text(page, ".text pre") == "if a_b_c:\n    pass\n\n# no heading"
    assert page.js("document.querySelector('.text ol').start") == 3
    assert text(page, ".text > p:last-child") == "snake_case_name 2 * 3 * 4"


def test_no_text_takes_long_to_show(page: Browser) -> None:
    """Unclosed Markdown marks stay fast, because each pattern is bounded."""
    for hard in ("**a ", "[", "`` a", "_a ", "> ", "- ", "~~x ", "\\n\\n|"):
        took = page.js(f"""import('/text/markdown.js').then(({{ update }}) => {{
            const from = performance.now();
            update(document.createElement('div'), {hard!r}.repeat(15000));
            return performance.now() - from; }})""")
        assert took < 2000, f"{hard!r}: {took:.0f} ms"


def test_events_are_read_however_they_are_cut(page: Browser) -> None:
    stream = ": note\\r\\ndata: é1\\r\\n\\r\\ndata:a\\ndata: b\\n\\nevent: x\\ndata: €\\r\\r"
    found = page.js(f"""import('/lib/sse.js').then(async ({{ events }}) => {{
        const results = [];
        for (const size of [1, 2, 3, 1000]) {{
            const bytes = new TextEncoder().encode("{stream}");
            const body = new ReadableStream({{ start(to) {{
                for (let at = 0; at < bytes.length; at += size) to.enqueue(bytes.slice(at, at + size));
                to.close(); }} }});
            const seen = [];
            for await (const data of events(body)) seen.push(data);
            results.push(seen);
        }}
        return results; }})""")
    assert found == [["é1", "a\nb", "€"]] * 4


def test_the_keyboard_does_all(page: Browser, fake: Fake) -> None:
    fake.pieces, fake.delay = ["word "] * 200, 0.05
    page.js("document.querySelector('#prompt').focus()")
    page.type("one")
    page.press("Enter", SHIFT)
    page.type("two")
    assert page.js("document.querySelector('#prompt').value") == "one\ntwo" and not fake.bodies
    page.press("Enter")
    page.wait("document.querySelector('.answer .text').innerText.startsWith('word')")
    assert page.js("document.querySelector('#send').hidden && !document.querySelector('#stop').hidden")
    page.press("Escape")
    page.wait(DONE)
    assert text(page, ".answer .note") == "stopped" and 1 <= len(text(page, ".answer .text").split()) < 200
    wait_for(lambda: fake.cut_off == 1)  # the page closes the stream, so the server stops generating


def test_focus_can_be_seen_wherever_it_goes(page: Browser, fake: Fake) -> None:
    say(page, "x")
    page.wait(DONE)
    seen = set()
    for _ in range(40):
        page.press("Tab")
        name, outline, border = page.js("""(() => {
            const n = document.activeElement, outline = getComputedStyle(n).outlineStyle;
            return [n.id || n.className || n.localName, outline, getComputedStyle(n.form ?? n).borderColor]; })()""")
        if name == "body":  # the way round leads through the browser's own buttons
            continue
        seen.add(name)
        accent = page.js("getComputedStyle(document.querySelector('.spark .line')).stroke")
        assert outline != "none" or border == accent, f"no sign of the focus on {name}"
    assert {
        "toggle-list",
        "new",
        "open",
        "toggle-live",
        "open-settings",
        "toggle-theme",
        "model",
        "map",
        "term",
    } <= seen


def test_a_reload_keeps_the_conversation_and_new_chat_ends_it(page: Browser, fake: Fake) -> None:
    say(page, "remember")
    page.wait(DONE)
    page.open(fake.url)
    page.wait(READY)
    assert text(page, ".user") == "remember" and text(page, ".answer .text") == "Hello there."
    page.click("#new-chat")
    assert page.js("!document.querySelector('#welcome').hidden") and text(page, ".message") == ""
    page.open(fake.url)
    assert text(page, ".message") == ""


def test_settings_go_into_the_request(page: Browser, fake: Fake) -> None:
    page.click("#open-settings")
    values = {"temperature": "0", "top_p": "", "max_tokens": "9", "seed": "5", "system": "Be brief."}
    for name, value in values.items():
        set_field(page, name, value)
    page.click("#settings-form [type=submit]")
    assert page.js("!document.querySelector('#settings').open")
    page.js("document.querySelector('#model').value = 'fake-2'")
    say(page, "x")
    page.wait(DONE)
    body = fake.bodies[0]
    assert [body.get(name) for name in ("model", *values)] == ["fake-2", 0, None, 9, 5, None]
    assert body["messages"][0] == {"role": "system", "content": "Be brief."}
    page.click("#reset-settings")
    assert page.js("document.querySelector('[name=temperature]').value") == "0.7"


def test_a_key_is_asked_for_and_not_kept_for_ever(window: Browser, fake: Fake) -> None:
    """Settings open at the field by themselves: at the start without a key, and whenever a key is refused."""
    fake.key = "sesame"
    window.open(fake.url)
    window.wait("document.querySelector('#settings').open && document.activeElement.name === 'key'")
    assert text(window, "#key-problem") == "This server needs an API key."
    window.click("#close-settings")
    assert text(window, "#status") == "needs an API key"
    assert "This server needs an API key." in text(window, "#banner")
    window.click("#banner button")
    set_field(window, "key", "wrong")
    window.click("#close-settings")
    window.wait("document.querySelector('#key-problem').innerText === 'The server does not know this key.'")
    window.click("#close-settings")
    say(window, "x")
    window.wait(DONE)
    assert "an API key is needed" in text(window, ".answer .problem[role=alert]")
    assert window.js("document.querySelector('#settings').open && document.activeElement.name") == "key"
    set_field(window, "key", "sesame")
    window.click("#close-settings")
    window.wait(READY)
    window.wait("document.querySelector('#status').innerText === 'ready'")
    assert window.js("document.querySelector('#banner').hidden")
    window.click(".retry")
    window.wait("document.querySelector('.answer .note')?.innerText.startsWith('3')")
    assert not window.js("JSON.stringify(localStorage).includes('sesame')")


@pytest.mark.parametrize(
    ("trouble", "said"),
    [
        (429, "too busy Try again in 2 s."),
        (500, "no"),
        ("event", "the engine process failed"),
        ("silent", "The stream ended before the answer was complete."),
        ("cut", "The connection broke off before the answer was complete."),
    ],
)
def test_trouble_is_shown_and_can_be_tried_again(page: Browser, fake: Fake, trouble: Any, said: str) -> None:
    fake.trouble = lambda number: trouble if number == 0 else None
    say(page, "x")
    page.wait(DONE)
    shown = text(page, ".answer .problem p")
    assert shown.startswith(said.split(" Try")[0]) and ("in 2 s" in shown) == (trouble == 429 or trouble == 500)
    if isinstance(trouble, str):
        assert text(page, ".answer .text") == "Hello"  # the partial answer is kept
    page.click(".answer .retry")
    page.wait("document.querySelector('.answer .note')?.innerText.startsWith('3')")
    assert text(page, ".answer .text") == "Hello there." and fake.bodies[1]["messages"] == fake.bodies[0]["messages"]


def test_the_live_view_shows_what_the_engine_does(page: Browser) -> None:
    page.wait("document.querySelector('.tile b').innerText === '2'")
    assert text(page, ".tile b").split() == ["2", "3"]  # 1 in the engine and 2 in the queue wait
    assert text(page, ".spark b").split("\n") == ["120", "100 ms", "8.0 ms"]
    assert "p99 100 ms" in text(page, ".sparks") and "most 140" in text(page, ".tiles")
    legend = " ".join(text(page, ".live section:nth-of-type(1) .legend").split())
    assert legend == "used 5 shared 4 cached 5 free 6"
    assert "45 % in use · 32 tokens each" in text(page, ".section-head")
    rows = text(page, ".requests tbody tr").split("\n")
    assert [row.split() for row in rows] == [["…aa1111", "100", "64", "50"], ["…bb2222", "300", "64", "\u2013"]]
    assert page.js("document.querySelector('.requests progress').value") == pytest.approx(128 / 300, abs=1e-3)
    meters = " ".join(text(page, "#live-body > div:last-child").split())
    assert "25 % of prompt tokens reused" in meters and "70 % accepted · 3.10 tokens per step" in meters
    assert "20 % of other tokens loaded" in meters and "from disk 4 blocks" in meters and "in 12 MB in 0.5 s" in meters
    assert "141 MB resident" in meters and "NVIDIA H100: 7" in meters and "KV cache 30 MB" in meters
    assert page.js("document.querySelector('.spark .line').getAttribute('d').split('L').length") == 59


def test_the_live_view_is_of_the_chosen_model(page: Browser, fake: Fake) -> None:
    """Also where that was chosen by a name that is not its main one."""
    second = state(id="second", snapshot={"stats": {"running": 7}})["models"]
    fake.state = state() | {"models": state()["models"] + second}
    page.js("document.querySelector('#model').value = 'fake-2'")
    page.wait("document.querySelector('.tile b').innerText === '7'")
    page.js("document.querySelector('#model').value = 'fake-1'")
    page.wait("document.querySelector('.tile b').innerText === '2'")


def test_the_own_request_is_marked(page: Browser, fake: Fake) -> None:
    fake.pieces, fake.delay = ["word "] * 200, 0.05
    say(page, "x")
    page.wait("document.querySelector('.requests small')")
    assert "this chat" in text(page, ".requests tbody tr:nth-child(1)")
    page.press("Escape")
    page.wait("!document.querySelector('.requests small')")


def test_blocks_differ_in_form_not_in_colour_alone(page: Browser) -> None:
    page.wait(DRAWN)
    shared, own, other, cached, free = (page.js(f"({CELL})({index})") for index in (0, 4, 7, 9, 14))
    assert own["share"] > 0.9 and own["colours"] == 1 and own["first"] != other["first"]
    assert shared["first"] == own["first"] and shared["colours"] > 1  # the owner's colour, with a mark in it
    assert free["share"] < 0.4 < own["share"] and free["share"] < cached["share"] < own["share"]


def test_the_map_can_be_walked_over(page: Browser) -> None:
    page.wait(DRAWN)
    page.js("document.querySelector('.legend').scrollIntoView()")
    page.js("document.querySelector('#stop').focus(); document.querySelector('#model').focus()")
    page.press("Tab")  # with the keyboard, so that the focus is a visible one
    page.js("document.querySelector('.map').focus()")
    tips = []
    for _ in range(15):
        tips.append(text(page, ".tip"))
        page.press("ArrowRight")
    assert tips[0] == "Block 0: shared by 2 sequences, including …aa1111" and tips[4] == "Block 4: used by …aa1111"
    assert tips[7] == "Block 7: used by …bb2222" and tips[9].startswith("Block 9: cached")
    assert tips[14] == "Block 14: free"
    page.press("Escape")
    assert page.js("document.querySelector('.tip').hidden")
    label = page.js("document.querySelector('.map').getAttribute('aria-label')")
    assert "20 blocks: 5 used, 4 shared, 5 cached, 6 free" in label


def test_layouts_fit_any_pool(page: Browser) -> None:
    for blocks, width in [(1, 392), (100, 392), (1024, 358), (5000, 392), (200_000, 392), (50, 20)]:
        grid = page.js(f"import('/live/blocks.js').then(({{ layout }}) => layout({blocks}, {width}))")
        assert grid["cells"] * grid["each"] >= blocks and grid["columns"] * grid["rows"] >= grid["cells"]
        assert grid["columns"] * grid["pitch"] <= width + 3 and grid["size"] >= 3


def test_the_glossary_is_that_of_the_documentation() -> None:
    documented = Path(__file__).parents[2] / "docs" / "glossary.md"
    same = (PAGE / "glossary.md").read_text() == documented.read_text()
    assert same, "run: cp docs/glossary.md src/octavo/server/page/"


def test_the_glossary_explains_the_live_view(page: Browser, fake: Fake) -> None:
    page.click("#open-glossary")
    page.wait("document.querySelectorAll('#glossary-body li').length > 40")
    terms = text(page, "#glossary-body strong").replace(", ", "\n").split("\n")
    assert {"TTFT", "ITL", "Block", "Used", "shared", "cached", "free", "Sequence", "Speculation"} <= {*terms}
    assert page.js("getComputedStyle(document.querySelector('#glossary-body')).overflowY") == "auto"
    page.press("Escape")
    assert page.js("!document.querySelector('#glossary').open")
    page.click("#open-glossary")
    assert fake.paths.count("/glossary.md") == 1


@pytest.mark.parametrize(
    ("changes", "status", "problem"),
    [
        ({"state": "loading", "progress": 0.4, "info": None, "snapshot": None}, "loading 40 %", ""),
        ({"state": "waiting", "problem": "the process ended", "snapshot": None}, "restarting", "the process ended"),
        ({"state": "stopped", "info": None, "snapshot": None, "recent_ttft": []}, "not loaded", ""),
        ({"snapshot": {}}, "ready", ""),
    ],
)
def test_an_engine_that_is_not_at_work(
    page: Browser, fake: Fake, changes: dict[str, Any], status: str, problem: str
) -> None:
    fake.state = state(**changes)
    page.wait(f"document.querySelector('#status').innerText.replace('\\u00a0', ' ') === {status!r}")
    assert problem in text(page, "#banner")


def test_a_server_that_is_gone_is_said_to_be_and_found_again(page: Browser, fake: Fake) -> None:
    page.js("window.realFetch = fetch; window.fetch = () => Promise.reject(new TypeError('no')), 0")
    page.wait("document.querySelector('#status').innerText === 'no connection'")
    page.js("window.fetch = realFetch, 0")
    page.wait("document.querySelector('#status').innerText === 'ready'")


def test_on_a_phone(page: Browser, fake: Fake) -> None:
    fake.pieces = ["```\n" + "long " * 80 + "\n```\n" + "unbroken" * 60]
    page.window(390, 844, phone=True)
    say(page, "x" * 200)
    page.wait(DONE)
    for tab in ("chat", "live"):
        page.click(f"#tab-{tab}")
        other = {"chat": "#live", "live": "#chat"}[tab]
        assert page.js(f"document.querySelector({other!r}).offsetParent") is None
        assert page.js("document.documentElement.scrollWidth") == 390
        wide = page.js("""[...document.querySelectorAll('main *')].filter(n => n.checkVisibility()
            && !n.closest('pre, .hidden') && n.getBoundingClientRect().right > 390.5).map(n => n.outerHTML)""")
        assert wide == []
    small = page.js("""[...document.querySelectorAll('button')].filter(n => n.checkVisibility())
        .map(n => n.getBoundingClientRect()).filter(r => Math.min(r.width, r.height) < 24).length""")
    assert small == 0  # WCAG 2.5.8
    page.click("#open-glossary")
    page.wait("document.querySelector('#glossary-body li')")
    edges = page.js("document.querySelector('#glossary').getBoundingClientRect().toJSON()")
    assert edges["left"] >= 0 and edges["right"] <= 390


@pytest.mark.parametrize("dark", [False, True])
def test_contrast(page: Browser, fake: Fake, dark: bool) -> None:
    """WCAG AA: 4.5:1 for every text: chats, calls, an error, a notice, open dialogs, the pad."""
    function = {"name": "now", "arguments": '{"a": ["b", 1]}'}
    call = {"tool_calls": [{"index": 0, "id": "c", "type": "function", "function": function}]}
    words = "# a\n`b` [c](https://d.org)\n```py\nif e: 'f' # 1\n```\n```diff\n-a\n+b\n```\n> f\n\n"
    fake.pieces = [{"reasoning_content": "hm"}, words, call]
    fake.trouble = lambda number: "event" if number == 1 else None
    page.window(1280, 860, dark=dark)
    set_field(page, "system", "Be brief.")
    for question in ("x", "y"):
        say(page, question)
        page.wait(DONE)
    page.click(".reasoning summary")
    assert page.js(CONTRAST) == []
    for opener, close in (("#open-settings", "#close-settings"), ("#open-glossary", "#close-glossary")):
        page.click(opener)
        page.wait("document.querySelector('dialog:modal')")
        assert page.js(CONTRAST) == []
        page.click(close)
    page.click(".more")
    assert page.js(CONTRAST) == []
    page.click("[data-do=remove]")
    page.click("[data-new=pad]")
    page.js("document.querySelector('#pad-text').focus()")
    page.type("text")
    assert "Deleted" in text(page, "#notice") and page.js(CONTRAST) == []


def test_themes(page: Browser, fake: Fake) -> None:
    ground = "getComputedStyle(document.body).backgroundColor"
    light = page.js(ground)
    page.window(1280, 860, dark=True)
    dark = page.js(ground)
    assert light != dark
    page.click("#toggle-theme")  # auto -> light, whatever the system says
    assert page.js(ground) == light
    page.open(fake.url)
    assert page.js(ground) == light
    page.click("#toggle-theme")
    page.window(1280, 860)
    assert page.js(ground) == dark
    page.click("#toggle-theme")
    assert page.js(ground) == light and page.js("document.querySelector('#toggle-theme').title") == "Theme: auto"


def test_reduced_motion_is_respected(page: Browser, fake: Fake) -> None:
    fake.pieces, fake.delay = ["word "] * 100, 0.05
    say(page, "x")
    page.wait("document.querySelector('.writing .text > p')")
    cursor = "getComputedStyle(document.querySelector('.writing .text > p:last-child'), '::after').animationName"
    assert page.js(cursor) == "blink"
    page.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-reduced-motion", "value": "reduce"}])
    assert page.js(cursor) == "none"
    page.click("#stop")
    page.wait(DONE)


def test_nobody_is_asked_when_nobody_looks(page: Browser, fake: Fake) -> None:
    """With the live view closed only the status line polls: every few seconds instead of twice a second."""
    page.window(390, 844, phone=True)
    page.click("#tab-chat")
    before = fake.paths.count("/octavo/state")
    page.js("new Promise(done => setTimeout(done, 1800))")
    assert fake.paths.count("/octavo/state") - before <= 1
    page.click("#tab-live")
    before = fake.paths.count("/octavo/state")
    page.js("new Promise(done => setTimeout(done, 1800))")
    assert fake.paths.count("/octavo/state") - before >= 2
