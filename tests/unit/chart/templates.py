"""The chart's templates without helm: what of them is YAML as it stands.

Lines that are template actions only go away, actions within a line become a word. That is enough
for what no value changes: policies, and what a workload must have. `tests/cluster/test_chart.py`
asks helm itself.
"""

import pathlib
import re
from typing import Any

import yaml

from som_api import VERSION

CHART = pathlib.Path(__file__).parents[3] / "charts/som"
NAMESPACE = "som-system"

Manifest = dict[str, Any]
_IMAGE = r'\{\{ include "som\.image" \(dict "image" \.Values\.images\.(\w+) "root" \.\) \}\}'


def read(name: str) -> list[Manifest]:
    """The objects of templates/<name>, with what values and helpers would add left out."""
    text = (CHART / "templates" / name).read_text()
    text = re.sub(r"\{\{-? /\*.*?\*/ -?\}\}", "", text, flags=re.DOTALL)
    user = r'\{\{ include "som\.user" \(dict "name" "([a-z-]+)" "root" \.\) \}\}'
    text = re.sub(user, rf"system:serviceaccount:{NAMESPACE}:\1", text)
    return [document for document in yaml.load_all(plain(text), yaml.CSafeLoader) if document]


def plain(text: str) -> str:
    """A template without its actions: of a line of them nothing, of others a word."""
    text = re.sub(_IMAGE, rf"localhost/som-\1:{VERSION}", text)
    lines = [line for line in text.splitlines() if not re.fullmatch(r" *(\{\{.*\}\} *)+", line)]
    return re.sub(r"\{\{.*?\}\}", "templated", "\n".join(lines))


def one(name: str, kind: str) -> Manifest:
    """The only object of that kind in templates/<name>."""
    (found,) = (document for document in read(name) if document["kind"] == kind)
    return found
