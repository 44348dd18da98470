"""SomNode: the operator's orders for one node, and what the node's agent observed.

One object per node, named like it. The operator writes `spec`, the agent `status`, in the same
shape, so that drift is a comparison. It stays under 10 kB: pools, never leases, are listed, and
every text and list has a bound.
"""

from typing import Annotated, Any, Final, Literal, Self

import pydantic

from som_api.v1alpha1 import meta, quantities, sompool

# As long as what uname(2) says of a system.
_SHORT: Final = {"maxLength": 64}


def _not_persisted(schema: dict[str, Any]) -> None:
    del schema["default"]


class NodePool(meta.ApiModel):
    """What one pool must reserve on this node."""

    name: Annotated[
        str,
        pydantic.Field(description="Name of the SomPool", max_length=63, pattern=meta.NAME_PATTERN),
    ]
    generation: Annotated[int, pydantic.Field(description="Generation of the SomPool's spec")]
    unit: Annotated[sompool.Unit, pydantic.Field(description="What one som.io/<unit> is")]
    capacity: Annotated[quantities.Bytes, pydantic.Field(description="Memory to reserve")]
    source: Annotated[sompool.Source, pydantic.Field(description="Where it comes from")]
    # An order that an agent of the release before could carry out stays one that it can read.
    driver: Annotated[
        sompool.DriverType,
        pydantic.Field(
            description="What stands behind /dev/som; absent: HugeTLBFS",
            exclude_if=lambda driver: driver == "HugeTLBFS",
            json_schema_extra=_not_persisted,
        ),
    ] = "HugeTLBFS"
    warm: Annotated[
        tuple[sompool.Warm, ...] | None,
        pydantic.Field(
            description="What to keep zeroed ahead; absent: what the last starts had",
            max_length=16,
            exclude_if=lambda warm: warm is None,
        ),
    ] = None
    mapping: Annotated[
        sompool.Mapping,
        pydantic.Field(
            description="How som.ko maps it; absent: Bare",
            exclude_if=lambda mapping: mapping == "Bare",
            json_schema_extra=_not_persisted,
        ),
    ] = "Bare"

    @classmethod
    def of(cls, pool: sompool.SomPool) -> Self:
        """The order that has a node carry out all that `pool` says."""
        return cls(
            name=pool.metadata.name,
            generation=pool.metadata.generation,
            unit=pool.spec.unit,
            capacity=pool.spec.capacity,
            source=pool.spec.source,
            driver=pool.spec.driver_type,
            warm=pool.spec.warm,
            mapping=pool.spec.mapping,
        )


class SomNodeSpec(meta.ApiModel):
    """The operator's orders."""

    pools: Annotated[
        tuple[NodePool, ...],
        pydantic.Field(
            description="Pools of this node",
            json_schema_extra=meta.bounded("name", most=16),
        ),
    ] = ()


class NumaShare(meta.ApiModel):
    """What one NUMA node gives to a pool."""

    node: Annotated[int, pydantic.Field(description="Number of the NUMA node")]
    capacity: Annotated[quantities.Bytes, pydantic.Field(description="Memory reserved there")]


class PoolStatus(meta.ApiModel):
    """What one pool has on this node."""

    name: Annotated[str, pydantic.Field(description="Name of the SomPool", max_length=63)]
    generation: Annotated[
        int, pydantic.Field(description="Generation of the SomPool that was acted on")
    ]
    unit: Annotated[sompool.Unit, pydantic.Field(description="What one som.io/<unit> is")]
    capacity: Annotated[quantities.Bytes, pydantic.Field(description="Memory reserved")]
    allocated: Annotated[
        quantities.Bytes, pydantic.Field(description="Memory that containers hold")
    ]
    free: Annotated[
        quantities.Bytes, pydantic.Field(description="Memory that a container can have now")
    ]
    whole_free: Annotated[
        quantities.Bytes | None,
        pydantic.Field(
            description="Of the free memory, what is in whole GiB, for 1 GiB pages; absent: the "
            "driver has none beside smaller ones"
        ),
    ] = None
    numa: Annotated[
        tuple[NumaShare, ...],
        pydantic.Field(
            description="Where the memory is",
            json_schema_extra=meta.bounded("node", most=64),
        ),
    ] = ()
    driver: Annotated[
        sompool.DriverType, pydantic.Field(description="What stands behind /dev/som")
    ] = "HugeTLBFS"
    conditions: meta.Conditions = ()


class HugePages(meta.ApiModel):
    """Huge pages of one size on the node, as the kernel counts them."""

    page_size: Annotated[sompool.PageSize, pydantic.Field(description="Size of the huge pages")]
    total: Annotated[quantities.Bytes, pydantic.Field(description="All of them, whoever has them")]
    pools: Annotated[quantities.Bytes, pydantic.Field(description="Those of som's pools")]


class Module(meta.ApiModel):
    """som.ko as it is loaded: /sys/module/som."""

    version: Annotated[str, pydantic.Field(description="Its version", json_schema_extra=_SHORT)] = (
        ""
    )
    src_version: Annotated[
        str,
        pydantic.Field(
            description="Checksum of the source that it was built from", json_schema_extra=_SHORT
        ),
    ] = ""


class SomNodeStatus(meta.ApiModel):
    """The agent's report."""

    observed_generation: Annotated[
        int | None, pydantic.Field(description="Generation of the spec that was acted on")
    ] = None
    boot_id: Annotated[
        str,
        pydantic.Field(
            alias="bootID", description="Boot that this report is about", json_schema_extra=_SHORT
        ),
    ] = ""
    kernel_version: Annotated[
        str, pydantic.Field(description="The node's kernel", json_schema_extra=_SHORT)
    ] = ""
    agent_version: Annotated[
        str, pydantic.Field(description="The agent that reports", json_schema_extra=_SHORT)
    ] = ""
    module: Annotated[
        Module | None, pydantic.Field(description="som.ko as it is loaded; absent: it is not")
    ] = None
    memory: Annotated[
        quantities.Bytes,
        pydantic.Field(description="MemTotal of the node now: memory that the kernel manages"),
    ] = 0
    # A column of `kubectl get` shows one value, not a list or a sum.
    pool_names: Annotated[
        str,
        pydantic.Field(
            description="Names of the pools, for kubectl get", json_schema_extra={"maxLength": 1024}
        ),
    ] = ""
    capacity: Annotated[
        quantities.Bytes, pydantic.Field(description="Memory reserved by all pools")
    ] = 0
    allocated: Annotated[
        quantities.Bytes, pydantic.Field(description="Memory that containers hold of all pools")
    ] = 0
    pools: Annotated[
        tuple[PoolStatus, ...],
        pydantic.Field(
            # The agent's alone, with each write: entries of others would be counted as memory.
            description="Pools as observed",
            json_schema_extra={"maxItems": 16},
        ),
    ] = ()
    huge_pages: Annotated[
        tuple[HugePages, ...],
        pydantic.Field(
            description="The sizes of huge pages that pools have",
            json_schema_extra=meta.bounded("pageSize", most=2),
        ),
    ] = ()
    conditions: meta.Conditions = ()


class SomNode(meta.ApiModel):
    """One node's pools: ordered by the operator, reported by the node's agent."""

    api_version: Literal["som.io/v1alpha1"] = "som.io/v1alpha1"
    kind: Literal["SomNode"] = "SomNode"
    metadata: meta.ObjectMeta
    spec: SomNodeSpec = SomNodeSpec()
    status: SomNodeStatus = SomNodeStatus()
