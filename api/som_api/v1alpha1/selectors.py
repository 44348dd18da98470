"""Label selectors, as in metav1.LabelSelector."""

from collections.abc import Mapping
from typing import Annotated, Literal, Self

import pydantic

from som_api.v1alpha1 import meta


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

    key: Annotated[str, pydantic.Field(description="Label's key", max_length=316)]
    operator: Annotated[
        Literal["In", "NotIn", "Exists", "DoesNotExist"],
        pydantic.Field(description="How the label's value relates to `values`"),
    ]
    values: Annotated[
        tuple[Annotated[str, pydantic.Field(max_length=63)], ...],
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
        dict[str, Annotated[str, pydantic.Field(max_length=63)]],
        pydantic.Field(description="Labels that must have exactly these values", max_length=64),
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
