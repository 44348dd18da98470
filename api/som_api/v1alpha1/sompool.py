"""SomPool: how much som memory which nodes reserve, and from where."""

from typing import Annotated, Any, Final, Literal, Self, get_args

import pydantic

from som_api.v1alpha1 import faults, meta, quantities, selectors

Unit = Literal["2Mi", "1Gi"]
UNIT_BYTES: Final[dict[Unit, int]] = {"2Mi": 2 * 2**20, "1Gi": 2**30}
PageSize = Literal["2Mi", "1Gi"]
TICKET_RESOURCE: Final = f"{meta.GROUP}/ticket"


def resource_name(unit: Unit) -> str:
    """What pods request: `som.io/2Mi` or `som.io/1Gi`."""
    return f"{meta.GROUP}/{unit}"


class HugeTLB(meta.ApiModel):
    """Huge pages of the kernel's HugeTLB, added on top of the node's own."""

    page_size: Annotated[
        PageSize,
        pydantic.Field(
            description="Size of the huge pages. 1Gi pages need unit 1Gi, and are best reserved "
            "at boot: at run time the kernel seldom finds that much contiguous memory"
        ),
    ] = "2Mi"


class Source(meta.ApiModel):
    """Where a pool's memory comes from: exactly one."""

    model_config = pydantic.ConfigDict(
        json_schema_extra={
            "x-kubernetes-validations": [
                {
                    "rule": "has(self.hugeTLB)",
                    "message": "exactly one source is needed; write hugeTLB: {pageSize: 2Mi}",
                }
            ]
        }
    )

    huge_tlb: Annotated[
        HugeTLB | None,
        pydantic.Field(alias="hugeTLB", description="Huge pages of the kernel's HugeTLB"),
    ] = None

    @pydantic.model_validator(mode="after")
    def _exactly_one(self) -> Self:
        if self.huge_tlb is None:
            raise ValueError("exactly one source is needed; write hugeTLB: {pageSize: 2Mi}")
        return self

    @property
    def page_bytes(self) -> int:
        """Size of the pages that stand behind the pool."""
        assert self.huge_tlb is not None
        return UNIT_BYTES[self.huge_tlb.page_size]


# CEL evaluates every rule also where the schema or another rule has refused the value already.
_IS_BYTES: Final = (
    "(type(self.capacity) == int || "
    "isQuantity(self.capacity) && quantity(self.capacity).isInteger())"
)
_BYTES: Final = "(type(self.capacity) == int ? self.capacity : quantity(self.capacity).asInteger())"
_UNIT_BYTES: Final = "(self.unit == '2Mi' ? 2097152 : 1073741824)"


class SomPoolSpec(meta.ApiModel):
    """What an admin wants."""

    model_config = pydantic.ConfigDict(
        json_schema_extra={
            "x-kubernetes-validations": [
                {
                    "rule": "self.unit == oldSelf.unit",
                    "message": "unit is immutable: pods count in it; make a new pool instead",
                    "fieldPath": ".unit",
                },
                {
                    "rule": _IS_BYTES,
                    "message": "capacity must be a whole number with a suffix, such as 64Gi",
                    "fieldPath": ".capacity",
                },
                {
                    "rule": f"!{_IS_BYTES} || {_BYTES} > 0 && {_BYTES} % {_UNIT_BYTES} == 0",
                    "message": "capacity must be a positive multiple of the unit, such as 64Gi",
                    "fieldPath": ".capacity",
                },
                {
                    "rule": "!has(self.source.hugeTLB) || self.source.hugeTLB.pageSize != '1Gi' "
                    "|| self.unit == '1Gi'",
                    "message": "1Gi pages cannot be divided: use unit 1Gi, or pageSize 2Mi",
                    "fieldPath": ".source.hugeTLB.pageSize",
                },
            ]
        }
    )

    node_selector: Annotated[
        selectors.LabelSelector | None,
        pydantic.Field(description="Nodes of the pool; absent: every node that runs the agent"),
    ] = None
    paused: Annotated[
        pydantic.StrictBool,
        pydantic.Field(description="true: nothing of this pool is changed anywhere"),
    ] = False
    unit: Annotated[
        Unit, pydantic.Field(description="What one som.io/<unit> is: 2Mi or 1Gi. Immutable")
    ]
    capacity: Annotated[
        quantities.Bytes,
        pydantic.Field(description="Memory per node, a multiple of the unit, such as 64Gi"),
    ]
    source: Annotated[Source, pydantic.Field(description="Where the memory comes from")]

    @pydantic.field_validator("capacity")
    @classmethod
    def _is_multiple_of_unit(cls, capacity: int, info: pydantic.ValidationInfo) -> int:
        unit: Unit | None = info.data.get("unit")
        if unit and (capacity <= 0 or capacity % UNIT_BYTES[unit]):
            below = capacity - capacity % UNIT_BYTES[unit]
            nearest = quantities.format_bytes(below or UNIT_BYTES[unit])
            raise ValueError(
                f"{quantities.format_bytes(capacity)} is not a positive multiple of the unit "
                f"{unit}; use {nearest}"
            )
        return capacity

    @pydantic.field_validator("source")
    @classmethod
    def _pages_fit_unit(cls, source: Source, info: pydantic.ValidationInfo) -> Source:
        unit: Unit | None = info.data.get("unit")
        if unit and source.page_bytes > UNIT_BYTES[unit]:
            raise ValueError("1Gi pages cannot be divided: use unit 1Gi, or pageSize 2Mi")
        return source


