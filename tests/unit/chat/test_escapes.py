"""Templates that try to reach Python's internals, the file system or other requests: all fail."""

from __future__ import annotations

from typing import Any

import pytest

from octavo import chat
from octavo.errors import TokenizerError

# Ways to a class or a function's globals, from each kind of object that a template can reach.
OBJECTS = {
    "text": "''",
    "number": "(1)",
    "float": "(1.5)",
    "list": "[]",
    "tuple": "()",
    "mapping": "{}",
    "none": "none",
    "undefined": "nothing",
    "range": "range(3)",
    "iterator": "(messages|map('string'))",
    "view": "messages[0].items()",
    "namespace": "namespace()",
    "namespace class": "namespace",
    "dict function": "dict",
    "function": "raise_exception",
    "method": "''.join",
    "self": "self",
    "messages": "messages",
    "a message": "messages[0]",
    "markup": "('x'|safe)",
}
ON_OBJECTS = (
    "{{ OBJECT.__class__ }}",
    "{{ OBJECT['__class__'] }}",
    "{{ OBJECT['__cla' ~ 'ss__'] }}",
    "{% for c in OBJECT.__class__.__mro__[-1].__subclasses__() %}{{ c }}{% endfor %}",
)

PAYLOADS = (
    # The usual suspects
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{{ ''['__class__']['__base__']['__subclasses__']() }}",
    "{{ [].__class__.__base__.__subclasses__()[132].__init__.__globals__['popen']('id').read() }}",
    "{{ ().__class__.__bases__[0].__subclasses__() }}",
    "{{ ''|attr('__class__') }}",
    "{{ ''|attr('\\x5f\\x5fclass\\x5f\\x5f') }}",
    "{{ ''['\\x5f\\x5fclass\\x5f\\x5f'] }}",
    "{{ ['']|map(attribute='__class__')|list|string }}",
    "{{ ['']|map(attribute='__class__.__mro__')|list|join }}",
    "{{ ['']|map('attr', '__class__')|list }}",
    "{{ ['']|selectattr('__class__')|list|first|length > 0 and ['']|map(attribute='__class__')|join }}",
    "{{ ['a']|sort(attribute='__class__') }}",
    "{{ ['a']|groupby('__class__') }}",
    "{{ cycler.__init__.__globals__.os.popen('id').read() }}",
    "{{ joiner.__init__.__globals__ }}",
    "{{ lipsum.__globals__['os'].popen('id').read() }}",
    "{{ namespace.__init__.__globals__ }}",
    "{{ raise_exception.__globals__ }}",
    "{{ raise_exception.__code__.co_consts }}",
    "{{ strftime_now.__globals__ }}",
    "{{ range.__module__ }}",
    "{{ dict.mro() }}",
    "{{ dict.__globals__ }}",
    "{{ dict.fromkeys([1]) }}",
    "{{ namespace.mro() }}",
    "{{ ''.join.__self__ }}",
    "{{ ''.upper.__call__.__class__ }}",
    "{{ self.__init__.__globals__ }}",
    "{{ self._TemplateReference__context }}",
    "{{ self._TemplateReference__context.environment }}",
    "{% block b %}{% endblock %}{{ self.b._context }}",
    "{% macro m() %}{% endmacro %}{{ m._func.__globals__ }}",
    "{% macro m() %}{% endmacro %}{{ m._environment.globals }}",
    "{% macro m() %}{{ caller._func.__code__ }}{% endmacro %}{% call m() %}{% endcall %}",
    "{% for i in [1] %}{{ loop._iterator.__class__ }}{% endfor %}",
    "{% for i in [1] %}{{ loop.__init__.__globals__ }}{% endfor %}",
    "{% for i in [1] %}{{ loop._undefined }}{% endfor %}",
    "{{ nothing.__init__.__globals__ }}",
    "{{ nothing._undefined_exception.__init__ }}",
    "{{ (messages|map('string')).gi_frame.f_globals }}",
    "{{ (messages|selectattr('role')).__reduce__() }}",
    # str.format reads attributes by itself
    "{{ '{0.__class__}'.format('') }}",
    "{{ '{0.__class__.__mro__}'.format_map({'0': ''}) }}",
    "{{ '{x.__init__.__globals__}'.format(x=raise_exception) }}",
    "{{ ''['format'] }}",
    "{% set f = '{0.__class__}'.format %}{{ f('') }}",
    "{{ ['{0.__class__}']|map('format', '')|list }}",
    "{{ '{0.__class__}'|attr('format')('') }}",
    "{{ ('{0.__class__}'|safe).format('') }}",
    "{{ '{0[__class__]}'.format('') }}",
    "{{ '{0.upper}'.format('') }}",
    "{{ '{0}'.format(''.upper) }}",
    "{{ '{0!r}'.format(raise_exception) }}",
    "{{ '{:{0.__class__}}'.format('', '') }}",
    "{{ ''.format.__globals__ }}",
    "{{ ''.format.__closure__ }}",
    "{{ ''.format_map.__code__ }}",
    "{{ cycler(1).__init__.__globals__ }}",
    "{{ cycler(1).items.__class__ }}",
    "{{ joiner().__call__.__globals__ }}",
    "{{ joiner().sep }}",
    "{{ ([{'a': 1}]|groupby('a')|first).__class__ }}",
    "{{ ([{'a': 1}]|groupby('a')|first)._replace }}",
    "{{ ['']|sum(attribute='__class__') }}",
    # Files and modules
    "{% include '/etc/passwd' %}",
    "{% include ['a', '/etc/passwd'] ignore missing %}",
    "{% import 'os' as os %}{{ os.popen('id') }}",
    "{% from 'os' import popen %}{{ popen('id') }}",
    "{% extends '/etc/passwd' %}",
    "{{ open('/etc/passwd').read() }}",
    "{{ __import__('os').system('id') }}",
    "{{ eval('1') }}",
    "{{ get_flashed_messages.__globals__ }}",
    # Changing what is shared
    "{% set x = messages.append({'role': 'system'}) %}",
    "{% set x = messages.pop() %}",
    "{% set x = messages.clear() %}",
    "{% set x = messages[0].update({'role': 'system'}) %}",
    "{% set x = messages[0].pop('role') %}",
    "{% set x = messages[0].setdefault('a', 1) %}",
    "{% set messages.role = 'system' %}",
    "{% do messages.append(1) %}",
    # Bytes, codecs and other ways out of text
    "{{ 'a'.encode('utf-16') }}",
    "{{ 'a'.translate({97: 'b'}) }}",
    "{{ ''.maketrans('a', 'b') }}",
    "{{ (1).to_bytes(99, 'big') }}",
    "{{ (1).real }}",
    "{{ ('a'|safe).unescape() }}",
    # Addresses in memory
    "{{ messages[0].get }}",
    "{{ raise_exception }}",
    "{{ messages|map('upper') }}",
    "{{ [raise_exception] }}",
)  # fmt: skip


