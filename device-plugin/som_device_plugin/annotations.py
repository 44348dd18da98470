"""Annotations that a pod has for all of its containers, and for one of them."""

from collections.abc import Mapping

from som_api import v1alpha1


def of_container(
    key: str, container: str, annotations: Mapping[str, str], *, default: str
) -> tuple[str, str]:
    """The annotation that holds for a container, and its value.

    `key.som.io/CONTAINER` goes before `som.io/key`, which is the pod's; without both, `default`.
    """
    own, of_pod = f"{key}.{v1alpha1.GROUP}/{container}", f"{v1alpha1.GROUP}/{key}"
    name = own if own in annotations else of_pod
    return name, annotations.get(name, default)
