"""Actions and measurements that the page's tests share."""

from __future__ import annotations

from pathlib import Path

import octavo
from tests.server.browser import Browser

PAGE = Path(octavo.__file__).parent / "server" / "page"
DONE = "document.querySelector('.answer:last-child[aria-busy=false] .below > *')"
DRAWN = "document.querySelector('.map').getAttribute('aria-label')?.includes('20 blocks')"
READY = "!document.querySelector('#model').disabled"

# How much of a block's cell is filled, and whether its middle is: the shape alone, without the colour.
CELL = """(index) => import('/live/blocks.js').then(({ layout }) => {
    const map = document.querySelector('.map'), { size, pitch, columns } = layout(20, map.parentElement.clientWidth);
    const [x, y] = [Math.round((index % columns) * pitch), Math.round(Math.floor(index / columns) * pitch)];
    const { data } = map.getContext('2d').getImageData(x, y, size, size);
    const pixels = Array.from({ length: size * size }, (_, at) => [...data.slice(4 * at, 4 * at + 4)]);
    const inside = (at) => at > 2 && at < size - 3;
    const inner = pixels.filter((_, at) => inside(at % size) && inside(Math.floor(at / size)));
    return { share: pixels.filter((pixel) => pixel[3] > 128).length / pixels.length,
             colours: new Set(inner.map(String)).size, first: String(inner[0]) }; })"""

# Texts whose contrast with their background is below 4.5.
CONTRAST = """(() => {
    const channel = (c) => (c /= 255) <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
    const paint = (colour) => colour.match(/[\\d.]+/g).map(Number);
    const light = ([r, g, b]) => 0.2126 * channel(r) + 0.7152 * channel(g) + 0.0722 * channel(b);
    const ground = (n) => { for (; n; n = n.parentElement) {
        const c = paint(getComputedStyle(n).backgroundColor); if (c.length < 4 || c[3] === 1) return c; } };
    return [...document.querySelectorAll('body *')].filter((n) => n.checkVisibility()
        && !n.closest('.hidden, .skip, [disabled], p[aria-hidden]')
        && [...n.childNodes].some((c) => c.nodeType === 3 && c.data.trim())).map((n) => {
            const [a, b] = [light(paint(getComputedStyle(n).color)), light(ground(n))].sort((x, y) => y - x);
            return [(a + 0.05) / (b + 0.05), n.className || n.localName]; }).filter(([ratio]) => ratio < 4.5); })()"""


def say(page: Browser, text: str) -> None:
    page.js("document.querySelector('#prompt').focus()")
    page.type(text)
    page.press("Enter")


def text(page: Browser, selector: str) -> str:
    """innerText with no-break spaces replaced by spaces."""
    found = page.js(f"[...document.querySelectorAll({selector!r})].map(node => node.innerText).join('\\n')")
    return str(found).replace("\u00a0", " ")


def set_field(page: Browser, name: str, value: str) -> None:
    page.js(f"""(() => {{ const field = document.querySelector('[name={name}]'); field.value = {value!r};
        field.dispatchEvent(new Event('input', {{ bubbles: true }})); }})()""")
