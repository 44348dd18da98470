"""Label selectors mean what Kubernetes' own mean."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from som_api import v1alpha1

WORDS = st.sampled_from(["a", "b", "c"])
LABELS = st.dictionaries(WORDS, WORDS)
RULES = st.one_of(
    st.builds(
        v1alpha1.LabelSelectorRequirement,
        key=WORDS,
        operator=st.sampled_from(["In", "NotIn"]),
        values=st.lists(WORDS, min_size=1, max_size=3).map(tuple),
    ),
    st.builds(
        v1alpha1.LabelSelectorRequirement,
        key=WORDS,
        operator=st.sampled_from(["Exists", "DoesNotExist"]),
    ),
)
OPPOSITE = {"In": "NotIn", "NotIn": "In", "Exists": "DoesNotExist", "DoesNotExist": "Exists"}


@given(LABELS, st.lists(RULES, max_size=3))
def test_selector_survives_the_way_through_yaml(
    labels: dict[str, str], rules: list[v1alpha1.LabelSelectorRequirement]
) -> None:
    selector = v1alpha1.LabelSelector(match_labels=labels, match_expressions=tuple(rules))
    assert v1alpha1.LabelSelector.model_validate(selector.model_dump(mode="json")) == selector


@given(RULES, LABELS)
def test_rule_and_its_opposite_never_agree(
    rule: v1alpha1.LabelSelectorRequirement, labels: dict[str, str]
) -> None:
    opposite = rule.model_copy(update={"operator": OPPOSITE[rule.operator]})
    assert rule.matches(labels) != opposite.matches(labels)


@given(LABELS)
def test_empty_selector_matches_every_node(labels: dict[str, str]) -> None:
    assert v1alpha1.LabelSelector().matches(labels)


@given(LABELS)
def test_labels_select_themselves_and_nothing_less(labels: dict[str, str]) -> None:
    selector = v1alpha1.LabelSelector(match_labels=labels)
    assert selector.matches({**labels, "more": "x"})
    for key in labels:
        assert not selector.matches({k: v for k, v in labels.items() if k != key})


@pytest.mark.parametrize("operator", ["NotIn", "DoesNotExist"])
def test_absent_label_is_not_in(operator: str) -> None:
    values = ["a"] if operator == "NotIn" else []
    rule = {"key": "zone", "operator": operator, "values": values}
    assert v1alpha1.LabelSelectorRequirement.model_validate(rule).matches({})


def test_a_selector_from_before_keys_were_judged_is_read() -> None:
    selector = v1alpha1.LabelSelector.model_validate({"matchLabels": {"bad key!": "b c"}})
    assert not selector.matches({"bad": "b"})
