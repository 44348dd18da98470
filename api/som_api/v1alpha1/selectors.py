"""Label selectors, as in metav1.LabelSelector."""

import re
from collections.abc import Mapping
from typing import Annotated, Final, Literal, Self

import pydantic

from som_api.v1alpha1 import meta, quantities

_NAME: Final = r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?"
_KEY: Final = rf"^([a-z0-9]([-a-z0-9.]{{0,251}}[a-z0-9])?/)?{_NAME}$"
_VALUE: Final = rf"^({_NAME})?$"


# A SomPool from before these rules is read; what it selects is none of a Node's labels.
def _is_key(key: str, info: pydantic.ValidationInfo) -> str:
    if info.context == quantities.STRICT and not re.fullmatch(_KEY, key):
        raise ValueError(f"{key!r} is no key of a label; write NAME or DOMAIN/NAME")
    return key


def _is_value(value: str, info: pydantic.ValidationInfo) -> str:
    if info.context == quantities.STRICT and not re.fullmatch(_VALUE, value):
        raise ValueError(
            f"{value!r} is no value of a label; use at most 63 letters, digits, '-', '_' and '.'"
        )
    return value


Key = Annotated[str, pydantic.AfterValidator(_is_key)]
Value = Annotated[
    str, pydantic.AfterValidator(_is_value), pydantic.Field(json_schema_extra={"pattern": _VALUE})
]


class LabelSelectorRequirement(meta.ApiModel):
    """One rule about one label."""

    model_config = pydantic.ConfigDict(
        json_schema_extra={
            "x-kubernetes-validations": [
                {
                    "rule": "(self.operator in ['In', 'NotIn']) == "
                    "(has(self.values) && size(self.values) > 0)",
                    "message": "In and NotIn need values, Exists and DoesNotExist take none",
                }
            ]
        }
    )

    key: Annotated[
        Key,
        pydantic.Field(
            description="Label's key", max_length=317, json_schema_extra={"pattern": _KEY}
        ),
    ]
    operator: Annotated[
        Literal["In", "NotIn", "Exists", "DoesNotExist"],
        pydantic.Field(description="How the label's value relates to `values`"),
    ]
    values: Annotated[
        tuple[Annotated[Value, pydantic.Field(max_length=63)], ...],
        pydantic.Field(
            description="Values for In and NotIn; absent for Exists and DoesNotExist",
            max_length=64,
        ),
    ] = ()

    @pydantic.model_validator(mode="after")
    def _values_fit_operator(self) -> Self:
        if (self.operator in ("In", "NotIn")) != bool(self.values):
            raise ValueError(
                f"{self.operator} {'needs' if not self.values else 'takes no'} values; "
                "give values with In and NotIn only"
            )
        return self

    def matches(self, labels: Mapping[str, str]) -> bool:
        """Whether an object with these labels satisfies the rule (an absent label is NotIn)."""
        match self.operator:
            case "In":
                return labels.get(self.key) in self.values
            case "NotIn":
                return labels.get(self.key) not in self.values
            case "Exists":
                return self.key in labels
            case "DoesNotExist":
                return self.key not in labels


class LabelSelector(meta.ApiModel):
    """All of `matchLabels` and all of `matchExpressions`; an empty one matches everything."""

    model_config = pydantic.ConfigDict(json_schema_extra={"x-kubernetes-map-type": "atomic"})

    match_labels: Annotated[
        dict[Key, Annotated[Value, pydantic.Field(max_length=63)]],
        pydantic.Field(
            description="Labels that must have exactly these values",
            max_length=64,
            json_schema_extra={
                "x-kubernetes-validations": [
                    {
                        "rule": f"self.all(key, size(key) <= 317 && key.matches('{_KEY}'))",
                        "message": "the key of a label is NAME or DOMAIN/NAME",
                    }
                ]
            },
        ),
    ] = {}
    match_expressions: Annotated[
        tuple[LabelSelectorRequirement, ...],
        pydantic.Field(description="Rules that must all hold", max_length=64),
    ] = ()

    def matches(self, labels: Mapping[str, str]) -> bool:
        """Whether an object with these labels is selected."""
        return all(labels.get(key) == value for key, value in self.match_labels.items()) and all(
            rule.matches(labels) for rule in self.match_expressions
        )
