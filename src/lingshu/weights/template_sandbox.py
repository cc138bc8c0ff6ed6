"""Jinja templates of strangers, rendered in this process with bounded work, memory and output.

The environment is what transformers renders chat templates with (`render_jinja_template` in
transformers/utils/chat_template_utils.py of 5.24: the same options, tags, filters and globals), on
jinja2's immutable sandbox. The sandbox keeps a template from Python and the disk, and leaves it free
to loop for hours and to fill the memory. Here each operation that repeats or that makes a value is
paid from one budget: a step for each iteration and call, a unit for each character and element.
Operations that grow their result out of proportion (`*`, `replace`, `join`, widths) are paid before
they run, and filters and methods that no chat template needs do not exist. So the same template and
dialogue always end the same way, whatever the speed of the machine; a limit of processor time is
behind that, for comparisons and searches of long strings, which are not counted.
"""

from __future__ import annotations

import functools
import json
import re
import time
import types
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension, loopcontrols
from jinja2.filters import FILTERS
from jinja2.runtime import Context, Macro
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace
from jinja2.visitor import NodeTransformer

MAX_SOURCE = 1 << 17  # characters; the longest published chat templates have some 20,000
BUDGET = 1 << 21  # units of a render, besides INPUT_FACTOR for each unit of its messages
INPUT_FACTOR = 64
MAX_OUTPUT = 1 << 20  # characters, besides four times those of the messages
STEP = 16  # units of an iteration or a call
MAX_SECONDS = 2.0  # of processor time
CLOCK_INTERVAL = 64  # steps between two looks at the clock
MAX_INTEGER = 100_000  # of an argument: a width, a count, the end of a range
MAX_INTEGER_BITS = 1024
MAX_DEPTH = 64  # of values inside values

_STRING_METHODS = frozenset(
    [
        "capitalize",
        "casefold",
        "center",
        "count",
        "endswith",
        "find",
        "index",
        "isalnum",
        "isalpha",
        "isascii",
        "isdecimal",
        "isdigit",
        "islower",
        "isnumeric",
        "isspace",
        "istitle",
        "isupper",
        "join",
        "ljust",
        "lower",
        "lstrip",
        "partition",
        "removeprefix",
        "removesuffix",
        "replace",
        "rfind",
        "rindex",
        "rjust",
        "rpartition",
        "rsplit",
        "rstrip",
        "split",
        "splitlines",
        "startswith",
        "strip",
        "swapcase",
        "title",
        "upper",
        "zfill",
    ]
)
_CONTAINER_METHODS = frozenset(["copy", "count", "get", "index", "items", "keys", "values"])
_FILTERS = frozenset(
    [
        "abs",
        "batch",
        "capitalize",
        "center",
        "count",
        "d",
        "default",
        "dictsort",
        "e",
        "escape",
        "first",
        "float",
        "forceescape",
        "format",
        "groupby",
        "indent",
        "int",
        "items",
        "join",
        "last",
        "length",
        "list",
        "lower",
        "map",
        "max",
        "min",
        "reject",
        "rejectattr",
        "replace",
        "reverse",
        "round",
        "safe",
        "select",
        "selectattr",
        "slice",
        "sort",
        "string",
        "sum",
        "title",
        "tojson",
        "trim",
        "truncate",
        "unique",
        "upper",
        "wordcount",
    ]
)
# Filters that turn what they are given into text.
_STRINGIFYING = frozenset(
    ["string", "e", "escape", "forceescape", "join", "replace", "indent", "tojson", "trim"]
)
_COMPARING_TESTS = frozenset(
    [
        "in",
        "eq",
        "equalto",
        "==",
        "ne",
        "!=",
        "lt",
        "<",
        "lessthan",
        "le",
        "<=",
        "gt",
        ">",
        "greaterthan",
        "ge",
        ">=",
    ]
)
_REFUSED_NODES = (
    nodes.Include,
    nodes.Import,
    nodes.FromImport,
    nodes.Extends,
    nodes.EvalContextModifier,
)
# A width, or a format specification that an argument may fill in.
_WIDE_FORMAT = re.compile(r"%[^a-zA-Z%]*(?:\d{4}|\*)")


class TemplateError(Exception):
    """A template that cannot be used, or that refuses these messages.

    `is_own_message`: the message is what the template raises, or about its text, and holds nothing
    of the messages.
    """

    def __init__(self, message: str, *, is_own_message: bool = True) -> None:
        super().__init__(" ".join("".join(c if c.isprintable() else " " for c in message).split()))
        self.is_own_message = is_own_message


class _OverBudgetError(Exception):
    """Not one of jinja2's, so that no test or filter of a template takes it for its own."""


