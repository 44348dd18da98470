"""`kubectl som` is small: it starts at once, and needs nothing of operator and agent."""

import ast
import pathlib
import subprocess
import sys
from collections.abc import Iterator

ROOT = pathlib.Path(__file__).parents[3]
PACKAGE = ROOT / "kubectl/som_kubectl"
OTHERS = {"pydantic", "som_api", "som_kubectl", "yaml"}


def _imported(path: pathlib.Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""


def test_it_imports_little() -> None:
    imported = {name for path in PACKAGE.rglob("*.py") for name in _imported(path)}
    packages = {name.split(".")[0] for name in imported} - set(sys.stdlib_module_names)
    assert packages <= OTHERS


def test_help_imports_no_models() -> None:
    program = (
        "import sys; sys.path[:0] = ['kubectl', 'api']\n"
        "from som_kubectl import cli\n"
        "cli.parser().format_help()\n"
        "print(*{name.partition('.')[0] for name in sys.modules})"
    )
    loaded = subprocess.run(
        [sys.executable, "-S", "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split()
    assert not {"pydantic", "yaml", "asyncio", "aiohttp"} & set(loaded)
