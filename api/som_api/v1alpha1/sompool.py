"""SomPool: how much som memory which nodes reserve, and from where."""

import itertools
import re
from typing import Annotated, Any, Final, Literal, Self, get_args

import pydantic

from som_api.v1alpha1 import faults, meta, quantities, selectors

Unit = Literal["2Mi", "1Gi"]
UNIT_BYTES: Final[dict[Unit, int]] = {"2Mi": 2 * 2**20, "1Gi": 2**30}
PageSize = Literal["2Mi", "1Gi"]
SourceKind = Literal["HugeTLB", "DevDax", "External", "Carved"]
DriverType = Literal["HugeTLBFS", "Kernel"]
Mapping = Literal["Bare", "Pinnable"]
CHUNK_BYTES: Final = 2 * 2**20
"""What som.ko manages memory in: start and size of each range are multiples of it."""
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


# A start ends with 21 bits of 0, an end with 21 bits of 1: both are at the edge of a chunk.
_RANGE: Final = (
    "^0x([1-9a-f][0-9a-f]{0,6})?[02468ace]00000-0x([1-9a-f][0-9a-f]{0,6})?[13579bdf]fffff$"
)
_RANGE_CURE: Final = (
    "write 0xSTART-0xEND as in /proc/iomem, small letters, END the last byte, whole 2 MiB, such as "
    "0x100000000-0x17fffffff"
)
# CEL cannot read such numbers, but can compare texts of as many digits each.
_START: Final = "'0000000'.substring({0}.indexOf('-') - 8) + {0}.substring(2, {0}.indexOf('-'))"
_END: Final = (
    "'0000000'.substring(size({0}) - {0}.indexOf('-') - 9) + {0}.substring({0}.indexOf('-') + 3)"
)
_ASCEND: Final = (
    f"self.all(a, {_START.format('a')} < {_END.format('a')} && self.all(b, "
    f"self.indexOf(a) >= self.lastIndexOf(b) || {_END.format('a')} < {_START.format('b')}))"
)
_IN_ORDER: Final = "ranges must ascend and not overlap; write the lowest first, and none twice"
_DEVICE: Final = "^dax[0-9.*?!\\[\\]-]+$"
_DEVICE_CURE: Final = (
    "write the name of a devdax device, such as dax0.0, or a pattern, such as dax0.*"
)


def parse_range(text: str) -> tuple[int, int]:
    """(start, bytes) of physical memory written as `0xSTART-0xEND`, the end being the last byte.

    Raises:
        ValueError: not so written, empty, or not whole chunks; with the cure.
    """
    start, _, end = text.partition("-")
    size_bytes = int(end, 16) + 1 - int(start, 16) if re.fullmatch(_RANGE, text) else 0
    if size_bytes <= 0:
        raise ValueError(f"{text!r} is no range of memory; {_RANGE_CURE}")
    return int(start, 16), size_bytes


def _is_range(text: str) -> str:
    parse_range(text)
    return text


def _is_device(text: str) -> str:
    if not re.fullmatch(_DEVICE, text):
        raise ValueError(f"{text!r} is no device; {_DEVICE_CURE}")
    return text


# pydantic's own bound would count the entries that it has refused, too.
def _at_least_one(texts: tuple[str, ...]) -> tuple[str, ...]:
    if not texts:
        raise ValueError("the list is empty; write at least one")
    return texts


class DevDax(meta.ApiModel):
    """Devdax devices of the node, whole: of CXL or persistent memory, or set aside at boot."""

    devices: Annotated[
        tuple[
            Annotated[
                str,
                pydantic.AfterValidator(_is_device),
                pydantic.Field(max_length=32, json_schema_extra={"pattern": _DEVICE}),
            ],
            ...,
        ],
        pydantic.Field(
            description="Names, such as dax0.0, or patterns, such as dax0.*. A node gives those of "
            "its devices that match and that nobody uses",
            max_length=32,
            json_schema_extra={"minItems": 1},
        ),
        pydantic.AfterValidator(_at_least_one),
    ]


