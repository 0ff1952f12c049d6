"""A chat template is a program that comes with the base: it stays in its sandbox, and within time, memory and size."""

from __future__ import annotations

import multiprocessing
import resource
import signal
import sys
from types import FrameType
from typing import Any

import pytest

from ft_pipeline.datasets import template_limits
from ft_pipeline.datasets.rendering import ChatRenderer, TemplateRefusal
from ft_pipeline.datasets.template_limits import OVER_TIME, TimeLimit, limit_memory
from ft_pipeline.datasets.tokenizer import Tokenizer
from ft_pipeline.errors import BaseModelError, ConversionError
from ft_pipeline.quantization import llama_template
from ft_pipeline.quantization.llama_template import LlamaTemplate

_ASK = [{"role": "user", "content": "hi"}]
_ESCAPES = {
    "classes": "{{ ''.__class__.__mro__ }}",
    "globals": "{{ cycler.__init__.__globals__.os.system('true') }}",
    "format": "{{ '{0.__class__.__mro__}'.format(messages) }}",
    "changes what it is given": "{{ messages.append(1) }}",
    "a range without end": "{% for i in range(10 ** 12) %}x{% endfor %}",
    "recursion": "{% macro f(n) %}{{ f(n + 1) }}{% endmacro %}{{ f(0) }}",
    "deep parentheses": "{{ " + "(" * 3000 + "1" + ")" * 3000 + " }}",
    "deep blocks": "{% if true %}" * 2000 + "{% endif %}" * 2000,
    "a number of too many digits": "{{ 7 ** 99999 }}",
}
_LONG = {
    "loops in loops": "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
    "a power": "{{ 10 ** (10 ** 10) }}",
    "squares": "{% set n = namespace(x=3 ** 999) %}{% for i in range(40) %}{% set n.x = n.x * n.x %}{% endfor %}",
}
# In C code that looks for no signal; sixty deep it takes longer than the world has been there.
_ENDLESS = {
    "a hash": (
        "{% set n = namespace(t=(1,)) %}{% for i in range(60) %}{% set n.t = (n.t, n.t) %}{% endfor %}{{ {n.t: 1} }}"
    ),
    "a comparison": (
        "{% set n = namespace(x=[1], y=[1]) %}{% for i in range(60) %}"
        "{% set n.x = [n.x, n.x] %}{% set n.y = [n.y, n.y] %}{% endfor %}{{ n.x == n.y }}"
    ),
}
_LARGE = {
    "doubling": "{% set n = namespace(x='a') %}{% for i in range(60) %}{% set n.x = n.x ~ n.x %}{% endfor %}",
    "repeating": "{{ 'a' * 10 ** 11 }}",
    "padding": "{{ 'a'|center(10 ** 11) }}",
    "a wide format": "{{ '%100000000000d' % 1 }}",
    "a list": "{{ ([0] * 10 ** 10)|length }}",
    "joining": "{{ range(99999)|map('string')|join('x' * 10 ** 6) }}",
}


@pytest.mark.parametrize("template", _ESCAPES.values(), ids=_ESCAPES)
def test_what_the_sandbox_forbids_is_a_row_that_is_refused(template: str) -> None:
    with pytest.raises(TemplateRefusal):
        _render(template)


@pytest.mark.parametrize("template", _LONG.values(), ids=_LONG)
def test_a_template_that_computes_too_long_is_ended(template: str, monkeypatch: pytest.MonkeyPatch) -> None:
    _render("{{ messages[0].content }}")  # the first rendering imports
    monkeypatch.setattr(template_limits, "MAX_CPU_SECONDS", 0.5)
    with pytest.raises(BaseModelError, match=r"within 0.5 s of computing; that of somebody's base does not"):
        _render(template)
    assert _render("{{ messages[0].content }}") == "hi"  # the process is none the worse


@pytest.mark.parametrize("template", _LARGE.values(), ids=_LARGE)
def test_a_template_that_takes_too_much_memory_is_ended(template: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(template_limits, "MAX_MEMORY_BYTES", 256 << 20)
    before = resource.getrlimit(resource.RLIMIT_AS)
    with pytest.raises(BaseModelError, match=r"of memory; that of somebody's base does not"):
        _render(template)
    assert resource.getrlimit(resource.RLIMIT_AS) == before
    assert _render("{{ messages[0].content }}") == "hi"


def test_a_template_that_writes_beyond_all_measure_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(template_limits, "MAX_TEXT_CHARS", 1000)
    with pytest.raises(BaseModelError, match=r"within 1,000 characters"):
        _render("{{ 'a' * 1001 }}")


def test_a_timer_that_rings_as_the_rendering_ends_is_no_fault() -> None:
    before = signal.getsignal(signal.SIGPROF)

    def ring_on_leaving(frame: FrameType, event: str, _argument: object) -> None:
        if event == "call" and frame.f_code.co_name == "__exit__":
            signal.raise_signal(signal.SIGPROF)

    try:
        with TimeLimit("a base"):
            sys.setprofile(ring_on_leaving)
        sys.setprofile(None)
        assert signal.getitimer(signal.ITIMER_PROF) == (0.0, 0.0)
    finally:
        sys.setprofile(None)
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def test_a_limit_that_was_stricter_stays() -> None:
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.apply(_limit_twice)


@pytest.mark.parametrize(
    ("template", "end"),
    [
        (_LONG["loops in loops"], "does not render a conversation within 1 s"),
        (_LARGE["doubling"], "does not render a conversation within 1 s|bad_alloc|ended with"),
        (_ESCAPES["recursion"], "its engine ended with SIGSEGV"),
    ],
)
def test_llama_cpps_engine_is_ended_with_its_template(template: str, end: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(llama_template, "_MAX_SECONDS", 1.0)
    with LlamaTemplate(template, "<s>", "</s>") as engine, pytest.raises(ConversionError, match=end):
        engine.render(_ASK, add_generation_prompt=False)


def test_llama_cpps_engine_cannot_fill_our_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(llama_template, "_MAX_ANSWER_BYTES", 100_000)
    writes = "{% if messages|length > 1 %}{% for i in range(9999) %}" + "x" * 100 + "{% endfor %}{% endif %}"
    talk = [*_ASK, {"role": "assistant", "content": "ho"}]
    with LlamaTemplate(writes, "<s>", "</s>") as engine, pytest.raises(ConversionError, match="it writes more than"):
        engine.render(talk, add_generation_prompt=False)


def _render(template: str) -> str:
    nothing: dict[Any, Any] = {}
    tokenizer = Tokenizer("somebody's base", None, True, nothing, nothing, None, None, None, False, {False: template})
    with limit_memory("somebody's base"):
        return ChatRenderer(tokenizer).render(_ASK, None, open_turn=False)


def _limit_twice() -> bool:
    resource.setrlimit(resource.RLIMIT_AS, (8 << 30, resource.RLIM_INFINITY))
    template_limits.MAX_MEMORY_BYTES = 1 << 40
    with limit_memory("x"):
        return resource.getrlimit(resource.RLIMIT_AS)[0] == 8 << 30


@pytest.mark.parametrize("template", _ENDLESS.values(), ids=_ENDLESS)
def test_a_template_that_python_cannot_end_takes_its_process_along(template: str) -> None:
    process = multiprocessing.get_context("spawn").Process(target=_render_briefly, args=(template,))
    process.start()
    process.join(120)
    assert process.exitcode == -OVER_TIME


def _render_briefly(template: str) -> None:
    _render("{{ messages[0].content }}")
    template_limits.MAX_CPU_SECONDS = 0.5
    _render(template)
