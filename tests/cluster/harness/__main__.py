"""`python -m cluster.harness build|up|down|shell`, what the make targets call."""

from __future__ import annotations

import os
import signal
import sys

from cluster.harness import binaries
from cluster.harness.cluster import Cluster
from cluster.harness.errors import ClusterError


def main() -> int:
    action = sys.argv[1] if len(sys.argv) == 2 else ""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        if action == "build":
            binaries.install_packages()
            binaries.build_all()
        elif action == "up":
            binaries.install_packages()
            Cluster().up(shared=True)
        elif action == "down":
            Cluster().down()
        elif action == "shell":
            command = Cluster().namespaces.enter([os.environ.get("SHELL", "/bin/bash")])
            os.execvp(command[0], command)
        else:
            print(__doc__)
            return 2
    except ClusterError as error:
        print(f"cluster: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