class External(meta.ApiModel):
    """Memory that the kernel was told at boot to leave alone, by its physical addresses."""

    ranges: Annotated[
        tuple[
            Annotated[
                str,
                pydantic.AfterValidator(_is_range),
                pydantic.Field(max_length=31, json_schema_extra={"pattern": _RANGE}),
            ],
            ...,
        ],
        pydantic.Field(
            description="Ranges as in /proc/iomem, `0xSTART-0xEND`, END being the last byte: whole "
            "2 MiB, ascending, without overlap. They must be the same on every node of the pool",
            max_length=16,
            json_schema_extra={
                "minItems": 1,
                "x-kubernetes-validations": [
                    {
                        "rule": f"!self.all(r, r.matches('{_RANGE}')) || {_ASCEND}",
                        "message": _IN_ORDER,
                    }
                ],
            },
        ),
        pydantic.AfterValidator(_at_least_one),
    ]

    @pydantic.field_validator("ranges")
    @classmethod
    def _in_order(cls, ranges: tuple[str, ...]) -> tuple[str, ...]:
        for (start, size_bytes), (after, _) in itertools.pairwise(map(parse_range, ranges)):
            if after < start + size_bytes:
                raise ValueError(_IN_ORDER)
        return ranges


class Carved(meta.ApiModel):
    """Memory blocks that are taken off line while the node runs, and put back later."""


_ONE_SOURCE: Final = (
    "exactly one of hugeTLB, devDax, external and carved is needed; write hugeTLB: {pageSize: 2Mi}"
)


class Source(meta.ApiModel):
    """Where a pool's memory comes from: exactly one."""

    model_config = pydantic.ConfigDict(
        json_schema_extra={
            "x-kubernetes-validations": [
                {
                    "rule": "[has(self.hugeTLB), has(self.devDax), has(self.external), "
                    "has(self.carved)].filter(given, given).size() == 1",
                    "message": _ONE_SOURCE,
                }
            ]
        }
    )

    huge_tlb: Annotated[
        HugeTLB | None,
        pydantic.Field(alias="hugeTLB", description="Huge pages of the kernel's HugeTLB"),
    ] = None
    dev_dax: Annotated[
        DevDax | None, pydantic.Field(description="Devdax devices; needs driver Kernel")
    ] = None
    external: Annotated[
        External | None,
        pydantic.Field(
            description="Memory reserved at boot, which the kernel does not use; needs driver "
            "Kernel"
        ),
    ] = None
    carved: Annotated[
        Carved | None,
        pydantic.Field(
            description="Memory taken from the running system, with nearly all of its metadata; "
            "needs driver Kernel. Write carved: {}"
        ),
    ] = None

    @pydantic.model_validator(mode="after")
    def _exactly_one(self) -> Self:
        if len(self._given()) != 1:
            raise ValueError(_ONE_SOURCE)
        return self

    @property
    def kind(self) -> SourceKind:
        """Which one it is."""
        return self._given()[0]

    @property
    def page_bytes(self) -> int:
        """Size of the pages that stand behind the pool."""
        return UNIT_BYTES[self.huge_tlb.page_size] if self.huge_tlb else CHUNK_BYTES

    def _given(self) -> list[SourceKind]:
        kinds: dict[SourceKind, meta.ApiModel | None] = {
            "HugeTLB": self.huge_tlb,
            "DevDax": self.dev_dax,
            "External": self.external,
            "Carved": self.carved,
        }
        return [kind for kind, source in kinds.items() if source is not None]


class Kernel(meta.ApiModel):
    """How som.ko serves a pool."""

    mapping: Annotated[
        Mapping,
        pydantic.Field(
            description="Bare: memory without metadata of the kernel; no direct I/O, no RDMA. "
            "Pinnable: both, for 4 MiB of metadata per GiB, and by 2 MiB alone; not for source "
            "hugeTLB. Immutable"
        ),
    ] = "Bare"


class Driver(meta.ApiModel):
    """What stands behind /dev/som."""

    model_config = pydantic.ConfigDict(
        json_schema_extra={
            "x-kubernetes-validations": [
                {
                    "rule": "self.type == 'Kernel' || !has(self.kernel)",
                    "message": "kernel belongs to type Kernel; use that, or leave kernel out",
                }
            ]
        }
    )

    type: Annotated[
        DriverType,
        pydantic.Field(
            description="HugeTLBFS: the kernel's own hugetlbfs, for source hugeTLB alone. Kernel: "
            "som.ko, for every source"
        ),
    ]
    kernel: Annotated[Kernel | None, pydantic.Field(description="Settings of type Kernel")] = None

    @pydantic.model_validator(mode="after")
    def _kernel_fits_type(self) -> Self:
        if self.kernel and self.type != "Kernel":
            raise ValueError("kernel belongs to type Kernel; use that, or leave kernel out")
        return self


