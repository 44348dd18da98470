"""The node tier's churn, with owners that move their pages between two NUMA nodes."""

import os

from node import agents, churn, claims
from vm import numa

SECONDS = float(os.environ.get("SOM_CHURN_SECONDS") or 20)


def test_owners_that_move_their_pages_keep_them_whatever_happens_around_them(
    node: agents.LocalNode, foreign: dict[int, int]
) -> None:
    seed = claims.seed_of("SOM_CHURN_SEED")
    run = churn.Churn(node, seed=seed, units=24, program="/programs/claim", movers=True)
    run.run(SECONDS)
    print(f"SOM_CHURN_SEED={seed} {dict(run.count)}")
    assert not run.faults, f"SOM_CHURN_SEED={seed}: " + "\n".join(run.faults)
    assert sum(numa.persistent().values()) == 24 + sum(foreign.values())
