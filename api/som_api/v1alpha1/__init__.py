"""som.io/v1alpha1: SomPool and SomNode, quantities and conditions.

The CustomResourceDefinitions are generated from these models (`som_api.v1alpha1.crd`), so a
field exists here, in the cluster and in local mode with the same name, bounds and description.
"""

from som_api.v1alpha1.faults import Fault, InvalidManifest
from som_api.v1alpha1.meta import (
    API_VERSION,
    GROUP,
    LONGEST_MESSAGE,
    VERSION,
    Condition,
    ObjectMeta,
)
from som_api.v1alpha1.quantities import (
    MOST_BYTES,
    Bytes,
    format_bytes,
    parse_bytes,
    read_bytes,
)
from som_api.v1alpha1.selectors import LabelSelector, LabelSelectorRequirement
from som_api.v1alpha1.somnode import (
    HugePages,
    NodePool,
    NumaShare,
    PoolStatus,
    SomNode,
    SomNodeSpec,
    SomNodeStatus,
)
from som_api.v1alpha1.sompool import (
    TICKET_RESOURCE,
    UNIT_BYTES,
    HugeTLB,
    NodeCounts,
    PageSize,
    SomPool,
    SomPoolSpec,
    SomPoolStatus,
    Source,
    Unit,
    parse_sompool,
    resource_name,
)

__all__ = [
    "API_VERSION",
    "GROUP",
    "LONGEST_MESSAGE",
    "MOST_BYTES",
    "TICKET_RESOURCE",
    "UNIT_BYTES",
    "VERSION",
    "Bytes",
    "Condition",
    "Fault",
    "HugePages",
    "HugeTLB",
    "InvalidManifest",
    "LabelSelector",
    "LabelSelectorRequirement",
    "NodeCounts",
    "NodePool",
    "NumaShare",
    "ObjectMeta",
    "PageSize",
    "PoolStatus",
    "SomNode",
    "SomNodeSpec",
    "SomNodeStatus",
    "SomPool",
    "SomPoolSpec",
    "SomPoolStatus",
    "Source",
    "Unit",
    "format_bytes",
    "parse_bytes",
    "parse_sompool",
    "read_bytes",
    "resource_name",
]
