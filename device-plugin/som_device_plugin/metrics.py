"""The agent's Prometheus metrics: `som_agent_<thing>_<unit>`, bounded labels.

`som_lease_bytes` exists because cAdvisor does not see som memory; its labels name pods, of which a
node has at most as many as tickets.
"""

from typing import Final

import prometheus_client

from som_api import VERSION

_LATENCIES_S: Final = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.05, 0.1, 0.25, 1, 5, 15, 30)

ALLOCATE_SECONDS: Final = prometheus_client.Histogram(
    "som_agent_allocate_seconds", "Time to answer Allocate", buckets=_LATENCIES_S
)
PRE_START_SECONDS: Final = prometheus_client.Histogram(
    "som_agent_pre_start_seconds",
    "Time to answer PreStartContainer, errors included",
    buckets=_LATENCIES_S,
)
STORE_WRITE_SECONDS: Final = prometheus_client.Histogram(
    "som_agent_store_write_seconds",
    "Time of a durable write to the agent's store; everything else of the agent waits for it",
    buckets=_LATENCIES_S,
)
BUILD_SECONDS: Final = prometheus_client.Histogram(
    "som_agent_build_seconds",
    "Time to reserve and zero the memory of a container before it starts, failures included",
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300),
)
SERVED_BYTES: Final = prometheus_client.Counter(
    "som_agent_served_bytes",
    "Memory that containers were started with from pools that zero it before, by whether it was "
    "zeroed ahead of them or left to them (warm), or zeroed while they waited",
    ["warm"],
)
PROMOTIONS: Final = prometheus_client.Counter(
    "som_agent_pool_promotions",
    "GiB that containers used by pages of 2 MiB and that som.ko was asked to make one page; "
    "moves for that are among those of the pool",
    ["pool"],
)
REFUSALS: Final = prometheus_client.Counter(
    "som_agent_refusals", "Allocations and starts of containers refused, by reason", ["reason"]
)
REGISTRATIONS: Final = prometheus_client.Counter(
    "som_agent_registrations", "Times that the agent registered with kubelet"
)
prometheus_client.Gauge(
    "som_agent_build_info", "The running version, always 1", ["version"]
).labels(version=VERSION).set(1)
