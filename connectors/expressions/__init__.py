"""Expressions on a record: a subset of Python that can do nothing but compute.

::

    large = Expression("amount > 100 and country in ['DE', 'FR']")
    large.evaluate({"amount": 120, "country": "DE"})   # True

The text is parsed once, checked against an allow-list of syntax and compiled. docs/transforms.md has the
language; `functions.FUNCTIONS` has every function.
"""

from connectors.expressions.expression import (
    Expression,
    ExpressionError,
    ExpressionText,
    InvalidExpressionError,
    as_mapping,
    as_mappings,
)

__all__ = [
    "Expression",
    "ExpressionError",
    "ExpressionText",
    "InvalidExpressionError",
    "as_mapping",
    "as_mappings",
]
