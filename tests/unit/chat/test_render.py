"""Chat templates as they are meant to be used."""

# ruff: noqa: E501 (a template keeps to its line)

from __future__ import annotations

import json
from datetime import datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jinja2.sandbox import ImmutableSandboxedEnvironment

from octavo import chat
from octavo.chat import limits
from octavo.errors import RequestError, TokenizerError

USER = [{"role": "user", "content": "Hi"}]
CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' }}\n"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
TALK: list[dict[str, Any]] = [
    {"role": "system", "content": " Be brief. "},
    {"role": "user", "content": "Add 1 & 2"},
    {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "add", "arguments": '{"a": 1}'}}]},
    {"role": "tool", "content": '{"sum": 3}'},
    {"role": "assistant", "content": "<think>easy</think>It is 3."},
    {"role": "user", "content": "Thänks 🙂"},
]
TOOLS = [{"type": "function", "function": {"name": "add", "parameters": {"a": {"type": "integer"}}}}]

# As published templates are written.
TEMPLATES = {
    "chatml": CHATML.replace("message['content']", "message['content']|string"),
    "whitespace": "  {% for m in messages %}\n    {%- if loop.first %}\n  A\n    {%- else %}B\n{% endif %}\n  {% endfor %}\n",
    "loop variables": "{% for m in messages %}{{ loop.index }}/{{ loop.length }}{{ ',' if not loop.last }}"
    "{{ loop.previtem.role if not loop.first }}{{ loop.cycle('a', 'b') }}{{ loop.changed(m.role) }}{% endfor %}",
    "namespace": "{% set ns = namespace(last=-1, text='') %}{% for m in messages[::-1] %}{% if m.role == 'user' %}"
    "{% set ns.last = loop.index0 %}{% set ns.text = ns.text + m.content %}{% endif %}{% endfor %}{{ ns.last }}{{ ns.text }}",
    "system split": "{% if messages[0]['role'] == 'system' %}{% set rest = messages[1:] %}{% set sys = messages[0]['content']|trim %}"
    "{% endif %}{{ sys }}|{{ rest|length }}{% for m in rest %}{{ m.role }}{% endfor %}",
    "break and continue": "{% for m in messages %}{% if m.role == 'tool' %}{% break %}{% endif %}{% if loop.first %}"
    "{% continue %}{% endif %}{{ m.role }}{% endfor %}",
    "macro": "{% macro line(role, text='-') %}<{{ role }}>{{ text }}{% endmacro %}{% for m in messages %}"
    "{{ line(m.role, m.content or 'none') }}{{ line(text='x', role='y') }}{% endfor %}",
    "caller": "{% macro box() %}[{{ caller() }}]{% endmacro %}{% call box() %}{{ messages[1].content }}{% endcall %}",
    "tools": "{% for t in tools %}{{ t | tojson }}{{ t|tojson(indent=4) }}{% for k, v in t.function.parameters.items() %}"
    "{{ k }}: {{ v.type }}{% endfor %}{% endfor %}",
    "tool calls": "{% for m in messages %}{% if m.tool_calls is defined and m.tool_calls %}{% for c in m.tool_calls %}"
    "{{ c.function.name }}{{ c.function.arguments|tojson }}{% endfor %}{% endif %}{% endfor %}",
    "thinking": "{% for m in messages %}{% set c = m.content|default('', true) %}{% if '</think>' in c %}"
    "{% set c = c.split('</think>')[-1].lstrip('\\n') %}{% endif %}{{ c }}{% endfor %}",
    "filters": "{{ messages|map(attribute='role')|unique|join(', ') }}{{ messages|selectattr('role', 'equalto', 'user')|list|length }}"
    "{{ messages|rejectattr('content')|map(attribute='role')|list }}{{ 'a b'|title }}{{ [3, 1]|sort|first }}{{ {'b': 1, 'a': 2}|dictsort }}"
    "{{ 'x,y'|replace(',', ';')|upper }}{{ '7'|int + 1 }}{{ 2.345|round(1) }}{{ 'a\nb'|indent(2) }}{{ [1, 2]|last }}{{ '%s=%d'|format('n', 5) }}",
    "tests": "{{ 1 is number }}{{ 'a' is string }}{{ none is none }}{{ x is not defined }}{{ {} is mapping }}{{ [] is iterable }}{{ 4 is divisibleby 2 }}"
    "{{ true is true }}{{ 'a' is in ['a'] }}{{ 'user' in messages|map(attribute='role') }}",
    "methods": "{{ ' a '.strip() }}{{ 'ab'.startswith('a') }}{{ 'a-b'.split('-') }}{{ 'ab'.upper() }}{{ 'a'.join(['x', 'y']) }}"
    "{{ 'aab'.replace('a', 'c') }}{{ 'ab'.find('b') }}{{ {'a': 1}.get('b', 2) }}{{ {'a': 1}.items()|list }}{{ [1, 1].count(1) }}",
    "arithmetic": "{{ 1 + 2 * 3 - 4 / 2 }}{{ 7 // 2 }}{{ 7 % 3 }}{{ 2 ** 10 }}{{ -3|abs }}{{ 'a' * 3 }}{{ [1] * 2 }}{{ 'a' ~ 1 ~ none }}{{ '%s!' % 'a' }}",
    "comparisons": "{{ 1 < 2 <= 2 }}{{ [1, [2]] == [1, [2]] }}{{ not (1 > 2) }}{{ 'a' != 'b' }}{{ (1, 2)[0] }}{{ [1, 2, 3][1:] }}{{ 'abc'[::-1] }}",
    "conditional loop": "{% for m in messages if m.role == 'user' %}{{ loop.index }}{{ m.content }}{% else %}none{% endfor %}"
    "{% for m in [] %}x{% else %}empty{% endfor %}",
    "generation": "{% for m in messages %}{% generation %}{{ m.role }}{% endgeneration %}{% endfor %}",
    "set block": "{% set text %}{% for m in messages %}{{ m.role }},{% endfor %}{% endset %}{{ text|length }}{{ text }}",
    "filter block": "{% filter upper %}{{ messages[1].role }}{% endfilter %}{% with a = 1 %}{{ a }}{% endwith %}",
    "recursive": "{% for x in [1, [2, [3]]] recursive %}{% if x is iterable %}({{ loop(x) }}){% else %}{{ x }}{% endif %}{% endfor %}",
    "blocks": "{% block a %}{{ bos_token }}{% endblock %}{{ self.a() }}{{ eos_token }}",
    "unpacking": "{% set a, b = 1, [2] %}{{ a }}{{ b }}{{ range(3)|list }}{{ dict(a=1) }}{{ {'k': (1,)} }}{{ none }}{{ missing }}",
    "raw": "{% raw %}{{ x }}{% endraw %}{# comment #}{{ '<b>&' }}{{ '<b>&'|e }}",
    "empty": "",
}  # fmt: skip


