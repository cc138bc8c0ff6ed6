"""Templates of strangers: what transformers renders is rendered alike, what has no end has one."""

from __future__ import annotations

import time

import pytest

from lingshu.weights.template_sandbox import MAX_SOURCE, TemplateError, compile_template

MESSAGES = [
    {"role": "user", "content": [{"type": "image", "image": 0}, {"type": "text", "text": " Hi "}]},
    {"role": "assistant", "content": "<think>\nwhy\n</think>\n\nyes"},
]


def render(source: str, **variables: object) -> str:
    return compile_template(source).render({"messages": MESSAGES, **variables}, input_size=100)


# In the forms that published templates use.
ORDINARY = (
    "{%- for m in messages %}\n    {%- if loop.first and m.role != 'system' %}S{% endif %}\n{{ m.role }}\n{% endfor %}",
    "{% for m in messages[::-1] %}{{ m['role'] ~ loop.index0 ~ loop.last }}{% endfor %}",
    "{% set ns = namespace(n=0, found=false) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}"
    "{% if m.role == 'assistant' %}{% set ns.found = true %}{% endif %}{% endfor %}{{ ns.n }}{{ ns.found }}",
    "{%- macro text(content) -%}{%- if content is string -%}{{ content }}{%- else -%}"
    "{%- for part in content if part.type == 'text' -%}{{ part.text | trim }}{%- endfor -%}{%- endif -%}{%- endmacro -%}"
    "{% for m in messages %}{{ text(m.content) }}{% endfor %}",
    "{{ messages[1].content.split('</think>')[-1].lstrip('\\n') }}",
    "{{ messages[1].content.split('<think>')[-1].rstrip('\\n') }}|{{ '</think>' in messages[1].content }}",
    "{{ messages | selectattr('role', 'equalto', 'user') | list | length }}",
    "{{ messages[0].content | map(attribute='type') | join(', ') }}",
    "{{ messages[0] | tojson }}{{ messages[0] | tojson(indent=2) }}",
    "{% for i in range(messages | length - 1, -1, -1) %}{{ i }}{% if i == 0 %}{% break %}{% endif %}{% endfor %}",
    "{{ tools is defined and tools }}{{ missing | default('none') }}{{ messages[9] is undefined }}",
    "{% generation %}{{ messages[1].content }}{% endgeneration %}",
    "{% set x %}{{ messages[0].role | upper }}{% endset %}{{ x * 2 }}{{ '%s-%03d' % (x, 7) }}{{ '{}!'.format(x) }}",
    "{% for key, value in {'b': 1, 'a': [2, 3]}.items() %}{{ key }}={{ value }};{% endfor %}",
    "{{ {'b': 1, 'a': 2} | dictsort }}{{ ['b', 'a'] | sort | first }}{{ dict(a=1) }}",
    "{% filter upper %}{% if not false and 1 in [1, 2] %}{{ 'a' if true else 'b' }}{% endif %}{% endfilter %}",
    "  {% if true %}\n  text\n  {% endif %}\n\nend\n",
)


@pytest.mark.parametrize("source", ORDINARY)
def test_a_template_renders_as_transformers_renders_it(source: str) -> None:
    from transformers.utils.chat_template_utils import render_jinja_template

    stock, _ = render_jinja_template([MESSAGES], chat_template=source, tools=None)
    assert render(source, tools=None, documents=None, add_generation_prompt=False) == stock[0]


DOUBLE = "{% set ns = namespace(a='x') %}{% for i in range(60) %}"
ENDLESS = (
    "{% for i in range(90000) %}{% for j in range(90000) %}{% endfor %}{% endfor %}",
    DOUBLE + "{% set ns.a = ns.a ~ ns.a %}{% endfor %}",
    DOUBLE + "{% set ns.a = ns.a + ns.a %}{% endfor %}",
    DOUBLE + "{% set ns.a = [ns.a, ns.a] %}{% endfor %}{{ ns.a == 1 }}",
    DOUBLE + "{% set ns.a = {'l': ns.a, 'r': ns.a} %}{% endfor %}{{ ns.a | tojson }}",
    DOUBLE + "{% set ns.a = ns.a | replace('x', 'xxx') %}{% endfor %}",
    "{{ ('x' * 6000000000) | length }}",
    "{{ [0] * 6000000000 }}",
    "{{ 10 ** 9999999999 }}",
    "{{ 'x' | center(6000000000) }}{{ 'x'.ljust(6000000000) }}",
    "{{ '%6000000000d' % 1 }}",
    "{{ '{:{}}'.format(1, '6000000000') }}",
    "{{ 'x'.join(['y' * 100000] * 100000) }}",
    "{{ ('\n' * 90000) | indent(90000) }}",
    "{% macro f(n) %}{{ f(n - 1) }}{{ f(n - 1) }}{% endmacro %}{{ f(1) }}",
    "{% macro f(n) %}{% if n %}{{ f(n - 1, varargs, varargs) }}{% else %}{{ varargs }}{% endif %}{% endmacro %}{{ f(60, 1) }}",
    "{% set x %}{% for i in range(100000) %}" + 1000 * "z" + "{% endfor %}{% endset %}",
    "{% set a = 'x' * 400000 %}{% for i in range(100000) %}{% if a[1:] == a %}{% endif %}{% endfor %}",
    "{% set a = range(50000) | list %}{{ a | reject('in', a) | list }}",
    "{{ " + "(" * 30000 + ")" * 30000 + " }}",
    "x" * (MAX_SOURCE + 1),
)


@pytest.mark.parametrize("source", ENDLESS, ids=range(len(ENDLESS)))
def test_a_template_that_would_not_end_or_fit_is_refused(source: str) -> None:
    start = time.process_time()
    with pytest.raises(TemplateError):
        render(source)
    assert time.process_time() - start < 20  # without a bound: hours, or all memory


FORBIDDEN = (
    "{{ cycler.__init__.__globals__.os.system('true') }}",
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{{ messages.append(1) }}",
    "{{ strftime_now.__globals__.x }}",
    "{% set ns = namespace() %}{% set ns.__class__ = 1 %}",
    "{% include 'other.jinja' %}",
    "{% import 'other.jinja' as other %}",
    "{% if %}",
    "{{ raise_exception('only text here') }}",
    "{{ 1 // 0 }}",
    "{{ 'x'.encode('utf-8') }}",
)


@pytest.mark.parametrize("source", FORBIDDEN)
def test_what_a_template_must_not_do_is_one_line(source: str) -> None:
    with pytest.raises(TemplateError) as caught:
        render(source)
    assert "\n" not in str(caught.value)


def test_a_message_of_the_template_differs_from_one_that_quotes_the_dialogue() -> None:
    with pytest.raises(TemplateError) as own:
        render("{{ raise_exception('roles must alternate') }}")
    with pytest.raises(TemplateError) as quoting:
        render("{{ raise_exception('bad: ' ~ messages[1].content) }}")
    assert (own.value.is_own_message, quoting.value.is_own_message) == (True, False)


def test_long_dialogues_have_more_room() -> None:
    text = "word " * 200_000
    source = "{% for m in messages %}{{ m.content | trim }}{{ m.content | length }}{% endfor %}"
    rendered = compile_template(source).render(
        {"messages": [{"content": text}] * 4}, input_size=4 * len(text)
    )
    assert len(rendered) == 4 * (len(text.strip()) + 7)


def test_asking_for_the_time_is_noted() -> None:
    template = compile_template("{{ strftime_now('%Y') }}")
    assert template.render({}, input_size=0).uses_clock
    assert not compile_template("2026").render({}, input_size=0).uses_clock
