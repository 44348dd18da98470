"""The node tier's random life, where pages also move between NUMA nodes: SOM_CHURN_SEED, as there.

Shorter, because the machine is emulated; SOM_CHURN_SECONDS makes it longer.
"""

import os

from node import churn, claims, local_node

UNITS = 18
SECONDS = float(os.environ.get("SOM_CHURN_SECONDS") or 15)


def test_every_owner_finds_zeroes_and_keeps_its_bytes_wherever_they_are(
    node: local_node.LocalNode,
) -> None:
    seed = claims.seed_of("SOM_CHURN_SEED")
    claims.note(f"churn of {SECONDS:g} s with SOM_CHURN_SEED={seed}")
    run = churn.Churn(node, seed=seed, units=UNITS, program="/programs/claim")
    run.run(SECONDS, served=3)
    claims.note(f"{dict(run.count)}")
    assert not run.faults, f"SOM_CHURN_SEED={seed}: " + "\n".join(run.faults)
