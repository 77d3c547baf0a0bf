"""Templates end: whatever one loops over or builds, it is rendered or refused within seconds."""

# ruff: noqa: E501

from __future__ import annotations

import resource
import time

import pytest

from pipelines import Example, SpecError
from pipelines.spec import bounded
from pipelines.spec.templates import check_templates
from pipelines.stages.prompts import render
from tests.agenttts.small_specs import small_spec

HOSTILE = {
    "a huge range": "{% for i in range(10**9) %}x{% endfor %}",
    "nested loops": "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
    "nested loops that print": "{% for i in range(99999) %}{% for j in range(99999) %}x{% endfor %}{% endfor %}",
    "a loop that calls itself": "{% for i in [1, 2] recursive %}{{ loop([1, 2]) }}{% endfor %}",
    "a macro that calls itself twice": "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}"
    "{{ f(99) }}",
    "a block that calls itself twice": "{% block b %}{{ self.b() }}{{ self.b() }}{% endblock %}",
    "a long filter chain": "{{ ([range(99999)] * 99999) | map('sum') | list }}",
    "sums in a loop": "{% for i in range(99999) %}{% set x = range(99999) | sum %}{% endfor %}",
    "tests in a list": "{{ range(99999) | select('in', range(99999) | list) | list | length }}",
    "a gigabyte of a letter": "{{ 'x' * 10**9 }}",
    "a gigabyte from the left": "{{ 10**9 * 'x' }}",
    "many items": "{{ ([1] * 10**9) | length }}",
    "a huge power": "{{ 10 ** (10 ** 8) }}",
    "a power again and again": "{% set ns = namespace(x=9) %}{% for i in range(99) %}{% set ns.x = ns.x * ns.x %}{% endfor %}",
    "doubling by +": "{% set ns = namespace(x='x') %}{% for i in range(99) %}{% set ns.x = ns.x + ns.x %}{% endfor %}",
    "doubling by ~": "{% set ns = namespace(x='x') %}{% for i in range(99) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}",
    "doubling by blocks": "{% set ns = namespace(x='x') %}{% for i in range(99) %}"
    "{% set y %}{{ ns.x }}{{ ns.x }}{% endset %}{% set ns.x = y %}{% endfor %}",
    "doubling by macros": "{% macro d(x) %}{{ x }}{{ x }}{% endmacro %}{{ "
    + "d(" * 60
    + "'x'"
    + ")" * 60
    + " }}",
    "doubling by lists": "{% set ns = namespace(x=['x']) %}{% for i in range(99) %}{% set ns.x = [ns.x, ns.x] %}{% endfor %}"
    "{{ ns.x }}",
    "doubling by namespaces": "{% set ns = namespace(x=1) %}{% for i in range(99) %}"
    "{% set ns.x = namespace(a=ns.x, b=ns.x) %}{% endfor %}{{ ns.x }}",
    "doubling by join": "{% set ns = namespace(x='x') %}{% for i in range(99) %}"
    "{% set ns.x = [ns.x, ns.x] | join %}{% endfor %}",
    "join by a method": "{{ ('x' * 10**6).join('y' * 10**6) }}",
    "doubling by format": "{% set ns = namespace(x='x') %}{% for i in range(99) %}"
    "{% set ns.x = '{0}{0}'.format(ns.x) %}{% endfor %}",
    "a wide field": "{{ '%1000000000d' % 1 }}",
    "a wide field by a value": "{{ '%*d' % (10**9, 1) }}",
    "a wide field of a filter": "{{ '%1000000000d' | format(1) }}",
    "a wide field of format": "{{ '{:1000000000}'.format(1) }}",
    "a wide field of format by a value": "{{ '{:{}}'.format(1, 10**9) }}",
    "a wide field of format_map": "{{ '{a:1000000000}'.format_map({'a': 1}) }}",
    "center": "{{ 'x' | center(10**9) }}",
    "center by map": "{{ ['x'] | map('center', 10**9) | list }}",
    "ljust": "{{ 'x'.ljust(10**9) }}",
    "zfill": "{{ 'x'.zfill(10**9) }}",
    "expandtabs": "{{ ('\\t' * 99999).expandtabs(99999) }}",
    "replace": "{{ ('x' * 10**6).replace('x', 'y' * 10**6) }}",
    "replace, the filter": "{{ ('x' * 10**6) | replace('x', 'y' * 10**6) }}",
    "indent": "{{ ('\\n' * 99999) | indent(99999) }}",
    "wordwrap": "{{ ('x ' * 5000) | wordwrap(1, wrapstring='y' * 10**6) }}",
    "tojson": "{{ (range(99999) | list) | tojson(indent=99999) }}",
    "batch": "{{ [1] | batch(10**9, 0) | list | length }}",
    "slice": "{{ [1] | slice(10**9) | list | length }}",
    "round": "{{ 1.5 | round(10**9, 'floor') }}",
    "bytes of a number": "{{ (1).to_bytes(10**9, 'big') | length }}",
    "bytes of a text": "{{ 'x'.encode().center(10**9) | length }}",
    "many large slices": "{% set x = range(99999) | list %}{% set ns = namespace(all=[]) %}{% for i in range(99999) %}"
    "{% set ns.all = [ns.all, x[1:]] %}{% endfor %}",
    "sum of lists": "{{ ([range(99999) | list] * 999) | sum(start=[]) | length }}",
    "links with a long attribute": "{{ ('a.com ' * 5000) | urlize(rel='y' * 10**6) }}",
    "links in a long text": "{{ ('www.' * 999999) | urlize }}",
    "deep brackets": "{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}",
    "words of latin": "{{ lipsum(10**6) }}",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_template_that_takes_too_much_is_refused(name: str) -> None:
    """The error names the field, and neither time nor memory is gone."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began = time.thread_time()
    with pytest.raises(SpecError) as caught:
        spec = small_spec(stages=[{"prompt": "{{ question }}" + HOSTILE[name]}])
        check_templates(spec)
        render(spec.stages[0], Example("1", {"question": "why"}), {})
    assert "stages[retrieve].prompt" in str(caught.value)
    assert time.thread_time() - began < 3 * bounded.MOST_CPU_S
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 700 * 1024


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("nested loops", "at most 200,000 rounds of loops and calls of macros"),
        ("a gigabyte of a letter", "at most 5,000,000 characters or items in a value"),
        ("doubling by ~", "at most 5,000,000 characters of text"),
        ("center", "at most 100,000 in center"),
        ("deep brackets", "nested too deeply"),
    ],
)
def test_the_rule_is_named(name: str, words: str) -> None:
    """With its number, so that whoever wrote the template knows what to change."""
    spec = small_spec(stages=[{"prompt": HOSTILE[name]}])
    with pytest.raises(SpecError, match=words):
        check_templates(spec)
        render(spec.stages[0], Example("1", {}), {})


def test_long_documents_and_rich_templates_are_rendered_as_before() -> None:
    """Loops with their variables, macros, formats, slices and a million characters are no matter."""
    prompt = """\
{%- macro line(d, n) %}[{{ n }}] {{ d.title | upper }}: {{ d.text[:20] ~ '…' }}{% endmacro -%}
{%- for d in documents %}{{ line(d, loop.index) }}{{ ', ' if not loop.last }}{% if loop.last %} of {{ loop.length }}{% endif %}
{%- endfor %}
{{ '%05.1f|{:>6}|{:,}' % 3.14159 }} {{ '{:>6}|{:,}'.format('x', 8_000_000_000) }} {{ documents | map(attribute='title') | join('+') }}
{{ 'n' * 3 }} {{ [1, 2] + [3] }} {{ {'a': (1, 2)} | tojson }} {{ 2 ** 10 }} {{ document | length }} {{ 'é' | center(5) }}
{% for a, b in [(1, 2), (3, 4)] if a > 1 %}{{ a + b }}{% else %}none{% endfor %} {{ document }}"""
    documents = [{"title": "one", "text": "t" * 50}, {"title": "two", "text": "u" * 50}]
    document = "word " * 200_000
    spec = small_spec(stages=[{"prompt": prompt}])
    rendered = render(spec.stages[0], Example("1", {"documents": documents, "document": document}), {})
    text = rendered["messages"][0]["content"]
    head = f"[1] ONE: {'t' * 20}…, [2] TWO: {'u' * 20}… of 2\n003.1|{{:>6}}|{{:,}}      x|8,000,000,000 one+two\n"
    assert text.startswith(head), text[:200]
    assert f'nnn [1, 2, 3] {{"a": [1, 2]}} 1024 1000000   é  \n7 {document}' in text