class _Meter:
    """What one render has used."""

    def __init__(self, input_size: int) -> None:
        self.left = BUDGET + INPUT_FACTOR * input_size
        self.max_output = MAX_OUTPUT + 4 * input_size
        self.uses_clock = False
        self._steps = 0
        self._deadline = time.thread_time() + MAX_SECONDS

    def pay(self, units: int) -> None:
        self.left -= units
        if self.left < 0:
            raise _OverBudgetError("does more work than any chat template needs")

    def step(self, weight: int = 1) -> None:
        self.pay(STEP * weight)
        self._steps += weight
        if self._steps >= CLOCK_INTERVAL:
            self._steps = 0
            if time.thread_time() > self._deadline:
                raise _OverBudgetError(f"needs more than {MAX_SECONDS:g} s")


_CONTAINERS = (
    list,
    tuple,
    set,
    frozenset,
    *(type(view()) for view in ({}.keys, {}.values, {}.items)),
)


def _measure(value: object, meter: _Meter, depth: int = 0) -> int:
    """Characters and elements of a value written out, shared parts as often as they appear; stops
    where that exceeds what the meter has left.
    """
    if isinstance(value, str):
        return len(value)
    if isinstance(value, Mapping):
        items: Iterable[object] = (part for item in value.items() for part in item)
    elif isinstance(value, _CONTAINERS):
        items = value
    else:
        return 16
    if depth >= MAX_DEPTH:
        raise _OverBudgetError(f"nests values more than {MAX_DEPTH} deep")
    total = 1
    for item in items:
        total += 1 + _measure(item, meter, depth + 1)
        if total > meter.left:
            raise _OverBudgetError("builds a value that is too large")
    return total


def _check_arguments(arguments: Iterable[object]) -> None:
    for argument in arguments:
        if isinstance(argument, int) and abs(argument) > MAX_INTEGER:
            raise _OverBudgetError(f"counts to more than {MAX_INTEGER:,}")


def _check_format(text: str) -> None:
    if _WIDE_FORMAT.search(text):
        raise _OverBudgetError("formats a value to a width that no chat template needs")


class _BoundedNamespace(Namespace):
    """namespace(...) of a template; it cannot hold another, so that no value contains itself."""

    def __init__(*args: Any, **kwargs: Any) -> None:
        self, values = args[0], dict(*args[1:], **kwargs)
        for name, value in values.items():
            _check_namespace(name, value)
        Namespace.__init__(self, values)

    def __setitem__(self, name: str, value: Any) -> None:
        _check_namespace(name, value)
        super().__setitem__(name, value)

    def __repr__(self) -> str:
        return "<namespace>"


def _check_namespace(name: object, value: object) -> None:
    if str(name).startswith("_"):
        raise SecurityError(f"a namespace cannot hold {str(name)[:40]!r}")
    if isinstance(value, Namespace):
        raise SecurityError("a namespace cannot hold a namespace")


class _GenerationTag(Extension):
    """{% generation %} marks answers for a mask that is not used here; its body is rendered."""

    tags = {"generation"}  # noqa: RUF012 - read by jinja2

    def parse(self, parser: Any) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.Scope(body, lineno=line)


