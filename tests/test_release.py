"""What a release says about itself: packages, versions, citation, checks, forms."""

import importlib.metadata
import re
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.specifiers import SpecifierSet

from progdist.commands import COMMANDS

ROOT = Path(__file__).parents[1]
GITHUB = ROOT / ".github"
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PROJECT, SETUPTOOLS = PYPROJECT["project"], PYPROJECT["tool"]["setuptools"]
FORMS = sorted((GITHUB / "ISSUE_TEMPLATE").glob("*_*.yml"))


def read(path):
    """A YAML file, every scalar as a string: `on` is no boolean, 3.10 no number."""
    return yaml.load(path.read_text(), yaml.BaseLoader)


def supported():
    """Versions of Python that the package accepts, as "3.11"."""
    accepted = SpecifierSet(PROJECT["requires-python"])
    return [f"3.{minor}" for minor in range(40) if f"3.{minor}.0" in accepted]


def test_the_listed_packages_are_those_of_the_tree():
    found = {path.parent for path in (ROOT / "progdist").rglob("*.py")}
    names = [str(path.relative_to(ROOT)).replace("/", ".") for path in found]
    assert SETUPTOOLS["packages"] == sorted([*names, "progdist.configs"])
    assert SETUPTOOLS["package-dir"] == {"progdist.configs": "configs"}


def test_every_file_of_a_package_is_code_a_page_or_listed():
    listed = {
        path
        for package, patterns in SETUPTOOLS["package-data"].items()
        for pattern in patterns
        for path in ROOT.joinpath(*package.split(".")).glob(pattern)
    }
    files = {
        path
        for room in ("progdist", "configs")
        for path in (ROOT / room).rglob("*")
        if path.is_file() and path.suffix not in (".py", ".pyc", ".md")
    }
    assert files == listed


def test_all_name_one_version():
    version = PROJECT["version"]
    changelog = (ROOT / "CHANGELOG.md").read_text()
    assert re.findall(r"^## (\S+) - ", changelog, re.MULTILINE)[0] == version
    assert read(ROOT / "CITATION.cff")["version"] == version


def test_what_is_installed_is_this_version():
    installed = importlib.metadata.version("progdist")
    assert installed == PROJECT["version"], "install it again: pip install -e ."


def test_the_changelog_goes_back_in_time():
    changelog = (ROOT / "CHANGELOG.md").read_text()
    heads = re.findall(r"^## (.*)$", changelog, re.MULTILINE)
    days = [
        re.fullmatch(r"\d+\.\d+\.\d+ - (\d{4}-\d\d-\d\d|Unreleased)", h) for h in heads
    ]
    assert all(days), heads
    dates = [day[1] for day in days]
    assert "Unreleased" not in dates[1:]
    assert dates == sorted(dates, reverse=True)  # letters come after digits


def test_the_citation_is_complete():
    citation = read(ROOT / "CITATION.cff")
    assert citation["cff-version"] == "1.2.0"
    assert {"message", "title", "authors"} <= set(citation)  # what CFF 1.2.0 requires
    assert citation["type"] == "software"
    assert citation["license"] == PROJECT["license"]
    assert citation["authors"] == PROJECT["authors"]
    paper = citation["preferred-citation"]
    assert paper["url"] in (ROOT / "README.md").read_text()
    assert [author["family-names"] for author in paper["authors"]] == ["Salimans", "Ho"]


def test_every_python_that_is_accepted_is_named_pinned_and_checked():
    versions = supported()
    prefix = "Programming Language :: Python :: 3."
    named = [c for c in PROJECT["classifiers"] if c.startswith(prefix)]
    assert named == [prefix + version.removeprefix("3.") for version in versions]
    pinned = sorted(path.stem for path in (ROOT / ".ci").glob("constraints-*.txt"))
    assert pinned == [f"constraints-{version}" for version in versions]
    matrix = read(GITHUB / "workflows" / "ci.yml")["jobs"]["checks"]["strategy"][
        "matrix"
    ]
    assert matrix == {"python": versions}
    for page in (ROOT / "README.md", GITHUB / "CONTRIBUTING.md"):
        assert f"Python {versions[0]} to {versions[-1]}" in page.read_text()


def test_the_workflow_runs_the_checks_and_every_week_the_slow_tests():
    workflow = read(GITHUB / "workflows" / "ci.yml")
    assert set(workflow["on"]) == {"push", "pull_request", "schedule"}
    assert workflow["permissions"] == {"contents": "read"}
    (job,) = workflow["jobs"].values()
    assert job["env"] == {"CI": "true", "PYTHON": "python${{ matrix.python }}"}
    scheduled = "github.event_name {} 'schedule'".format
    commands = {step["run"]: step["if"] for step in job["steps"] if "run" in step}
    assert commands == {".ci/run": scheduled("!="), ".ci/run slow": scheduled("==")}
    (set_up,) = (
        step for step in job["steps"] if "setup-python" in step.get("uses", "")
    )
    assert set_up["with"]["python-version"] == "${{ matrix.python }}"


@pytest.mark.parametrize("path", FORMS, ids=lambda path: path.stem)
def test_a_form_is_one_that_github_shows(path):
    form = read(path)
    assert {"name", "description", "body"} <= set(form)
    ids = [field["id"] for field in form["body"]]
    assert len(ids) == len(set(ids))
    assert all(field["attributes"]["label"] for field in form["body"])
    assert any(
        field.get("validations") == {"required": "true"} for field in form["body"]
    )


def test_the_bug_report_asks_for_what_two_commands_print():
    form = (GITHUB / "ISSUE_TEMPLATE" / "bug_report.yml").read_text()
    asked = re.findall(r"`progdist (\w+)", form)
    assert asked == ["env", "fingerprint"]
    assert set(asked) <= set(COMMANDS)


def test_paths_that_contributors_are_pointed_to_exist():
    pages = [GITHUB / "CONTRIBUTING.md", GITHUB / "PULL_REQUEST_TEMPLATE.md"]
    for page in pages:
        for path in re.findall(r"`((?:tests|\.ci)/[^`\s]+)", page.read_text()):
            assert list(ROOT.glob(path)), path
        for link in re.findall(r"\]\((?!http)([^)]+)\)", page.read_text()):
            assert (page.parent / link).exists(), link
