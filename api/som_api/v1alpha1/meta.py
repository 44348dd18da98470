"""What every object of the group shares: names, metadata, conditions.

Conditions follow sig-architecture's API conventions: adjective types, CamelCase reasons,
`observedGeneration`, transition time kept while the status is unchanged.
"""

from typing import Annotated, Final, Literal

import pydantic
from pydantic import alias_generators, config

GROUP: Final = "som.io"
VERSION: Final = "v1alpha1"
API_VERSION: Final = f"{GROUP}/{VERSION}"
NAME_PATTERN: Final = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$"
"""Of a DNS subdomain, as objects are named; it is safe in a path, too."""
LONGEST_MESSAGE: Final = 1024
"""Characters of a condition's message, and of an Event's: what is longer is cut."""


def keyed(field: str) -> config.JsonDict:
    """Of a list's schema: `field` tells its entries apart, and each belongs to who wrote it."""
    return {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": [field]}


def bounded(field: str, *, most: int) -> config.JsonDict:
    """Of the schema of a list that one writes whole, with at most so many entries."""
    return {**keyed(field), "maxItems": most}


class ApiModel(pydantic.BaseModel):
    """A value of the API: frozen, camelCase in YAML.

    Unknown fields are ignored: a component meets objects of the next version during an upgrade.
    What a person wrote is read by `sompool.parse_sompool`, which refuses them.
    """

    model_config = pydantic.ConfigDict(
        extra="ignore",
        frozen=True,
        alias_generator=alias_generators.to_camel,
        validate_by_name=True,
        validate_by_alias=True,
        serialize_by_alias=True,
    )


class OwnerReference(ApiModel):
    """Whose end is this object's end, too: the part of it that som reads."""

    kind: str
    uid: str


class ObjectMeta(ApiModel):
    """The part of Kubernetes' ObjectMeta that som reads; the rest is kept by the API server."""

    name: Annotated[str, pydantic.Field(max_length=253, pattern=NAME_PATTERN)]
    uid: str = ""
    resource_version: str = ""
    generation: int = 0
    deletion_timestamp: str | None = None
    finalizers: tuple[str, ...] = ()
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}
    owner_references: tuple[OwnerReference, ...] = ()


class Condition(ApiModel):
    """One observation about an object, as in metav1.Condition."""

    type: Annotated[
        str, pydantic.Field(description="What is observed, as an adjective", max_length=64)
    ]
    status: Annotated[
        Literal["True", "False", "Unknown"], pydantic.Field(description="Whether it holds")
    ]
    reason: Annotated[
        str, pydantic.Field(description="Why, as one CamelCase word for programs", max_length=64)
    ]
    message: Annotated[
        str,
        pydantic.AfterValidator(lambda text: text[:LONGEST_MESSAGE]),
        pydantic.Field(
            description="Why, for people, with the cure",
            json_schema_extra={"maxLength": LONGEST_MESSAGE},
        ),
    ] = ""
    observed_generation: Annotated[
        int | None, pydantic.Field(description="Generation of the spec that this is about")
    ] = None
    last_transition_time: Annotated[
        str | None,
        pydantic.Field(
            description="When the status last changed",
            json_schema_extra={"format": "date-time", "maxLength": 40},
        ),
    ] = None


Conditions = Annotated[
    tuple[Condition, ...],
    pydantic.Field(
        # Without a bound, which others could reach with theirs, so that ours had no room.
        description="Observations, one per type",
        json_schema_extra=keyed("type"),
    ),
]
