"""The page's list of chats: kept in the browser, renamed, deleted with undo, exported, edited."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.server.browser import Browser
from tests.server.fake import Fake, wait_for
from tests.server.page_probes import DONE, READY, say, text

TITLES = "[...document.querySelectorAll('.open span')].map(node => node.innerText)"
STORED = "Object.keys(localStorage).filter(name => name.startsWith('octavo.chat.')).length"
NOTICE = "document.querySelector('#notice:popover-open')"


def talk(page: Browser, *questions: str) -> None:
    """Asks each question in a chat of its own, the last of which stays on screen."""
    for question in questions:
        page.click("#new-chat")
        say(page, question)
        page.wait(DONE)


def pick(page: Browser, title: str) -> None:
    page.js(f"[...document.querySelectorAll('.open')].find(node => node.title === {title!r}).click()")


def menu(page: Browser, title: str, item: str) -> None:
    """Chooses what the menu of a chat offers."""
    page.js(f"document.querySelector('[aria-label=\"More about {title}\"]').click()")
    page.wait("document.querySelector('#chat-menu:popover-open')")
    page.click(f"#chat-menu [data-do={item}]")


def undo(page: Browser) -> None:
    page.wait(NOTICE)
    page.click("#notice .plain")


def test_several_chats_are_kept_and_found_again(page: Browser, fake: Fake) -> None:
    talk(page, "first\nline two", "second")
    assert page.js(TITLES) == ["second", "first"] and page.js("document.title") == "second · Octavo"
    pick(page, "first")
    assert text(page, ".user") == "first\nline two" and text(page, ".open[aria-current]") == "first"
    say(page, "more")
    page.wait("document.querySelectorAll('.answer').length === 2 && " + DONE)
    assert [message["content"] for message in fake.bodies[2]["messages"]] == ["first\nline two", "Hello there.", "more"]
    page.open(fake.url)
    page.wait(READY)
    assert page.js(TITLES) == ["first", "second"]  # the one used last comes first
    assert text(page, ".user") == "first\nline two\nmore"  # and is on screen again
    page.click("#new-chat")
    page.click("#new-chat")
    assert page.js(TITLES) == ["first", "second"]  # an empty chat is not kept


def test_many_chats_can_be_searched(page: Browser, fake: Fake) -> None:
    chats = [{"id": f"c{n}", "messages": [{"role": "user", "content": f"topic {n}"}]} for n in range(9)]
    for chat in chats:
        page.js(f"localStorage.setItem('octavo.chat.{chat['id']}', {json.dumps(json.dumps(chat))})")
    page.open(fake.url)
    page.wait(READY)
    page.js("document.querySelector('#chat-search').focus()")
    page.type("TOPIC 7")
    assert page.js(TITLES) == ["topic 7"]
    page.type("x")
    assert text(page, ".chat-list") == "No chat has this in it."


def test_renaming(page: Browser, fake: Fake) -> None:
    talk(page, "old name")
    menu(page, "old name", "rename")
    page.type("new name")  # the old one is selected
    page.press("Enter")
    assert page.js(TITLES) == ["new name"] and page.js("document.activeElement.className") == "open"
    menu(page, "new name", "rename")
    page.type("dropped")
    page.press("Escape")
    page.open(fake.url)
    page.wait(READY)
    assert page.js(TITLES) == ["new name"]
    menu(page, "new name", "rename")
    page.js("document.querySelector('.rename input').value = ''")
    page.press("Enter")
    assert page.js(TITLES) == ["old name"]  # without a name it is called after its beginning


def test_deleting_can_be_undone(page: Browser, fake: Fake) -> None:
    talk(page, "keep", "drop")
    menu(page, "drop", "remove")
    assert page.js(TITLES) == ["keep"] and page.js(STORED) == 1
    assert text(page, ".message") == "" and "Deleted “drop”." in text(page, "#notice")
    undo(page)
    assert page.js(TITLES) == ["drop", "keep"] and text(page, ".user") == "drop" and page.js(STORED) == 2
    assert not page.js(f"Boolean({NOTICE})")
    menu(page, "keep", "remove")
    assert text(page, ".user") == "drop"  # the one on screen stays


def test_deleting_a_chat_stops_its_answer(page: Browser, fake: Fake) -> None:
    fake.pieces, fake.delay = ["word "] * 100, 0.05
    say(page, "long")
    page.wait("document.querySelector('.answer .text').innerText")
    menu(page, "long", "remove")
    wait_for(lambda: fake.cut_off == 1)
    assert page.js(TITLES) == [] and page.js(STORED) == 0 and page.js("!document.querySelector('#send').hidden")


def test_an_answer_goes_on_while_another_chat_is_read(page: Browser, fake: Fake) -> None:
    fake.delay = 0.3
    say(page, "slow")
    page.wait("document.querySelector('.answer[aria-busy=true]')")
    page.click("#new-chat")
    assert page.js("document.querySelector('.busy') && !document.querySelector('#send').hidden")
    say(page, "other")
    pick(page, "slow")
    page.wait("document.querySelector('.answer[aria-busy=true] .text').innerText.startsWith('Hello')")
    page.wait(DONE)
    assert text(page, ".answer .text") == "Hello there."
    pick(page, "other")
    page.wait(DONE)
    assert text(page, ".user") == "other" and text(page, ".answer .text") == "Hello there."
    assert not page.js("document.querySelector('.busy')")


def test_a_failure_out_of_sight_is_told(page: Browser, fake: Fake) -> None:
    fake.trouble, fake.delay = lambda number: "event" if number == 0 else None, 0.3
    say(page, "fails")
    page.wait("document.querySelector('.answer')")
    page.click("#new-chat")
    page.wait(NOTICE)
    assert text(page, "#notice p") == "No answer: the engine process failed"
    page.click("#notice .plain")
    assert text(page, ".answer .problem p") == "the engine process failed"
    page.open(fake.url)
    page.wait(READY)
    assert (
        text(page, ".answer .problem p") == "the engine process failed"
    )  # an error is no answer after a reload either


def test_a_failure_scrolls_into_sight(page: Browser, fake: Fake) -> None:
    fake.pieces = ["line\n\n"] * 100
    say(page, "long")
    page.wait(DONE)
    fake.trouble = lambda _: 500
    say(page, "again")
    page.js("document.querySelector('#scroller').scrollTop = 0")
    page.wait("document.querySelector('.problem p')")
    box = page.js("document.querySelector('.answer .problem').getBoundingClientRect().toJSON()")
    assert box["top"] > 0 and box["bottom"] < 860


def test_editing_goes_on_from_there_and_can_be_undone(page: Browser, fake: Fake) -> None:
    say(page, "one")
    page.wait(DONE)
    say(page, "two")
    page.wait("document.querySelectorAll('.answer').length === 2 && " + DONE)
    page.click(".question footer button:nth-child(2)")
    assert page.js("document.activeElement.value") == "one"
    page.press("Escape")
    assert not page.js("document.querySelector('.edit')")
    page.js("document.querySelector('.answer .text').style.minHeight = '2000px'")
    page.click(".question footer button:nth-child(2)")
    page.js("new Promise(done => setTimeout(done, 100))")
    top = page.js("document.querySelector('.edit').getBoundingClientRect().top")
    assert 0 < top < 860  # in sight, although the page follows the end of the chat
    page.type("uno ")
    page.press("Enter")
    page.wait(DONE)
    assert fake.bodies[2]["messages"] == [{"role": "user", "content": "oneuno"}]
    assert text(page, ".user") == "oneuno"
    undo(page)
    assert text(page, ".user") == "one\ntwo" and text(page, ".answer .text") == "Hello there.\nHello there."


def test_regenerating_can_be_undone(page: Browser, fake: Fake) -> None:
    say(page, "x")
    page.wait(DONE)
    fake.pieces, fake.delay = ["Other ", "words ", "come"], 0.2
    page.click(".retry")
    page.wait("document.querySelector('.answer .text').innerText.startsWith('Other')")
    undo(page)  # while it is still written
    assert text(page, ".answer .text") == "Hello there."
    wait_for(lambda: fake.cut_off == 1)
    page.js("new Promise(done => setTimeout(done, 300))")
    stored = page.js("JSON.stringify(localStorage)")
    assert "Hello there." in stored and "Other" not in stored
    say(page, "y")
    page.wait("document.querySelectorAll('.answer').length === 2 && " + DONE)
    assert fake.bodies[2]["messages"][1]["content"] == "Hello there."


def downloads(page: Browser, folder: Path) -> None:
    page.call("Page.setDownloadBehavior", behavior="allow", downloadPath=str(folder))


def test_export_and_import(page: Browser, fake: Fake, tmp_path: Path) -> None:
    downloads(page, tmp_path)
    page.js("document.querySelector('[name=system]').value = 'Be brief.'")
    page.js("document.querySelector('[name=system]').dispatchEvent(new Event('input', { bubbles: true }))")
    say(page, "a/b: *c*?")
    page.wait(DONE)
    menu(page, "a/b: *c*?", "markdown")
    menu(page, "a/b: *c*?", "json")
    wait_for(lambda: sorted(path.name for path in tmp_path.glob("a b c.*")) == ["a b c.json", "a b c.md"])
    assert (tmp_path / "a b c.md").read_text() == (
        "# a/b: *c*?\n\n## System\n\nBe brief.\n\n## You\n\na/b: *c*?\n\n## Answer\n\nHello there.\n"
    )
    written = (tmp_path / "a b c.json").read_text()
    (chat,) = json.loads(written)["chats"]
    roles = [(message["role"], message["content"]) for message in chat["messages"]]
    assert roles == [("system", "Be brief."), ("user", "a/b: *c*?"), ("assistant", "Hello there.")]
    menu(page, "a/b: *c*?", "remove")
    load(page, written)
    assert "Imported one chat." in text(page, "#notice") and page.js(TITLES) == ["a/b: *c*?"]
    pick(page, "a/b: *c*?")
    assert text(page, ".answer .text") == "Hello there." and "Be brief." in text(page, "#system")
    load(page, written)
    assert page.js(TITLES) == ["a/b: *c*?"] * 2  # a copy; what is there is not overwritten
    load(page, '[{"role": "user", "content": "from elsewhere"}]')
    assert "from elsewhere" in page.js(TITLES)
    load(page, '{"chats": [5, {"messages": "no"}]}')
    assert "Nothing was imported: there is no chat in it" in text(page, "#notice")


def load(page: Browser, written: str) -> None:
    """Imports a file of this content, which the user would choose."""
    page.js("document.querySelector('#notice').replaceChildren()")
    page.js(f"""(() => {{ const real = HTMLInputElement.prototype.click;
        HTMLInputElement.prototype.click = function () {{
            HTMLInputElement.prototype.click = real;
            const data = new DataTransfer();
            data.items.add(new File([{json.dumps(written)}], 'x.json'));
            this.files = data.files;
            this.dispatchEvent(new Event('change')); }};
        document.querySelector('#import').click(); }})()""")
    page.wait("document.querySelector('#notice p')")


def test_a_full_store_does_not_lose_the_running_chat(page: Browser, fake: Fake) -> None:
    page.js("""(() => { for (let size = 1 << 22; size; size >>= 1)
        try { for (let n = 0; ; n += 1) localStorage.setItem(`fill${size}-${n}`, "x".repeat(size)); } catch {} })()""")
    say(page, "one")
    page.wait(DONE)
    assert text(page, ".answer .text") == "Hello there." and page.js(TITLES) == ["one"]
    assert "its storage is full or off" in text(page, "#notice") and text(page, "#notice .plain") == "Export"
    page.click("#new-chat")
    pick(page, "one")
    say(page, "two")
    page.wait("document.querySelectorAll('.answer').length === 2 && " + DONE)
    assert len(fake.bodies[1]["messages"]) == 3


def test_damaged_data_costs_what_is_damaged_and_no_more(page: Browser, fake: Fake) -> None:
    good: dict[str, Any] = {"id": "z", "created": "no", "messages": [
        {"role": "user", "content": "sound"}, {"role": "robot", "content": "x"}, 7, None,
        {"role": "assistant", "content": "yes", "tool_calls": [{"id": 3}], "note": {}, "reasoning_content": 1},
        {"role": "assistant", "content": ["parts"]}]}  # fmt: skip
    kept = {"chat.a": '{"messages": [', "chat.b": "null", "chat.c": '{"messages": 5}', "chat.d": "[]", "settings": "[[",
            "model": "{", "theme": "{", "chat.z": json.dumps(good),
            "conversation": '[{"role":"user","content":"old"}]'}  # fmt: skip
    for name, value in kept.items():
        page.js(f"localStorage.setItem('octavo.{name}', {json.dumps(value)})")
    page.open(fake.url)
    page.wait(READY)
    assert sorted(page.js(TITLES)) == ["old", "sound"]  # "old": the only chat of an earlier version
    pick(page, "sound")
    assert text(page, ".user") == "sound" and text(page, ".answer .text") == "yes"
    say(page, "x")
    page.wait("document.querySelectorAll('.answer').length === 2 && " + DONE)


def test_two_tabs_share_their_chats(page: Browser) -> None:
    talk(page, "here")
    other = json.dumps({"id": "t", "messages": [{"role": "user", "content": "there"}]})
    tell = "dispatchEvent(new StorageEvent('storage', { key: 'octavo.chat.t' }))"
    page.js(f"localStorage.setItem('octavo.chat.t', {json.dumps(other)}), {tell}")
    assert sorted(page.js(TITLES)) == ["here", "there"] and text(page, ".user") == "here"
    page.js(f"localStorage.removeItem('octavo.chat.t'), {tell}")
    assert page.js(TITLES) == ["here"]
