"""What a release is made of: which wheels, the workflows that make and publish them, facts that several files state."""

import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = ("pyproject.toml", "README.md", "CONTRIBUTING.md", "SECURITY.md", ".github/pull_request_template.md")
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
pytestmark = pytest.mark.skipif(not WORKFLOWS, reason="the workflows are in the checkout alone")

PYTHONS = ("cp310", "cp311", "cp312", "cp313", "cp314", "cp314t")
PLATFORMS = {
    "linux": ("manylinux_x86_64", "manylinux_aarch64", "musllinux_x86_64", "musllinux_aarch64"),
    "macos": ("macosx_x86_64", "macosx_arm64"),
    "windows": ("win_amd64",),
}


def text(name):
    return (ROOT / name).read_text(encoding="utf-8")


def parsed(path):
    return pytest.importorskip("yaml").safe_load(path.read_text(encoding="utf-8"))


def identifiers(platform, **environment):
    pytest.importorskip("cibuildwheel")
    command = [sys.executable, "-m", "cibuildwheel", "--print-build-identifiers", "--platform", platform, str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return set(done.stdout.split())


@pytest.mark.parametrize("platform", PLATFORMS)
def test_wheels(platform):
    """Those that the README promises, of every Python, and no others."""
    assert identifiers(platform) == {f"{python}-{kind}" for python in PYTHONS for kind in PLATFORMS[platform]}


def test_each_wheel_is_made_by_one_job():
    jobs = parsed(ROOT / ".github/workflows/wheels.yml")["jobs"]
    made = {(job["only"], job["archs"]) for job in jobs["wheels"]["strategy"]["matrix"]["include"]}
    kinds = {kind.replace("win_amd64", "win_AMD64") for kinds in PLATFORMS.values() for kind in kinds}
    assert {f"{kind}_{arch}" for kind, arch in made} == kinds


def test_wheels_are_tested_with_what_has_wheels_everywhere():
    """The rooms that are run find what they import; nothing has to be compiled for it on musllinux first."""
    tomllib = pytest.importorskip("tomllib")
    project = tomllib.loads(text("pyproject.toml"))
    config = project["tool"]["cibuildwheel"]
    parts = [config, *config["overrides"]]
    given = [word for part in parts for word in part.get("test-requires", ())]
    for part in parts:
        for extra in part.get("test-extras", ()):
            given += project["project"]["optional-dependencies"][extra]
    names = {re.match(r"[\w-]+", word).group() for word in given}
    assert not names & {"h5py", "matplotlib", "scikit-learn", "torch"}
    used = {"pytest"}
    for room in re.findall(r" (tests/\S+)", config["test-command"]):
        paths = [ROOT / room] if room.endswith(".py") else sorted((ROOT / room).glob("*.py"))
        for path in paths:
            source = path.read_text(encoding="utf-8")
            imported = re.findall(r"^\s*(?:from|import) (\w+)", source, re.MULTILINE)
            used |= {*imported, *re.findall(r'importorskip\("(\w+)', source)}
    ours = {"cgru", "checks", "children", "examples"}
    assert used - names - ours <= {*sys.stdlib_module_names, "numpy", "scipy", "onnx"}


def test_pythons_are_declared():
    """In the classifiers, in the workflow and in the configuration alike."""
    declared = re.findall(r"Programming Language :: Python :: 3\.(\d+)\"", text("pyproject.toml"))
    assert [f"cp3{minor}" for minor in declared] == [python for python in PYTHONS if not python.endswith("t")]


def test_publishing_needs_a_tag_and_no_token():
    """After all wheels are tested, from what was built from the sdist, with attestations."""
    jobs = parsed(ROOT / ".github/workflows/wheels.yml")["jobs"]
    publish = jobs["publish"]
    assert publish["if"] == "startsWith(github.ref, 'refs/tags/v')" and set(publish["needs"]) == {"sdist", "wheels"}
    assert publish["permissions"] == {"id-token": "write"} and publish["environment"]["name"] == "pypi"
    [step] = [step for step in publish["steps"] if "pypi-publish" in step["uses"]]
    assert step["with"] == {"attestations": True}
    [build] = [step["run"] for step in jobs["wheels"]["steps"] if "-m cibuildwheel" in step.get("run", "")]
    assert build.split()[-1] == "dist/*.tar.gz"
    assert not any("checkout" in step.get("uses", "") for step in jobs["wheels"]["steps"])
    assert "secrets." not in text(".github/workflows/wheels.yml")


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_workflows(path):
    """They may read, have an end in time, name the versions of what they use, leave no token to what they run, and call
    scripts that exist."""
    workflow = parsed(path)
    assert set(workflow) == {"name", True, "permissions", "jobs"}  # YAML takes `on` for a truth value
    assert workflow["permissions"] == {"contents": "read"}
    for name, job in workflow["jobs"].items():
        assert set(job.get("permissions", {}).values()) <= {"write"} and (name == "publish" or "permissions" not in job)
        assert "timeout-minutes" in job or name == "publish"
        for step in job["steps"]:
            assert ("run" in step) != ("uses" in step)
            assert "uses" not in step or re.fullmatch(r"[\w./-]+@(v\d+|release/v\d+|[0-9a-f]{40})", step["uses"])
            assert "checkout" not in step.get("uses", "") or step["with"] == {"persist-credentials": False}
            for script in re.findall(r"bash (\S+)", step.get("run", "")):
                assert (ROOT / script).is_file()


def test_issue_forms_ask_for_the_machine():
    forms = [path for path in (ROOT / ".github/ISSUE_TEMPLATE").glob("*.yml") if path.stem != "config"]
    assert {path.stem for path in forms} == {"bug", "feature", "performance", "wrong_numbers"}
    for path in forms:
        form = parsed(path)
        assert {"name", "description", "body"} <= set(form)
        asked = [field["attributes"].get("label", "") for field in form["body"]]
        assert path.stem == "feature" or any("cgru info" in label for label in asked), path.name


def test_recipe():
    """The draft for conda-forge has the version and the requirements of the package."""
    recipe = parsed(ROOT / "conda/recipe.yaml")
    version = re.search(r'__version__ = "(.+)"', text("cgru/_version.py")).group(1)
    assert recipe["context"]["version"] == version
    dependencies = re.search(r"^dependencies = \[(.*)\]", text("pyproject.toml"), re.MULTILINE).group(1)
    expected = {re.sub(r"([\w-]+)(.*)", r"\1 \2", word) for word in re.findall(r'"(.+?)"', dependencies)}
    assert set(recipe["requirements"]["run"]) == {"python"} | expected
    requires = re.findall(r'"(.+?)"', re.search(r"^requires = \[(.*)\]", text("pyproject.toml"), re.MULTILINE).group(1))
    host = {re.sub(r"([\w-]+)(.*)", r"\1 \2", word).lower() for word in requires}
    assert set(recipe["requirements"]["host"]) == {"python", "pip"} | host


@pytest.mark.parametrize("name", ["CONTRIBUTING.md", "SECURITY.md", ".github/pull_request_template.md"])
def test_pages_lead_to_files(name):
    for target in re.findall(r"\]\(([^)#:]+)\)", text(name)):
        assert (ROOT / target).exists(), target


def test_blas_is_asked_for():
    """Nothing that builds, tests or installs turns it on."""
    for path in [*WORKFLOWS, ROOT / "pyproject.toml", ROOT / "setup.py", ROOT / "conda/recipe.yaml"]:
        assert "CGRU_BACKEND" not in path.read_text(encoding="utf-8"), path


def test_what_is_named_is_there():
    """Files, and what is public, that the pages and settings around the code name."""
    for path in [*WORKFLOWS, *sorted((ROOT / "docs").glob("*.md")), *(ROOT / name for name in PAGES)]:
        words = path.read_text(encoding="utf-8")
        for name in re.findall(r"(?<![\w/.])((?:tests|docs|cgru|conda)/[\w/]+\.(?:py|pyx|pxi|h|md|yaml))\b", words):
            assert (ROOT / name).exists(), (path.name, name)
        for name in re.findall(r"`cgru\.((?!torch\b|plot\b|sklearn\b)[\w.]+)`", words):  # these need more packages
            assert pkgutil.resolve_name(f"cgru.{name}") is not None, (path.name, name)
    [every] = re.findall(r"CGRU_TEST_EVERY=(\d+)", text(".ci/aarch64.sh"))
    assert set(re.findall(r"CGRU_TEST_EVERY=(\d+)", text("docs/development.md"))) == {every}
