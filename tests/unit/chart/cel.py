"""CEL as the API server evaluates it, by Google's implementation, with Kubernetes' functions.

Only what our rules use is here. Kubernetes' cost limits and type checks are not: the tests of the
cluster tier ask a real API server the same questions.
"""

import decimal
import functools
import re
from collections.abc import Mapping
from typing import Any

from cel_expr_python import cel
from cel_expr_python.ext import ext_optional, ext_strings
from kubernetes.utils import quantity

_ANY, _BOOL, _INT, _STRING = cel.Type.DYN, cel.Type.BOOL, cel.Type.INT, cel.Type.STRING
_LIST = cel.Type.List(_ANY)


def _quantity(text: str) -> decimal.Decimal:
    return decimal.Decimal(quantity.parse_quantity(text))


def _is_quantity(text: str) -> bool:
    try:
        _quantity(text)
    except (ValueError, decimal.InvalidOperation):
        return False
    return True


def _is_integer(text: str) -> bool:
    # Kubernetes does not look whether 1.5Gi is one, nor 100Ti (resource.ParseQuantity: precision).
    binary = re.fullmatch(r"[+-]?0*([0-9]+)([KMGTPE])i", text)
    if binary and len(binary[1]) + 3 * (1 + "KMGTPE".index(binary[2])) > 14:
        return False
    return "." not in text and abs(_quantity(text)) < 2**63 and _quantity(text) % 1 == 0


def _is_greater(one: str, other: str) -> bool:
    return _quantity(one) > _quantity(other)


def _last_index(of: list[Any], value: Any) -> int:
    return len(of) - 1 - of[::-1].index(value)


def _function(name: str, returns: Any, *takes: Any, member: bool = False, does: Any) -> Any:
    overload = cel.Overload(
        f"{name}_test", return_type=returns, parameters=list(takes), is_member=member, impl=does
    )
    return cel.FunctionDecl(name, [overload])


# A quantity is its text here: the library has no opaque values.
_KUBERNETES = cel.CelExtension(
    "kubernetes",
    [
        _function("lists.range", cel.Type.List(_INT), _INT, does=lambda size: list(range(size))),
        _function("indexOf", _INT, _LIST, _ANY, member=True, does=list.index),
        _function("lastIndexOf", _INT, _LIST, _ANY, member=True, does=_last_index),
        _function("quantity", _ANY, _STRING, does=str),
        _function("isQuantity", _BOOL, _STRING, does=_is_quantity),
        _function("isInteger", _BOOL, _ANY, member=True, does=_is_integer),
        _function("asInteger", _INT, _ANY, member=True, does=lambda text: int(_quantity(text))),
        _function("isGreaterThan", _BOOL, _ANY, _ANY, member=True, does=_is_greater),
    ],
)
_ENVIRONMENT = cel.NewEnv(
    variables={n: _ANY for n in ("object", "oldObject", "request", "variables", "self", "oldSelf")},
    extensions=[ext_optional.ExtOptional(), ext_strings.ExtStrings(), _KUBERNETES],
)


class CelError(Exception):
    """The expression has no value: to a user the API server would show its text."""


def evaluate(expression: str, **values: Any) -> Any:
    """The value of `expression`. Raises CelError."""
    result = _compiled(expression).eval(data=values)
    if result.type() == cel.Type.ERROR:
        raise CelError(f"{expression}: {result.plain_value()}")
    return result.plain_value()


@functools.cache
def _compiled(expression: str) -> Any:
    # A patch is a map here: JSONPatch{op: 'add', ...} is {'op': 'add', ...}.
    return _ENVIRONMENT.compile(
        re.sub(r"\b(op|value|path): ", r"'\1': ", expression.replace("JSONPatch{", "{"))
    )


def variables(spec: Mapping[str, Any], **values: Any) -> dict[str, Any]:
    """The variables of a policy. Raises CelError."""
    known: dict[str, Any] = {}
    for variable in spec.get("variables", ()):
        known[variable["name"]] = evaluate(variable["expression"], variables=known, **values)
    return known