MOST_WARM: Final = 256
"""As many as a NUMA node has tickets."""

_WARM_COUNT_CURE: Final = f"use a count from 1 to {MOST_WARM}"


def _is_warm_count(count: int) -> int:
    if not 1 <= count <= MOST_WARM:
        raise ValueError(f"{count} is no such count; {_WARM_COUNT_CURE}")
    return count


class Warm(meta.ApiModel):
    """Memory that is zeroed ahead, for containers of this size."""

    size: Annotated[
        quantities.Bytes,
        pydantic.Field(description="What a container requests, a multiple of the unit"),
    ]
    count: Annotated[
        pydantic.StrictInt,
        pydantic.Field(
            description="For so many containers per node",
            json_schema_extra={"minimum": 1, "maximum": MOST_WARM},
        ),
        pydantic.AfterValidator(_is_warm_count),
    ]


# CEL evaluates every rule also where the schema or another rule has refused the value already.
_IS_INTEGER: Final = (
    "(type({0}) == int || type({0}) == string && isQuantity({0}) && quantity({0}).isInteger())"
)
_BYTES: Final = "(type({0}) == int ? {0} : quantity({0}).asInteger())"
# 100Ti is no integer to Kubernetes, nor is anything of such length; but these are whole GiB.
_IS_GIBS: Final = "(type({0}) == string && {0}.matches('^0*[1-9][0-9]*[GTP]i$'))"
_UNIT_BYTES: Final = "(self.unit == '2Mi' ? 2097152 : 1073741824)"
_FITS: Final = f"{_BYTES} > 0 && {_BYTES} % {_UNIT_BYTES} == 0"
_WARM_FITS: Final = f"{_IS_GIBS} || {_IS_INTEGER} && {_FITS}".format("each.size")
_WARM_IS_ZEROED: Final = (
    "warm is for driver HugeTLBFS: som.ko zeroes what is freed piece by piece, so that any size is "
    "warm; use it without"
)
_SOURCES: Final = ("hugeTLB", "devDax", "external", "carved")
_SAME_KIND: Final = " && ".join(
    f"has(self.source.{source}) == has(oldSelf.source.{source})" for source in _SOURCES
)
_DRIVER: Final = (
    "(has({0}.driver) ? {0}.driver.type : has({0}.source.hugeTLB) ? 'HugeTLBFS' : 'Kernel')"
)
_MAPPING: Final = "(has({0}.driver) && has({0}.driver.kernel) ? {0}.driver.kernel.mapping : 'Bare')"
_HUGETLB_IS_BARE: Final = (
    "huge pages have their metadata already: use mapping Bare, or driver HugeTLBFS for direct I/O"
)
_CARVED_GIB: Final = "memory is carved in whole GiB; use a capacity of whole GiB, such as 64Gi"
_NOT_HUGETLBFS: Final = (
    "HugeTLBFS serves source hugeTLB alone; use type Kernel, or leave driver out"
)


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
                    "rule": f"{_IS_INTEGER} || {_IS_GIBS}".format("self.capacity"),
                    "message": "capacity must be a whole number with a suffix, such as 64Gi, and "
                    "from 90Ti on in Gi, Ti or Pi",
                    "fieldPath": ".capacity",
                },
                {
                    "rule": f"!{_IS_INTEGER} || {_FITS}".format("self.capacity"),
                    "message": "capacity must be a positive multiple of the unit, such as 64Gi",
                    "fieldPath": ".capacity",
                },
                {
                    "rule": "!has(self.source.hugeTLB) || self.source.hugeTLB.pageSize != '1Gi' "
                    "|| self.unit == '1Gi'",
                    "message": "1Gi pages cannot be divided: use unit 1Gi, or pageSize 2Mi",
                    "fieldPath": ".source.hugeTLB.pageSize",
                },
                {
                    "rule": f"!has(self.source.carved) || !{_IS_INTEGER} || "
                    f"{_BYTES} % 1073741824 == 0".format("self.capacity"),
                    "message": _CARVED_GIB,
                    "fieldPath": ".source.carved",
                },
                {
                    "rule": _SAME_KIND,
                    "message": "the kind of source is immutable: a pool cannot move its memory; "
                    "make a new pool instead",
                    "fieldPath": ".source",
                },
                {
                    "rule": f"{_DRIVER.format('self')} == 'Kernel' || has(self.source.hugeTLB)",
                    "message": _NOT_HUGETLBFS,
                    "fieldPath": ".driver",
                },
                {
                    "rule": f"!has(self.warm) || self.warm.all(each, {_WARM_FITS})",
                    "message": "each size of warm must be a positive multiple of the unit, such "
                    "as 4Gi",
                    "fieldPath": ".warm",
                },
                {
                    "rule": f"!has(self.warm) || {_DRIVER.format('self')} == 'HugeTLBFS'",
                    "message": _WARM_IS_ZEROED,
                    "fieldPath": ".warm",
                },
                {
                    "rule": f"{_DRIVER.format('self')} == {_DRIVER.format('oldSelf')} && "
                    f"{_MAPPING.format('self')} == {_MAPPING.format('oldSelf')}",
                    "message": "driver is immutable: a pool cannot move its memory; make a new "
                    "pool instead",
                    "fieldPath": ".driver",
                },
                {
                    "rule": f"{_MAPPING.format('self')} == 'Bare' || !has(self.source.hugeTLB)",
                    "message": _HUGETLB_IS_BARE,
                    "fieldPath": ".driver",
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
    source: Annotated[
        Source,
        pydantic.Field(
            description="Where the memory comes from, exactly one of these. Its kind is immutable"
        ),
    ]
    driver: Annotated[
        Driver | None,
        pydantic.Field(
            description="What stands behind /dev/som; absent: HugeTLBFS for source hugeTLB, Kernel "
            "for the others. Immutable"
        ),
    ] = None

    warm: Annotated[
        tuple[Warm, ...] | None,
        pydantic.Field(
            description="What each node keeps zeroed ahead, as far as memory is free, so that a "
            "container of such a size starts at once; absent: what the last starts had; []: "
            "nothing. For driver HugeTLBFS",
            max_length=16,
        ),
    ] = None

    @property
    def driver_type(self) -> DriverType:
        """The driver, where it is left out as well."""
        if self.driver is not None:
            return self.driver.type
        return "HugeTLBFS" if self.source.kind == "HugeTLB" else "Kernel"

    @property
    def mapping(self) -> Mapping:
        """How som.ko maps it, where that is left out as well."""
        return self.driver.kernel.mapping if self.driver and self.driver.kernel else "Bare"

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

    @pydantic.field_validator("warm")
    @classmethod
    def _warm_fits_unit(
        cls, warm: tuple[Warm, ...] | None, info: pydantic.ValidationInfo
    ) -> tuple[Warm, ...] | None:
        unit: Unit | None = info.data.get("unit")
        for size_bytes in (each.size for each in warm or ()):
            if unit and (size_bytes <= 0 or size_bytes % UNIT_BYTES[unit]):
                raise ValueError(
                    f"{quantities.format_bytes(size_bytes)} is not a positive multiple of the unit "
                    f"{unit}; use such a size"
                )
        source: Source | None = info.data.get("source")
        driver: Driver | None = info.data.get("driver")
        is_zeroed_by_som = driver.type == "Kernel" if driver else source and not source.huge_tlb
        if warm is not None and is_zeroed_by_som:
            raise ValueError(_WARM_IS_ZEROED)
        return warm

    @pydantic.field_validator("source")
    @classmethod
    def _pages_fit_unit(cls, source: Source, info: pydantic.ValidationInfo) -> Source:
        unit: Unit | None = info.data.get("unit")
        if unit and source.page_bytes > UNIT_BYTES[unit]:
            raise ValueError("1Gi pages cannot be divided: use unit 1Gi, or pageSize 2Mi")
        return source

    @pydantic.field_validator("source")
    @classmethod
    def _carves_whole_gib(cls, source: Source, info: pydantic.ValidationInfo) -> Source:
        capacity: int | None = info.data.get("capacity")
        if source.carved and capacity and capacity % UNIT_BYTES["1Gi"]:
            raise ValueError(_CARVED_GIB)
        return source

    @pydantic.field_validator("driver")
    @classmethod
    def _serves_source(cls, driver: Driver | None, info: pydantic.ValidationInfo) -> Driver | None:
        source: Source | None = info.data.get("source")
        if driver and source and driver.type == "HugeTLBFS" and source.kind != "HugeTLB":
            raise ValueError(_NOT_HUGETLBFS)
        if (
            source
            and source.kind == "HugeTLB"
            and driver
            and driver.kernel
            and driver.kernel.mapping != "Bare"
        ):
            raise ValueError(_HUGETLB_IS_BARE)
        return driver


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
