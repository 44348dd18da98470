"""The first lines of the one-file kubectl-som: unpacks it once, then runs it.

A native module cannot be imported from a zip, and Python keeps nothing compiled beside one. So what
belongs to this Python goes to ~/.cache/som, and the next start finds it there.
"""

import atexit
import os
import shutil
import sys
import tempfile
import zipfile
from pathlib import Path

BUILD = "@build@"
PLATFORM = "@platform@"


def main() -> int:
    """Run `kubectl som`, or its completion where the file is called so; the exit status."""
    python = f"{sys.version_info[0]}{sys.version_info[1]}"
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser()) / "som"
    place = cache / f"kubectl-som-{BUILD}-{python}"
    if not place.is_dir():
        place = unpack(Path(__file__).parent, python, place)
    sys.path.insert(0, str(place))
    from som_kubectl import cli

    if Path(sys.argv[0]).name.startswith("kubectl_complete-som"):
        return cli.complete()
    return cli.main()


def unpack(archive: Path, python: str, place: Path) -> Path:
    """Where everything is now: in `place`, or in a folder that goes at the end.

    The latter where the cache cannot be written.
    """
    with zipfile.ZipFile(archive) as opened:
        names = [name for name in opened.namelist() if name.startswith(("any/", f"{python}/"))]
        if not any(name.startswith(python) for name in names):
            there = sorted({name.split("/")[0] for name in opened.namelist() if name[0] == "3"})
            sys.exit(
                f"kubectl-som for {PLATFORM} has parts for Python {', '.join(there)}, and this is "
                f"Python {python}; run it with one of these, or install som[kubectl] by pip"
            )
        try:
            place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            fresh = Path(tempfile.mkdtemp(dir=place.parent))
        except OSError:
            place = fresh = Path(tempfile.mkdtemp())
            atexit.register(shutil.rmtree, fresh, ignore_errors=True)
        for name in names:
            target = fresh / name.partition("/")[2]
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(opened.read(name))
    if fresh != place:
        try:
            fresh.rename(place)
        except OSError:
            # Another start was faster.
            shutil.rmtree(fresh, ignore_errors=True)
    return place


if __name__ == "__main__":
    sys.exit(main())
