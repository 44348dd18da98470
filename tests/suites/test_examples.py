"""The examples of explicit use, and every recipe of docs/how-to/run-known-programs.md."""

import pathlib
import re
import subprocess

import pytest

from suites import conftest, suites

EXAMPLES = conftest.ROOT / "examples"
PAGE = conftest.ROOT / "docs/how-to/run-known-programs.md"
BYTES = conftest.UNITS * 2 * 2**20
MAPPED = f"{BYTES} bytes of huge pages, mine alone, first 42, last 42\n"
PACKAGES = {
    "Go": ("golang-go",),
    "Rust": ("rustc",),
    "Java": ("default-jdk-headless",),
    "C": ("gcc", "libc6-dev"),
}
COMMANDS = {"Go": "go", "Rust": "rustc", "Java": "java", "C": "gcc"}
BUILDS = {
    "Go": ("go", "build", "-o", "map", EXAMPLES / "map.go"),
    "Rust": ("rustc", "-O", "-o", "map", EXAMPLES / "map.rs"),
    "C": ("gcc", "-O2", "-o", "map", EXAMPLES / "map.c"),
}


def install(language: str) -> None:
    """A compiler, unless this computer has one from elsewhere."""
    found = subprocess.run(["sh", "-c", f"command -v {COMMANDS[language]}"], capture_output=True)
    if found.returncode:
        script = conftest.ROOT / "tests/install-packages"
        subprocess.run([script, *PACKAGES[language]], check=True)


@pytest.mark.parametrize("language", BUILDS)
def test_a_compiled_example_uses_all_of_its_memory(
    lease: conftest.Lease, folder: pathlib.Path, language: str
) -> None:
    install(language)
    subprocess.run(BUILDS[language], cwd=folder, check=True)
    assert lease.run(["./map"], folder=folder)[:2] == (0, MAPPED)


def test_the_java_example_uses_all_of_its_memory(
    lease: conftest.Lease, folder: pathlib.Path
) -> None:
    install("Java")
    command = ["java", str(EXAMPLES / "Map.java")]
    assert lease.run(command, folder=folder)[:2] == (0, MAPPED)


def test_the_example_of_som_h_has_memory_of_the_lease(
    lease: conftest.Lease, folder: pathlib.Path
) -> None:
    install("C")
    heap, include = folder / "heap", conftest.ROOT / "libsom"
    suites.compile_c("-I", include, EXAMPLES / "heap.c", conftest.LIBRARY, "-o", heap)
    command = ["env", f"LD_LIBRARY_PATH={conftest.LIBRARY.parent}", "./heap"]
    status, output, _ = lease.run(command, folder=folder)
    assert status == 0, output
    assert re.fullmatch(
        r"(4|5)\d of 512 MiB of the lease in use, the rest for malloc\(\)\n", output
    )


def recipes() -> dict[str, tuple[str, str]]:
    """The page's programs by heading: what to run, and what it prints."""
    found = {}
    for section in PAGE.read_text().split("\n## ")[1:]:
        name = section.partition("\n")[0]
        if match := re.search(r"```sh\n(.*?)```\s+```text\n(.*?)```", section, re.S):
            found[name] = (match.group(1), match.group(2))
    return found


@pytest.mark.parametrize("name", recipes())
def test_a_recipe_prints_what_its_page_says(
    lease: conftest.Lease, folder: pathlib.Path, name: str
) -> None:
    script, expected = recipes()[name]
    packages = re.findall(r"^# Debian: (.+)$", script, re.M)[0].split()
    subprocess.run([conftest.ROOT / "tests/install-packages", *packages], check=True)
    (folder / "examples").symlink_to(EXAMPLES)
    path = f"export PATH={conftest.LIBRARY.parent}:$PATH\n"
    status, output, _ = lease.run(["bash", "-euc", path + script], folder=folder)
    assert status == 0, output
    number = re.compile(r"\d+")
    assert number.sub("N", output) == number.sub("N", expected)
    for seen, said in zip(number.findall(output), number.findall(expected), strict=True):
        assert int(said) / 2 <= int(seen) <= int(said) * 2, output
