"""source.py STATE_DIR apply BYTES | release: one order to the source, for tests that kill it."""

import asyncio
import pathlib
import sys
from concurrent import futures

from node import nodes


async def main(state_dir: str, order: str, *arguments: str) -> None:
    # strace counts system calls by thread.
    asyncio.get_running_loop().set_default_executor(futures.ThreadPoolExecutor(1))
    node = nodes.Node(pathlib.Path(state_dir))
    if order == "apply":
        await node.apply(int(arguments[0]))
    else:
        await node.source.release("databases")


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
