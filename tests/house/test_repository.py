"""What a visitor of the repository finds."""

import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent


def test_the_usual_files_are_there() -> None:
    for name in (
        "README.md", "LICENSE", "CONTRIBUTING.md", "CHANGELOG.md", "CITATION.cff", "pyproject.toml",
        "constraints.txt", "Makefile", ".ci/run", "pixelwise/py.typed", "docs/decisions",
    ):  # fmt: skip
        assert (ROOT / name).exists(), name


def test_contributing_fits_one_screen() -> None:
    assert len((ROOT / "CONTRIBUTING.md").read_text().splitlines()) <= 45


def test_decisions_are_numbered_and_short() -> None:
    numbers = []
    for path in sorted((ROOT / "docs" / "decisions").glob("*.md")):
        assert re.fullmatch(r"\d{3}-[a-z0-9-]+\.md", path.name), path.name
        assert len(path.read_text().splitlines()) <= 40, path.name
        numbers.append(int(path.name[:3]))
    assert numbers == list(range(1, len(numbers) + 1))


def test_constraints_hold_names_and_versions_only() -> None:
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        assert (
            not line or line.startswith("#") or re.fullmatch(r"[A-Za-z0-9._-]+==[0-9][A-Za-z0-9.]*", line)
        ), line


def test_the_version_is_the_same_everywhere() -> None:
    import pixelwise

    assert f'version = "{pixelwise.__version__}"' in (ROOT / "pyproject.toml").read_text()
    assert f"version: {pixelwise.__version__}" in (ROOT / "CITATION.cff").read_text()
    assert f"## [{pixelwise.__version__}]" in (ROOT / "CHANGELOG.md").read_text()


def test_ci_runs_the_test_command_of_the_readme() -> None:
    assert "make test" in (ROOT / "README.md").read_text()
    assert "make test" in (ROOT / ".ci" / "run").read_text()


def test_no_tracked_file_is_large() -> None:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    for name in listed.stdout.splitlines():
        if (ROOT / name).exists():
            assert (ROOT / name).stat().st_size < 500_000, name
