"""An expression: its text, the compiled function, and errors that show where it failed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from traceback import walk_tb
from types import FunctionType, TracebackType
from typing import Annotated, Any, Final

from pydantic import AfterValidator, BaseModel, WithJsonSchema

from connectors.expressions.compiling import CODE_NAME, LINES, compile_assignments, compile_text, fields_read
from connectors.expressions.failures import EvaluationError
from engine.contract.each import map_each
from engine.contract.plain import model_to_json
from engine.errors import RecordError

SHOWN: Final = 120


class ExpressionError(RecordError):
    """An expression failed for a record; the message names the expression and the place, but no value."""

    def __init__(self, message: str) -> None:
        super().__init__(message, kind="ExpressionError", unplanned=True)


class Expression:
    """A compiled expression.

    Attributes:
        text: source text of the expression.
        shown: text that errors quote (default: `text`).
        function: takes a mapping and returns the value; `failure` turns what it raises into an error.

    Raises:
        InvalidExpressionError: the text is not an expression.
    """

    __slots__ = ("function", "shown", "text")

    def __init__(self, text: str, shown: str = "") -> None:
        self.text = text
        self.shown = shown or text
        self.function: FunctionType = compile_text(text)

    @property
    def fields(self) -> list[tuple[str, ...]]:
        """The paths of the fields it reads without a fallback for missing ones."""
        return fields_read(self.text)

    def __repr__(self) -> str:
        return f"Expression({self.text!r})"

    def evaluate(self, record: Any) -> Any:
        """Compute the expression for one record, a mapping or a Pydantic model.

        Raises:
            ExpressionError: it fails for this record.
        """
        mapping = as_mapping(record)
        try:
            return self.function(mapping)
        except Exception as error:  # noqa: BLE001 - the boundary to the operators of values
            raise self.failure(error) from None

    def evaluate_all(self, records: Sequence[Mapping[str, Any]]) -> tuple[list[Any], bool]:
        """Compute the expression for mappings; a value that cannot be computed is replaced by its error.

        Returns:
            The values, and whether any of them is an error.
        """
        return map_each(self.function, records, lambda error, _: self.failure(error))

    def failure(self, error: Exception, prefix: str = "") -> ExpressionError:
        """Return the error to show for an exception of `function`; its message starts with `prefix`."""
        part = self._part(error.__traceback__)
        shown = _shortened(self.shown)
        named = part and part in self.shown and part != self.shown.strip()
        inside = f" in `{_shortened(part)}`" if named else ""
        return ExpressionError(f"{prefix}expression `{shown}` failed{inside}: {_reason(error)}")

    def _part(self, trace: TracebackType | None) -> str:
        """The part of the expression that failed, with its column."""
        found = ""
        while trace is not None:
            code = trace.tb_frame.f_code
            if code.co_filename == CODE_NAME:
                line, end_line, start, end = list(code.co_positions())[trace.tb_lasti // 2]
                if line is not None and end_line is not None:
                    found = self._source(line % LINES, end_line % LINES, start, end) or found
            trace = trace.tb_next
        return found

    def _source(self, line: int, end_line: int, start: int | None, end: int | None) -> str:
        if start is None or end is None or line != end_line:
            return ""
        # the first line was compiled with a bracket before it; columns are counted in bytes
        texts = f"({self.text}".split("\n")
        if not 1 <= line <= len(texts):
            return ""
        source = texts[line - 1].encode()
        return source[start:end].decode(errors="replace")


class Assignments:
    """Expressions that set the fields of a dict, in order; each sees the fields set before it."""

    __slots__ = ("expressions", "function")

    def __init__(self, expressions: Mapping[str, Expression]) -> None:
        self.expressions = dict(expressions)
        self.function = compile_assignments([(name, one.text) for name, one in expressions.items()])

    def failure(self, error: Exception) -> ExpressionError:
        """Return the error to show for an exception of `function`; its message names the field."""
        place = 0
        for frame, line in walk_tb(error.__traceback__):
            if frame.f_code.co_filename == CODE_NAME:
                place = line // LINES
        name = list(self.expressions)[place]
        return self.expressions[name].failure(error, f"field `{name}`: ")


def _reason(error: Exception) -> str:
    """Describe an exception without its own text, which may quote a value."""
    if isinstance(error, EvaluationError):
        return str(error)
    if isinstance(error, ZeroDivisionError):
        return "cannot divide by zero"
    if isinstance(error, OverflowError):
        return "the result is too large for a number"
    return f"the values do not fit ({type(error).__name__})"


def _shortened(text: str) -> str:
    plain = " ".join(text.split())
    return plain if len(plain) <= SHOWN else f"{plain[: SHOWN - 1]}…"


def as_mapping(record: Any) -> Mapping[str, Any]:
    """Return a record as a mapping: itself, or the fields of a Pydantic model.

    Raises:
        ExpressionError: the record is neither.
    """
    if isinstance(record, Mapping):
        return record
    if isinstance(record, BaseModel):
        return model_to_json(record)  # dates are ISO 8601 text, as in records that are mappings
    name = type(record).__name__
    raise ExpressionError(f"the record is of type {name}: expected a mapping or a Pydantic model")


def as_mappings(records: Sequence[Any]) -> Sequence[Mapping[str, Any]]:
    """Return records as mappings; the same list if all of them are dicts."""
    if set(map(type, records)) <= {dict}:
        return records
    return [as_mapping(record) for record in records]


def _checked(text: str) -> str:
    compile_text(text)
    return text


ExpressionText = Annotated[
    str,
    AfterValidator(_checked),
    WithJsonSchema({"type": "string", "description": "An expression on the record, see docs/transforms.md"}),
]
"""The type of a parameter that is an expression; an invalid one is a configuration error."""
