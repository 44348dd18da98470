"""Properties hold on any machine: a slow or busy one fails none of their tests."""

import hypothesis

hypothesis.settings.register_profile(
    "any-machine", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("any-machine")
