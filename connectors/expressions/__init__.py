"""Expressions on a record: a subset of Python that can only compute values.

::

    large = Expression("amount > 100 and country in ['DE', 'FR']")
    large.evaluate({"amount": 120, "country": "DE"})   # True

The text is parsed once, checked against an allow-list of syntax and compiled. docs/transforms.md describes
the language; `functions.FUNCTIONS` holds all functions.
"""

from connectors.expressions.expression import (
    Expression,
    ExpressionError,
    ExpressionText,
    as_mapping,
    as_mappings,
)
from connectors.expressions.failures import InvalidExpressionError

__all__ = [
    "Expression",
    "ExpressionError",
    "ExpressionText",
    "InvalidExpressionError",
    "as_mapping",
    "as_mappings",
]
