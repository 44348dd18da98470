"""A node's leases as its agent tells them to the operator, and the fleet API to everybody else.

The agent answers `GET /leases` with a `Report`, on a port of its own and to the operator's client
certificate alone: whose memory it is concerns only who may list the pods of that namespace.
"""

from typing import Annotated, Final, Literal

import pydantic

from som_api.v1alpha1 import meta, sompool

PORT: Final = 9443
"""Of the agent's pod."""
PATH: Final = "/leases"
MOST: Final = 4096
"""Leases in one report: more than the tickets of any node, those of the past included."""
MOST_BYTES: Final = 8 * 2**20
"""Of one report."""

State = Literal["Waiting", "Building", "Ready", "Delivered", "Releasing"]


class Lease(meta.ApiModel):
    """Memory that one container has, or had until its pages are given back."""

    lease: Annotated[
        str, pydantic.Field(description="Its random name, 16 hexadecimal digits", max_length=64)
    ]
    start: Annotated[
        int, pydantic.Field(description="Counts the starts of the container; 0: none yet")
    ]
    namespace: Annotated[str, pydantic.Field(max_length=253, examples=["shop"])]
    pod: Annotated[str, pydantic.Field(max_length=253, examples=["postgres-0"])]
    uid: Annotated[str, pydantic.Field(description="UID of the pod", max_length=128)]
    container: Annotated[str, pydantic.Field(max_length=253, examples=["postgres"])]
    pool: Annotated[
        str, pydantic.Field(description="Name of the SomPool; empty: none yet", max_length=253)
    ]
    driver: Annotated[
        sompool.DriverType | None,
        pydantic.Field(description="What stands behind /dev/som; null: nothing yet"),
    ]
    unit: sompool.Unit
    size_bytes: Annotated[
        int, pydantic.Field(description="Memory that it has, or is to have", examples=[8589934592])
    ]
    state: Annotated[
        State,
        pydantic.Field(
            description="Waiting: it has no memory yet. Building: its memory is reserved and "
            "zeroed. Ready: built, and its container not started yet. Delivered: its container has "
            "it. Releasing: given up, and somebody holds its pages still"
        ),
    ]
    since: Annotated[
        str | None,
        pydantic.Field(
            description="When its container was told to start; null: it was not", max_length=40
        ),
    ]


class Report(meta.ApiModel):
    """What an agent answers."""

    leases: Annotated[tuple[Lease, ...], pydantic.Field(max_length=MOST)]
