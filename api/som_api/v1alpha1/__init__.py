"""som.io/v1alpha1: SomPool and SomNode, quantities and conditions.

The CustomResourceDefinitions are generated from these models (`som_api.v1alpha1.crd`), so a
field exists here, in the cluster and in local mode with the same name, bounds and description.
"""

from som_api.v1alpha1.faults import Fault as Fault
from som_api.v1alpha1.faults import InvalidManifest as InvalidManifest
from som_api.v1alpha1.meta import API_VERSION as API_VERSION
from som_api.v1alpha1.meta import GROUP as GROUP
from som_api.v1alpha1.meta import LONGEST_MESSAGE as LONGEST_MESSAGE
from som_api.v1alpha1.meta import Condition as Condition
from som_api.v1alpha1.meta import ObjectMeta as ObjectMeta
from som_api.v1alpha1.quantities import MOST_BYTES as MOST_BYTES
from som_api.v1alpha1.quantities import format_bytes as format_bytes
from som_api.v1alpha1.quantities import parse_bytes as parse_bytes
from som_api.v1alpha1.quantities import read_bytes as read_bytes
from som_api.v1alpha1.selectors import LabelSelector as LabelSelector
from som_api.v1alpha1.selectors import LabelSelectorRequirement as LabelSelectorRequirement
from som_api.v1alpha1.somnode import HugePages as HugePages
from som_api.v1alpha1.somnode import Module as Module
from som_api.v1alpha1.somnode import NodePool as NodePool
from som_api.v1alpha1.somnode import NumaShare as NumaShare
from som_api.v1alpha1.somnode import PoolStatus as PoolStatus
from som_api.v1alpha1.somnode import SomNode as SomNode
from som_api.v1alpha1.somnode import SomNodeSpec as SomNodeSpec
from som_api.v1alpha1.somnode import SomNodeStatus as SomNodeStatus
from som_api.v1alpha1.sompool import CHUNK_BYTES as CHUNK_BYTES
from som_api.v1alpha1.sompool import TICKET_RESOURCE as TICKET_RESOURCE
from som_api.v1alpha1.sompool import UNIT_BYTES as UNIT_BYTES
from som_api.v1alpha1.sompool import Carved as Carved
from som_api.v1alpha1.sompool import DevDax as DevDax
from som_api.v1alpha1.sompool import Driver as Driver
from som_api.v1alpha1.sompool import DriverType as DriverType
from som_api.v1alpha1.sompool import External as External
from som_api.v1alpha1.sompool import HugeTLB as HugeTLB
from som_api.v1alpha1.sompool import Mapping as Mapping
from som_api.v1alpha1.sompool import NodeCounts as NodeCounts
from som_api.v1alpha1.sompool import PageSize as PageSize
from som_api.v1alpha1.sompool import SomPool as SomPool
from som_api.v1alpha1.sompool import SomPoolSpec as SomPoolSpec
from som_api.v1alpha1.sompool import SomPoolStatus as SomPoolStatus
from som_api.v1alpha1.sompool import Source as Source
from som_api.v1alpha1.sompool import SourceKind as SourceKind
from som_api.v1alpha1.sompool import Unit as Unit
from som_api.v1alpha1.sompool import Warm as Warm
from som_api.v1alpha1.sompool import parse_range as parse_range
from som_api.v1alpha1.sompool import parse_sompool as parse_sompool
from som_api.v1alpha1.sompool import resource_name as resource_name
