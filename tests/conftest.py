"""What holds for all tests: none fails because the machine is slow.

A property is tried on few examples, other ones in each run, and by `make test-full` on many.
"""

import gc
import importlib.util
import sys
import types

import hypothesis


def _without_its_rest(package: str) -> None:
    """Stands in for the package's `__init__`, as in our images: half a second of imports less."""
    spec = importlib.util.find_spec(package)
    assert spec is not None and spec.submodule_search_locations is not None
    module = sys.modules[package] = types.ModuleType(package)
    module.__spec__, module.__path__ = spec, list(spec.submodule_search_locations)


# Until all is collected nothing becomes garbage, and Python looks for some all the time.
gc.disable()

for package in ("kubernetes", "kubernetes.aio", "kubernetes.utils"):
    _without_its_rest(package)

ANY_MACHINE = hypothesis.settings(
    deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.register_profile("few", ANY_MACHINE, max_examples=25)
hypothesis.settings.register_profile("many", ANY_MACHINE, max_examples=1000)
hypothesis.settings.load_profile("few")


def pytest_collection_finish() -> None:
    """What was collected lives to the end: no garbage collection looks at it again."""
    gc.freeze()
    gc.enable()
