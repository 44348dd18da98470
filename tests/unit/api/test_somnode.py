"""What the agent takes for an order."""

import pydantic
import pytest

from som_api import v1alpha1


@pytest.mark.parametrize("name", ["", "%", "..", "../../etc", "a/b", "(strangers)", "A", "a" * 64])
def test_a_pool_that_no_sompool_can_be_is_no_order(name: str) -> None:
    """Its name becomes that of cgroups and directories."""
    order = {
        "name": name,
        "generation": 1,
        "unit": "2Mi",
        "capacity": "1Gi",
        "source": {"hugeTLB": {"pageSize": "2Mi"}},
    }
    v1alpha1.NodePool.model_validate(order | {"name": "databases.of-1"})
    with pytest.raises(pydantic.ValidationError, match="name"):
        v1alpha1.NodePool.model_validate(order)


def test_a_driver_that_the_release_before_has_is_left_out_of_the_order() -> None:
    """An agent of that release knows no other, nor the field."""
    order = {"name": "a", "generation": 1, "unit": "2Mi", "capacity": "1Gi"}
    order |= {"source": {"hugeTLB": {"pageSize": "2Mi"}}}
    for driver, shown in (("HugeTLBFS", {}), ("Kernel", {"driver": "Kernel"})):
        entry = v1alpha1.NodePool.model_validate({**order, "driver": driver})
        assert entry.model_dump(mode="json", exclude_none=True) == {**order, **shown}
    assert v1alpha1.NodePool.model_validate(order).driver == "HugeTLBFS"


def test_an_order_has_all_that_the_sompool_says_of_its_memory() -> None:
    source = {"external": {"ranges": ["0x140000000-0x17fffffff"]}}
    driver = {"type": "Kernel", "kernel": {"mapping": "Pinnable"}}
    sompool = v1alpha1.parse_sompool(
        {
            "apiVersion": "som.io/v1alpha1",
            "kind": "SomPool",
            "metadata": {"name": "databases", "generation": 3},
            "spec": {"unit": "2Mi", "capacity": "64Mi", "source": source, "driver": driver},
        }
    )
    order = v1alpha1.NodePool.of(sompool)
    assert (order.name, order.generation) == ("databases", 3)
    assert (order.driver, order.mapping) == ("Kernel", "Pinnable")
    assert order.source == sompool.spec.source
