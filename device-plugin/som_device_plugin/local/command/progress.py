"""A progress bar of bytes on a terminal, and nothing anywhere else."""

import contextlib
from collections.abc import Callable, Iterator

from rich import console, progress


@contextlib.contextmanager
def bar(what: str, total_bytes: int, *, quiet: bool) -> Iterator[Callable[[int], None]]:
    """Inside the block, call what it gives with the bytes done so far."""
    stderr = console.Console(stderr=True)
    if quiet or not stderr.is_terminal:
        # A bar that is switched off still ends with an empty line.
        yield lambda done_bytes: None
        return
    columns = (
        progress.TextColumn("{task.description}"),
        progress.BarColumn(),
        progress.DownloadColumn(binary_units=True),
        progress.TimeElapsedColumn(),
    )
    with progress.Progress(*columns, console=stderr, transient=True) as shown:
        task = shown.add_task(what, total=total_bytes or None)
        yield lambda done_bytes: shown.update(task, completed=done_bytes)
