"""An agent's port with one lease in it: `python -m cluster.api.teller DIRECTORY`."""

import asyncio
import pathlib
import sys

from som_api.run import clock
from som_device_plugin import seams, telling
from som_device_plugin.leases import state

LEASE_ID = seams.LeaseId("0123456789abcdef")
LEASE = state.Lease(
    LEASE_ID,
    seams.Ticket("n0-1"),
    1,
    owner=seams.Owner("shop", "db", "app", seams.PodUid("uid")),
    request=seams.ContainerRequest("app", "2Mi", 512),
    starts=(
        state.StartRecord(
            seams.Start(LEASE_ID, 1, "databases", 0, 2**30, 2**21, "HugeTLBFS"),
            state.State.DELIVERED,
            "boot",
            1795860000.0,
        ),
    ),
)

if __name__ == "__main__":
    teller = telling.Teller(pathlib.Path(sys.argv[1]), lambda: [LEASE], time=clock.SystemClock())
    asyncio.run(teller.run())