class _Instrument(NodeTransformer):
    """Makes a template pay for loops, macros, concatenations, slices and literals."""

    def visit(self, node: nodes.Node, *args: Any, **kwargs: Any) -> Any:
        if isinstance(node, _REFUSED_NODES):
            raise SecurityError(f"no chat template needs its tag ({type(node).__name__})")
        return super().visit(node, *args, **kwargs)

    def visit_For(self, node: nodes.For) -> nodes.Node:
        return self._paying_body(node)

    visit_Macro = visit_CallBlock = visit_Block = visit_For

    def _paying_body(self, node: Any) -> nodes.Node:
        n_nodes = sum(1 for child in node.body for _ in child.find_all(nodes.Node))
        n_characters = sum(
            len(data.data) for child in node.body for data in child.find_all(nodes.TemplateData)
        )
        self.generic_visit(node)
        arguments = [nodes.Const(1 + n_nodes // 64), nodes.Const(n_characters)]
        node.body.insert(0, nodes.ExprStmt(_call("pay_iteration", arguments), lineno=node.lineno))
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:
        self.generic_visit(node)
        return _call("concatenate", node.nodes)

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Node:
        self.generic_visit(node)
        if not isinstance(node.arg, nodes.Slice):
            return node
        bounds = (node.arg.start, node.arg.stop, node.arg.step)
        return _call("take_slice", [node.node, *(bound or nodes.Const(None) for bound in bounds)])

    def visit_List(self, node: nodes.List) -> nodes.Node:
        self.generic_visit(node)
        return _call("pay_value", [node])

    visit_Dict = visit_List

    def visit_Tuple(self, node: nodes.Tuple) -> nodes.Node:
        self.generic_visit(node)
        return _call("pay_value", [node]) if node.ctx == "load" else node


def _call(name: str, arguments: Sequence[nodes.Node]) -> nodes.Node:
    function = nodes.EnvironmentAttribute(name)
    return nodes.Call(function, list(arguments), [], None, None)


class _BoundedEnvironment(ImmutableSandboxedEnvironment):
    """The environment of one template; `meter` is that of the render in progress."""

    intercepted_binops = frozenset({"+", "*", "**", "%"})
    meter: _Meter

    def __init__(self) -> None:
        # Not optimized: constants would be computed while the template is compiled.
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            extensions=[_GenerationTag, loopcontrols],
            finalize=_finalize,
            optimized=False,
            cache_size=0,
        )
        self.filters = {name: self._bounded_filter(name) for name in _FILTERS}
        self.tests = {
            name: self._bounded_test(test) if name in _COMPARING_TESTS else test
            for name, test in self.tests.items()
        }
        self.globals = {
            "range": self.globals["range"],
            "dict": _make_dict,
            "namespace": _BoundedNamespace,
            "cycler": self.globals["cycler"],
            "joiner": self.globals["joiner"],
            "raise_exception": _raise_exception,
            "strftime_now": lambda form: self._strftime_now(form),
        }

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        return _Instrument().visit(super()._parse(source, name, filename))

    def _strftime_now(self, form: str) -> str:
        if len(form) > 256:
            raise _OverBudgetError("writes dates that no chat template needs")
        self.meter.uses_clock = True
        return datetime.now().strftime(form)

    # What the instrumented template calls.

    def pay_iteration(self, weight: int, n_characters: int) -> None:
        self.meter.step(weight)
        self.meter.pay(n_characters)

    def pay_value(self, value: Any) -> Any:
        self.meter.pay(_measure(value, self.meter))
        return value

    def concatenate(self, *values: object) -> str:
        for value in values:
            self.meter.pay(_measure(value, self.meter))
        return "".join(map(str, values))

    def take_slice(self, value: Any, start: Any, stop: Any, step: Any) -> Any:
        taken = value[start:stop:step]
        self.meter.pay(len(taken))
        return taken

    # What jinja2 calls for expressions of the template.

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        meter = self.meter
        if operator == "+" and not isinstance(left, int | float):
            meter.pay(_measure(left, meter) + _measure(right, meter))
        elif operator == "%":
            if isinstance(left, str):
                _check_format(left)
                meter.pay(len(left) + _measure(right, meter))
        elif isinstance(left, int) and isinstance(right, int):
            bits = left.bit_length() * abs(right) if operator == "**" else left.bit_length()
            if max(bits, right.bit_length()) > MAX_INTEGER_BITS:
                raise _OverBudgetError("computes a number that no chat template needs")
        elif operator == "*":
            value, count = (right, left) if isinstance(left, int) else (left, right)
            if isinstance(count, int):
                meter.pay(max(count, 0) * _measure(value, meter))
        return super().call_binop(context, operator, left, right)

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:
        self, function = __self, __obj
        if getattr(function, "__self__", None) is self:
            return function(*args)  # what _Instrument added
        meter = self.meter
        meter.step()
        _check_arguments(args)
        _check_arguments(kwargs.values())
        if isinstance(function, types.BuiltinMethodType):
            self._check_method(function, args)
        elif isinstance(function, Macro) and (function.catch_varargs or function.catch_kwargs):
            meter.pay(_measure(args, meter) + _measure(kwargs, meter))
        return self._paid(super().call(__context, function, *args, **kwargs))

    def _check_method(self, method: types.BuiltinMethodType, args: Sequence[Any]) -> None:
        """Refuse a method that is not known; pay before one that may grow its string."""
        owner, name = method.__self__, method.__name__
        if isinstance(owner, str):
            if name not in _STRING_METHODS:
                raise SecurityError(f"it calls str.{name}")
            self.meter.pay(len(owner))
            if name == "replace" and len(args) > 1:
                self._pay_replace(owner, *args[:2])
            elif name == "join" and args:
                self.meter.pay(len(owner) * _length(args[0]) + _measure(args[0], self.meter))
            elif name in ("center", "ljust", "rjust", "zfill"):
                self.meter.pay(max((a for a in args if isinstance(a, int)), default=0))
        elif name not in _CONTAINER_METHODS:
            raise SecurityError(f"it calls {type(owner).__name__}.{name}")

    def _pay_replace(self, text: str, old: object, new: object) -> None:
        old, new = str(old), str(new)
        self.meter.pay(len(text) + (text.count(old) if old else len(text) + 1) * len(new))

    def _paid(self, result: Any) -> Any:
        """A result after payment; what is computed on demand is computed now."""
        if isinstance(result, types.GeneratorType):
            result = list(result)
        if isinstance(result, str | list | tuple | dict):
            self.meter.pay(_measure(result, self.meter))
        return result

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        text = getattr(value, "__self__", None)
        if isinstance(text, str) and getattr(value, "__name__", "") in ("format", "format_map"):
            # The text after a colon may come from an argument and may be a width.
            if re.search(r"\{[^{}]*[:{]", text):
                raise SecurityError("it formats with a specification")
            self.meter.pay(len(text))
        return super().wrap_str_format(value)

    def _bounded_filter(self, name: str) -> Callable[..., Any]:
        stock = _to_json if name == "tojson" else FILTERS[name]
        # Filters that need a context take it first.
        n_first = 1 if hasattr(stock, "jinja_pass_arg") else 0

        @functools.wraps(stock)
        def bounded(*args: Any, **kwargs: Any) -> Any:
            meter = self.meter
            meter.step()
            value, *rest = args[n_first:] or (None,)
            _check_arguments(rest)
            _check_arguments(kwargs.values())
            arguments = [*rest, *kwargs.values()]
            size = _measure(value, meter) if name in _STRINGIFYING else _length(value)
            meter.pay(size)
            if name == "replace" and len(arguments) > 1:
                self._pay_replace(str(value), *arguments[:2])
            elif name == "join" and arguments:
                meter.pay(_length(value) * len(str(arguments[0])))
            elif name in ("indent", "tojson"):
                factor = max(
                    (a if isinstance(a, int) else len(str(a)) for a in arguments), default=0
                )
                meter.pay(size * factor * (MAX_DEPTH if name == "tojson" else 1))
            elif name == "format":
                _check_format(str(value))
                meter.pay(_measure(arguments, meter))
            elif name == "sum" and not all(isinstance(a, int | float | str) for a in arguments):
                raise SecurityError("it adds up values that are not numbers")
            return self._paid(stock(*args, **kwargs))

        return bounded

    def _bounded_test(self, stock: Callable[..., bool]) -> Callable[..., bool]:
        def bounded(value: object, other: object) -> bool:
            self.meter.step()
            self.meter.pay(_length(other))
            return stock(value, other)

        return bounded


def _length(value: object) -> int:
    return len(value) if isinstance(value, str | list | tuple | Mapping | range) else 1


@jinja2.pass_context
def _finalize(context: Context, value: object) -> object:
    """Pay for what an expression writes."""
    environment = context.environment
    assert isinstance(environment, _BoundedEnvironment)
    return environment.pay_value(value)


def _raise_exception(message: object) -> None:
    raise jinja2.TemplateError(str(message))


def _make_dict(*args: Any, **kwargs: Any) -> dict[Any, Any]:
    return dict(*args, **kwargs)


def _to_json(
    value: object,
    ensure_ascii: bool = False,
    indent: int | str | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


class BoundedText(str):
    """What a template wrote; `uses_clock` says that it asked for the time."""

    uses_clock = False


class BoundedTemplate:
    """A compiled template.

    Raises:
        TemplateError: it is too long, or cannot be parsed.
    """

    def __init__(self, source: str) -> None:
        if len(source) > MAX_SOURCE:
            raise TemplateError(f"it has {len(source):,} characters, more than {MAX_SOURCE:,}")
        self._source = source
        try:
            self._environment = _BoundedEnvironment()
            self._template = self._environment.from_string(source)
        except jinja2.TemplateSyntaxError as error:
            raise TemplateError(f"line {error.lineno}: {error.message}") from None
        except Exception as error:
            raise TemplateError(f"it cannot be compiled ({_words(error)})") from None

    def render(self, variables: Mapping[str, Any], *, input_size: int) -> BoundedText:
        """The text for these variables, whose strings have `input_size` characters.

        Raises:
            TemplateError: it refuses them, does something that is not allowed, or does not end
                within its bounds.
        """
        meter = self._environment.meter = _Meter(input_size)
        pieces: list[str] = []
        size = 0
        try:
            for piece in self._template.root_render_func(
                self._template.new_context(dict(variables))
            ):
                pieces.append(piece)
                size += len(piece)
                if size > meter.max_output:
                    raise _OverBudgetError("writes more than any chat template needs")
        except _OverBudgetError as error:
            raise TemplateError(f"it {error}") from None
        except Exception as error:
            words = _words(error)
            raise TemplateError(words, is_own_message=words in self._source) from None
        rendered = BoundedText("".join(pieces))
        rendered.uses_clock = meter.uses_clock
        return rendered


def _words(error: Exception) -> str:
    return str(error).split("\n")[0][:200] or type(error).__name__


@functools.lru_cache(maxsize=16)
def compile_template(source: str) -> BoundedTemplate:
    """The template of a source text, compiled once.

    Raises:
        TemplateError: it is too long, or cannot be parsed.
    """
    return BoundedTemplate(source)
