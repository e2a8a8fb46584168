"""quick_runs.py: what it runs, and that it sees what went wrong."""

import importlib.util
from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def quick_runs():
    spec = importlib.util.spec_from_file_location("quick_runs", Path(__file__).with_name("quick_runs.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def folder(quick_runs, tmp_path, monkeypatch):
    monkeypatch.setattr(quick_runs, "FOLDER", tmp_path)
    return tmp_path


def script(value="1.5", end="0"):
    """One that takes --json and writes a result."""
    return f"""import json, sys
assert "--quick" in sys.argv
report = {{"results": [{{"what": "error", "value": {value}}}]}}
open(sys.argv[sys.argv.index("--json") + 1], "w").write(json.dumps(report))
sys.exit({end})
"""


def test_a_script_that_ends_well_passes_and_others_are_left_out(quick_runs, folder, capsys):
    (folder / "good.py").write_text(script())
    (folder / "reporting.py").write_text("raise SystemExit('no example: --quick')")
    (folder / "other.py").write_text("raise SystemExit('takes nothing')")
    assert quick_runs.main([]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines if line.endswith("ok")] == ["good"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (script(end="3"), "ended with 3"),
        (script(value="float('nan')"), "error: expected a finite number or a text, got nan"),
        (script(value="None"), "got None"),
        ('"--quick --json"; "--quick", "--json"', "no JSON"),
    ],
)
def test_a_script_that_does_not_fails(quick_runs, folder, capsys, text, expected):
    (folder / "bad.py").write_text(text)
    assert quick_runs.main([]) == 1
    assert expected in capsys.readouterr().out


def test_what_takes_long_fails(quick_runs, folder, capsys, monkeypatch):
    (folder / "slow.py").write_text(script())
    monkeypatch.setattr(quick_runs, "SECONDS", 0.0)
    assert quick_runs.main([]) == 1
    assert "s of processor time, more than 0" in capsys.readouterr().out


def test_no_script_at_all_is_no_success(quick_runs, folder, capsys):
    assert quick_runs.main([]) == 1
    assert "no example takes --quick" in capsys.readouterr().out