def plain_jinja(template: str, **variables: Any) -> str:
    """What transformers does: Jinja's immutable sandbox with these options and functions."""

    def tojson(value: Any, **options: Any) -> str:
        return json.dumps(value, **({"ensure_ascii": False} | options))

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = tojson
    template = template.replace("{% generation %}", "").replace("{% endgeneration %}", "")
    return environment.from_string(template).render(**variables)


@pytest.mark.parametrize("name", TEMPLATES)
def test_the_meter_changes_no_result(name: str) -> None:
    ours = chat.render(TEMPLATES[name], TALK, tools=TOOLS, bos_token="<s>", eos_token="</s>")
    talk = [dict(message) for message in TALK]
    talk[2]["tool_calls"] = [{"function": {"name": "add", "arguments": {"a": 1}}}]
    expected = plain_jinja(
        TEMPLATES[name], messages=talk, tools=TOOLS, bos_token="<s>", eos_token="</s>", add_generation_prompt=True
    )
    assert ours == expected
    assert ours or name == "empty"


OPERATIONS = [
    "{{ '{} {} {name}'.format('a', 1.5, name=none) }}",
    "{{ '{0!r:>6}|{1:08.2f}|{2[k]}|{2.k}|{1:,}'.format('a', 1234.5, {'k': [1, 'b']}) }}",
    "{{ '{a}-{b:>{w}}'.format_map({'a': 1, 'b': 'x', 'w': 4}) }}",
    "{{ '{{}}'.format() }}{{ 'none'.format(1) }}",
    "{{ ['{}!']|map('format')|list }}",
    "{{ [1, 2.5, true]|sum }}{{ messages|sum(attribute='n') }}{{ [[1], [2]]|sum(start=[]) }}{{ []|sum }}",
    "{{ range(7)|batch(3)|list }}{{ range(7)|batch(3, '-')|list }}",
    "{{ range(7)|slice(3)|list }}{{ range(7)|slice(3, '-')|list }}",
    "{% for key, group in messages|groupby('role') %}{{ key }}{{ group|map(attribute='n')|list }}{% endfor %}",
    "{% for g in messages|groupby('role') %}{{ g.grouper }}{{ g.list|length }}{{ g[0] }}{% endfor %}",
    "{{ messages|groupby('x', default='d') }}",
    "{{ 'ab'|center(6) }}|{{ 'ab'.center(6, '*') }}|{{ 'ab'.ljust(4) }}|{{ 'ab'.rjust(4, '.') }}|{{ '7'.zfill(3) }}",
    "{{ 'a\tb'.expandtabs() }}{{ 'a\tb'.expandtabs(tabsize=2) }}{{ 'ab'.isidentifier() }}{{ 'ab'.isprintable() }}",
    "{{ 'the quick brown fox'|truncate(9) }}|{{ 'the quick brown fox'|truncate(9, true, '~', 0) }}",
    "{{ 'the quick brown fox'|wordwrap(9) }}|{{ 'the quick brown fox'|wordwrap(9, wrapstring='/') }}",
    "{{ 'the quick brown'|wordcount }}{{ '<b>x</b> <!-- y --> z'|striptags }}{{ 'a b/ü'|urlencode }}",
    "{{ 123456|filesizeformat }}{{ {'class': 'x', 'id': none}|xmlattr }}",
    "{% set c = cycler('a', 'b') %}{{ c.next() }}{{ c.current }}{{ c.next() }}{{ c.reset() }}{{ c.next() }}",
    "{% set j = joiner('; ') %}{% for m in messages %}{{ j() }}{{ m.role }}{% endfor %}",
]