class NodeCounts(meta.ApiModel):
    """Nodes of a pool, counted; SomNodes name them."""

    matched: Annotated[int, pydantic.Field(description="Nodes that the selector matches")] = 0
    ready: Annotated[int, pydantic.Field(description="Nodes with their full capacity")] = 0
    degraded: Annotated[int, pydantic.Field(description="Nodes with less than that")] = 0
    unreachable: Annotated[int, pydantic.Field(description="Nodes whose kubelet is silent")] = 0


class SomPoolStatus(meta.ApiModel):
    """What the operator observed."""

    observed_generation: Annotated[
        int | None, pydantic.Field(description="Generation of the spec that was acted on")
    ] = None
    conditions: meta.Conditions = ()
    nodes: Annotated[NodeCounts, pydantic.Field(description="Nodes by state")] = NodeCounts()
    capacity: Annotated[
        quantities.Bytes, pydantic.Field(description="Memory reserved on all nodes")
    ] = 0
    allocated: Annotated[
        quantities.Bytes, pydantic.Field(description="Memory that containers hold")
    ] = 0


class SomPoolMeta(meta.ObjectMeta):
    """Metadata of a pool, whose name is shorter than most: SomNodes and labels carry it."""

    @pydantic.field_validator("name")
    @classmethod
    def _fits_a_label(cls, name: str) -> str:
        if len(name) > 63:
            raise ValueError(f"{name!r} is too long; use at most 63 characters")
        return name


class SomPool(meta.ApiModel):
    """A pool of single-owner memory on a set of nodes."""

    model_config = pydantic.ConfigDict(
        json_schema_extra={
            "x-kubernetes-validations": [
                {
                    "rule": "size(self.metadata.name) <= 63",
                    "message": "metadata.name is too long; use at most 63 characters",
                }
            ]
        }
    )

    api_version: Literal["som.io/v1alpha1"] = "som.io/v1alpha1"
    kind: Literal["SomPool"] = "SomPool"
    metadata: SomPoolMeta
    spec: SomPoolSpec
    status: SomPoolStatus = SomPoolStatus()


_META: Final = {field.alias for field in SomPoolMeta.model_fields.values()} - {"ownerReferences"}


def parse_sompool(manifest: Any) -> SomPool:
    """The SomPool of a decoded YAML or JSON document that a person wrote: nothing is overlooked.

    Raises:
        faults.InvalidManifest: with one fault per field, unknown fields included.
    """
    if not isinstance(manifest, dict):
        fault = faults.Fault("", "a SomPool is a mapping with kind and spec")
        raise faults.InvalidManifest([fault])
    for field, allowed in (("apiVersion", meta.API_VERSION), ("kind", "SomPool")):
        if (value := manifest.get(field)) != allowed:
            fault = faults.Fault(field, f"{value!r} is not possible here; use {allowed!r}")
            raise faults.InvalidManifest([fault])
    if isinstance(metadata := manifest.get("metadata"), dict):
        # Kubernetes' own, which has more fields than are read here.
        manifest = {**manifest, "metadata": {k: v for k, v in metadata.items() if k in _META}}
    try:
        return SomPool.model_validate(manifest, extra="forbid", context=quantities.STRICT)
    except pydantic.ValidationError as error:
        raise faults.from_pydantic(error) from None


assert set(get_args(Unit)) == set(UNIT_BYTES)