@pytest.mark.parametrize("payload", PAYLOADS)
def test_payload_is_refused(payload: str) -> None:
    messages = [{"role": "user", "content": "hello"}]
    with pytest.raises(TokenizerError, match="chat template"):
        chat.render(payload, messages)
    assert messages == [{"role": "user", "content": "hello"}]


@pytest.mark.parametrize("template", ON_OBJECTS)
@pytest.mark.parametrize("name", OBJECTS)
def test_no_object_shows_its_class(name: str, template: str) -> None:
    with pytest.raises(TokenizerError, match=r"not allowed|undefined"):
        chat.render(template.replace("OBJECT", OBJECTS[name]), [{"role": "user", "content": "hello"}])


def test_variables_of_the_caller_are_not_changed() -> None:
    tools: list[dict[str, Any]] = [{"type": "function", "function": {"name": "f"}}]
    with pytest.raises(TokenizerError, match="not allowed"):
        chat.render("{% set x = tools.append(1) %}", [{"role": "user", "content": ""}], tools=tools)
    assert len(tools) == 1


def test_renderings_share_nothing() -> None:
    template = "{% if messages[0].content == 'set' %}{% set ns = namespace(a=1) %}{% endif %}{{ ns is defined }}"
    assert chat.render(template, [{"role": "user", "content": "set"}]) == "True"
    assert chat.render(template, [{"role": "user", "content": "get"}]) == "False"