@pytest.mark.parametrize("template", OPERATIONS)
def test_operations_that_the_sandbox_of_transformers_has(template: str) -> None:
    talk = [{"role": role, "content": "x", "n": n} for n, role in enumerate(["user", "assistant", "user"])]
    assert chat.render(template, talk) == plain_jinja(template, messages=talk)


@settings(max_examples=50, deadline=None)
@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(), st.lists, max_leaves=20))
def test_values_are_written_as_python_writes_them(value: Any) -> None:
    template = "{{ v }}|{{ v|tojson }}|{{ v|string }}|{{ [v] + [v] }}|{{ {'k': v} }}|{{ v == v }}"
    assert chat.render(template, USER, v=value) == plain_jinja(template, v=value)


def test_variables_of_a_template() -> None:
    template = (
        "{{ bos_token }}{{ messages[0].content }}{{ eos_token }}{{ add_generation_prompt }}{{ tools }}{{ thinking }}"
    )
    assert chat.render(template, USER, bos_token="<s>", thinking="no") == "<s>HiTrueNoneno"
    assert "False" in chat.render(template, USER, add_generation_prompt=False)


def test_strftime_now_is_today() -> None:
    today = {datetime.now().strftime("%d %b %Y")}
    text = chat.render("{{ strftime_now('%d %b %Y') }}", USER)
    assert text in today | {datetime.now().strftime("%d %b %Y")}


