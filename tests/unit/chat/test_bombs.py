"""Templates that would use all time or memory: each ends in an error, quickly and with little memory."""

# ruff: noqa: E501 (a template keeps to its line)

from __future__ import annotations

import resource
import sys
import time

import pytest

from octavo import chat
from octavo.errors import TokenizerError

NINES = "9" * 9
DOUBLE = "{% for i in range(99999) %}{% set ns.x = "  # ... each time round from what it was
NS = "{% set ns = namespace(x='ab', y=['ab']) %}"
TREE = "{% set ns = namespace(x=['ab']) %}{% for i in range(40) %}{% set ns.x = [ns.x, ns.x] %}{% endfor %}"
LARGE = "{% set big = 'ab' * 500000 %}"
MANY = "{% set many = range(30000)|map('string')|list %}"

BOMBS = {
    # Loops, with and without output
    "huge range": "{% for i in range(10**9) %}x{% endfor %}",
    "nested loops": "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
    "nested loops with output": "{% for i in range(99999) %}{% for j in range(99999) %}x{% endfor %}{% endfor %}",
    "nested filters of loops": "{% for i in range(99999) if range(99999)|select('eq', 5)|list %}{% endfor %}",
    "loops over a condition": "{% for i in range(99999) %}{% for j in range(99999) if false %}{% endfor %}{% endfor %}",
    "recursive loop": "{% for i in [1, 2] recursive %}{{ loop([1, 2]) }}{% endfor %}",
    "recursive macro": "{% macro f(n) %}{{ f(n) }}{% endmacro %}{{ f(1) }}",
    "branching macro": "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}",
    "recursive block": "{% block a %}{{ self.a() }}{% endblock %}",
    "recursive caller": "{% macro f() %}{% call f() %}{% endcall %}{% endmacro %}{{ f() }}",
    "loop of maps": "{% for i in range(99999) %}{% set x = range(99999)|map('string')|list %}{% endfor %}",
    "chain of maps": "{{ range(99999)" + "|map('string')" * 500 + "|list|length }}",
    "straight comparisons": MANY + "{% set other = range(30000)|map('string')|list %}" + "{{ many == other }}" * 1_400,
    "straight searches": MANY + "{{ -1 in many }}" * 1_400,
    "straight slices": LARGE + "{% set x = big[1:] %}" * 700,
    "colliding hashes": "{{ range(0, 99999 * (2**61 - 1), 2**61 - 1)|unique|list|length }}",
    "membership for each": MANY + "{{ many|reverse|select('in', many)|list|length }}",
    # Texts
    "text times number": "{{ 'a' * 10**9 }}",
    "number times text": "{{ 10**9 * 'a' }}",
    "list times number": "{{ [0] * 10**9 }}",
    "text grows": NS + DOUBLE + "ns.x + ns.x %}{% endfor %}",
    "text grows by ~": NS + DOUBLE + "ns.x ~ ns.x %}{% endfor %}",
    "text grows by format": NS + DOUBLE + "'%s%s' % (ns.x, ns.x) %}{% endfor %}",
    "text grows by the filter": NS + DOUBLE + "'%(a)s%(a)s'|format(a=ns.x) %}{% endfor %}",
    "text grows by replace": NS + DOUBLE + "ns.x.replace('a', ns.x) %}{% endfor %}",
    "text grows by a filter": NS + DOUBLE + "ns.x|replace('a', ns.x) %}{% endfor %}",
    "text grows by join": NS + DOUBLE + "ns.x.join([ns.x, ns.x]) %}{% endfor %}",
    "list grows": NS + DOUBLE + "ns.y + ns.y %}{% endfor %}",
    "unrolled growth": "{% set x = 'ab' %}" + "{% set x = x ~ x %}" * 60,
    "unrolled block growth": "{% set x = 'ab' %}" + "{% set x %}{{ x }}{{ x }}{% endset %}" * 60,
    "replace with nothing": LARGE + "{{ big.replace('', big) }}",
    "join of many": LARGE + MANY + "{{ big.join(many|map('string')) }}",
    "join filter": LARGE + MANY + "{{ many|join(big) }}",
    "indent by much": LARGE + "{{ ('x\n' * 99999)|indent(99999) }}",
    "indent by text": LARGE + "{{ ('x\n' * 99999)|indent(big) }}",
    "format width": f"{{{{ '%{NINES}d' % 1 }}}}",
    "format star": f"{{{{ '%*d' % ({NINES}, 1) }}}}",
    "format precision": f"{{{{ '%.{NINES}f' % 1 }}}}",
    "format filter": f"{{{{ '%{NINES}d'|format(1) }}}}",
    "many widths": "{{ ('%9999d' * 99999) % ((1,) * 99999) }}",
    "many fields": LARGE + "{{ ('%(a)s' * 9999) % {'a': big} }}",
    "str.format": f"{{{{ '{{:{NINES}}}'.format(1) }}}}",
    "str.format precision": f"{{{{ '{{:.{NINES}f}}'.format(1.5) }}}}",
    "str.format width from a value": f"{{{{ '{{:{{}}}}'.format(1, {NINES}) }}}}",
    "str.format of much, often": LARGE + "{{ ('{0}' * 9999).format(big) }}",
    "str.format with many fields": "{% set x = '{0}' * 300000 %}{{ x.format(1) }}{{ x.format(1) }}",
    "str.format_map of much": LARGE + "{{ ('{a}' * 9999).format_map({'a': big}) }}",
    "str.expandtabs by name": f"{{{{ '\t'.expandtabs(tabsize={NINES}) }}}}",
    "str.rjust": f"{{{{ 'a'.rjust({NINES}) }}}}",
    "rsplit by many, by name": "{{ ('a' * 999999).rsplit(sep='b' * 499999 ~ 'a' * 499999) }}",
    "sum of lists": "{{ (range(9999)|map('string')|map('list')|list * 9)|sum(start=[]) }}",
    "sum of large numbers": "{{ ([2 ** 4000] * 99999)|sum * 2 ** 4000 }}",
    "wordwrap of much": LARGE + "{{ big|wordwrap(1) }}",
    "wordwrap by much": LARGE + "{{ ('a ' * 8000)|wordwrap(1, wrapstring=big) }}",
    "striptags of much": "{{ ('<!---->' * 99999)|striptags }}",
    "groupby of many": MANY + "{% for i in range(99999) %}{% set x = many|groupby('0') %}{% endfor %}",
    "str.center": f"{{{{ 'a'.center({NINES}) }}}}",
    "str.ljust": f"{{{{ 'a'.ljust({NINES}) }}}}",
    "str.zfill": f"{{{{ 'a'.zfill({NINES}) }}}}",
    "str.expandtabs": f"{{{{ '\t'.expandtabs({NINES}) }}}}",
    "center filter": f"{{{{ 'a'|center({NINES}) }}}}",
    "constant autoescape": f"{{% autoescape 'a'|center({NINES}) %}}{{% endautoescape %}}",
    "batch filter": f"{{{{ [1]|batch({NINES}, 'x')|list }}}}",
    "slice filter": f"{{{{ [1]|slice({NINES})|list }}}}",
    "lipsum": "{{ lipsum(n=10**9) }}",
    "json indent": f"{{{{ [[1]]|tojson(indent={NINES}) }}}}",
    "json separators": LARGE + "{{ range(99999)|list|tojson(separators=(big, big)) }}",
    "strip by many": "{{ ('a' * 999999).strip('b' * 999999 ~ 'a') }}",
    "trim by many": "{{ ('a' * 999999)|trim('b' * 999999 ~ 'a') }}",
    "search from the right": "{{ ('a' * 999999).rfind('b' ~ 'a' * 499999) }}",
    "split from the right": "{{ ('a' * 999999).rsplit('b' ~ 'a' * 499999) }}",
    "time format": "{{ strftime_now('%c' * 999999) }}",
    # Memory: many values, each small enough
    "many large values": LARGE + "".join(f"{{% set x{i} = big ~ {i} %}}" for i in range(900)),
    "large outputs in a macro": LARGE + "{% macro f() %}" + "{{ big }}" * 1500 + "{% endmacro %}{{ f() }}",
    "constant outputs in a macro": "{% macro f() %}{% for i in range(99999) %}" + "x" * 9999 + "{% endfor %}{% endmacro %}{{ f() }}",
    "large output": LARGE + "{{ big }}{{ big }}",
    "constant output": "{% for i in range(99999) %}" + "x" * 9999 + "{% endfor %}",
    # Trees whose branches are shared: little memory until they are written, compared or hashed
    "tree written": TREE + "{{ ns.x }}",
    "tree as text": TREE + "{{ ns.x|string|length }}",
    "tree compared": TREE + "{{ ns.x == ns.x }}",
    "tree as json": TREE + "{{ ns.x|tojson|length }}",
    "tree by addition": NS + "{% for i in range(40) %}{% set ns.y = [ns.y] + [ns.y] %}{% endfor %}{{ ns.y }}",
    "tree by multiplication": NS + "{% for i in range(40) %}{% set ns.y = [ns.y] * 2 %}{% endfor %}{{ ns.y }}",
    "tree of mappings": NS + "{% for i in range(40) %}{% set ns.y = dict(a=ns.y, b=ns.y) %}{% endfor %}{{ ns.y }}",
    "tree of namespaces": NS + "{% for i in range(40) %}{% set ns.y = namespace(a=[ns.y, ns.y]) %}{% endfor %}{{ [ns.y] }}",
    "deep tuples hashed": "{% set ns = namespace(x=()) %}{% for i in range(99999) %}{% set ns.x = (ns.x, 1) %}{% endfor %}"
    "{{ {ns.x: 1}|length }}",
    "deep lists written": "{% set ns = namespace(x=[]) %}{% for i in range(99999) %}{% set ns.x = [ns.x] %}{% endfor %}{{ ns.x }}",
    # Numbers
    "power": "{{ 9**(9**9) }}",
    "power of power": "{{ (10**1000)**1000 }}",
    "product": "{% set ns = namespace(x=3) %}{% for i in range(99999) %}{% set ns.x = ns.x * ns.x %}{% endfor %}",
    "sum": "{% set ns = namespace(x=3) %}{% for i in range(99999) %}{% set ns.x = ns.x + ns.x %}{% endfor %}",
    "round": f"{{{{ 5|round(-{NINES}) }}}}",
    "round up": f"{{{{ 5.5|round({NINES}, 'ceil') }}}}",
    "int from text": "{{ ('9' * 999999)|int(base=16) }}",
    # Sources
    "long source": "x" * 999_999,
    "many tokens": "{{ a }}" * 18_000,
    "deep source": "{{ " + "(" * 20_000 + "1" + ")" * 20_000 + " }}",
    "deep nots": "{{ " + "not " * 7_000 + "1 }}",
    "deep loops": "{% for i in 'a' %}" * 900 + "{% endfor %}" * 900,
    "deep lists": "{{ " + "[" * 3_000 + "]" * 3_000 + " }}",
    "long chain": "{{ 1" + " + 1" * 3_900 + " }}",
}  # fmt: skip


@pytest.mark.parametrize("template", BOMBS.values(), ids=BOMBS)
def test_bomb_ends_in_an_error_soon(template: str) -> None:
    before, start = _peak_mb(), time.thread_time()  # not the wall clock: other processes of a busy machine do not count
    # Refused by our code or by Jinja, not by a bug of ours: each of these says what is wrong with the template.
    with pytest.raises(TokenizerError, match=r"stopped|Range too big|not allowed|No filter|undefined|two values"):
        chat.render(template, [{"role": "user", "content": "hello"}])
    assert time.thread_time() - start < 4.0
    assert _peak_mb() - before < 300


def _peak_mb() -> float:
    """Largest resident size of this process so far."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1 << 20 if sys.platform == "darwin" else 1 << 10)
