"""What holds for all tests: none fails because the machine is slow.

A property is tried on few examples, other ones in each run, and by `make test-full` on many.
"""

import hypothesis

ANY_MACHINE = hypothesis.settings(
    deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.register_profile("few", ANY_MACHINE, max_examples=25)
hypothesis.settings.register_profile("many", ANY_MACHINE, max_examples=1000)
hypothesis.settings.load_profile("few")