def test_content_parts_become_one_text() -> None:
    parts = [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]
    assert chat.render("{{ messages[0].content }}", [{"role": "user", "content": parts}]) == "one\ntwo"
    assert chat.render("{{ messages[0].content }}", [{"role": "user", "content": []}]) == ""


def test_tool_arguments_that_are_no_json_stay_text() -> None:
    calls = [{"function": {"name": "f", "arguments": "{broken"}}]
    text = chat.render(
        "{{ messages[0].tool_calls[0].function.arguments }}", [{"role": "assistant", "tool_calls": calls}]
    )
    assert text == "{broken"


@pytest.mark.parametrize(
    ("message", "field"),
    [
        ("hello", "messages[1]"),
        ({"content": "no role"}, "messages[1]"),
        ({"role": 1, "content": "x"}, "messages[1]"),
        ({"role": "user", "content": 1}, "messages[1].content"),
        ({"role": "user", "content": {"type": "text"}}, "messages[1].content"),
        ({"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}, "messages[1].content"),
        ({"role": "user", "content": [{"type": "text"}]}, "messages[1].content"),
        ({"role": "user", "content": ["text"]}, "messages[1].content"),
    ],
)
def test_bad_messages_are_named(message: Any, field: str) -> None:
    with pytest.raises(RequestError) as caught:
        chat.render(CHATML, [*USER, message])
    assert caught.value.field == field


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{{ raise_exception('roles must alternate') }}", "roles must alternate"),
        ("{{ messages[0].nothing.more }}", "'dict object' has no attribute 'nothing'"),
        ("{{ nothing() }}", "'nothing' is undefined"),
        ("{{ 1 / 0 }}", "division by zero"),
        ("{{ 'a' + 1 }}", "can only concatenate str"),
        ("line\n{% if %}", "line 2: Expected an expression"),
        ("{% for x in y %}", "line 1: Unexpected end of template"),
        ("{{ 'a'|nonsense }}", "No filter named 'nonsense'"),
        ("{{ messages|tojson }}{{ nothing|tojson }}", "Undefined is not JSON serializable"),
    ],
)
def test_failures_carry_the_reason(template: str, message: str) -> None:
    with pytest.raises(TokenizerError) as caught:
        chat.render(template, USER)
    assert str(caught.value).startswith("chat template") and message in str(caught.value)


def test_long_messages_are_shortened_in_errors() -> None:
    with pytest.raises(TokenizerError) as caught:
        chat.render("{{ raise_exception('x' * 99999) }}", USER)
    assert len(str(caught.value)) < 600


def test_a_long_chat_is_no_bomb() -> None:
    talk = [{"role": "user", "content": "word " * 60}, {"role": "assistant", "content": "yes " * 60}] * 800
    assert len(chat.render(CHATML, talk)) > 480_000


def test_other_threads_time_is_not_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """A busy machine must not make good templates fail: only the renderer's own processor time counts."""
    ticks = iter(range(10**9))
    monkeypatch.setattr(limits, "perf_counter", lambda: next(ticks))  # seconds pass at each look
    assert chat.render(CHATML, USER).startswith("<|im_start|>user")
    monkeypatch.setattr(limits, "thread_time", lambda: next(ticks))
    with pytest.raises(TokenizerError, match="250 ms"):
        chat.render(CHATML, USER)


def test_value_over_the_limit_by_one() -> None:
    assert len(chat.render("{{ 'a' * n }}", USER, n=limits.MAX_VALUE)) == limits.MAX_VALUE
    with pytest.raises(TokenizerError, match="1 M characters"):
        chat.render("{{ 'a' * n }}", USER, n=limits.MAX_VALUE + 1)


def test_the_meter_measures_shared_lists_each_time(meter: limits.Meter) -> None:
    inner = ["abc"]
    assert meter.size(inner) == 3 + limits.ITEM
    assert meter.size([inner, inner]) == 2 * (meter.size(inner) + limits.ITEM)
    assert meter.size({"k": "v"}) == 2 + 2 * limits.ITEM


@pytest.fixture
def meter() -> limits.Meter:
    return limits.Meter()
