"""Annotations: nothing public lacks them, names in them are those that the code knows, and mypy reads them as we do."""

import ast
import importlib
import importlib.util
import inspect
import typing
from pathlib import Path

import children
import pytest

import cgru
from cgru import (
    backends,
    constraints,
    convert,
    initializers,
    losses,
    metrics,
    optimizers,
    recurrence,
    regularizers,
)
from cgru import typing as types
from cgru.layers import affine, gru

ROOT = Path(__file__).parents[2]
PACKAGE = Path(cgru.__file__).parent
# Of the rooms where objects of frameworks go from hand to hand, what is public; of all others, everything.
PUBLIC = {f"convert.{file}": set(names) for file, names in convert._PUBLIC.items()}
PUBLIC |= {"cli": {"main"}, "cli.bench": {"run"}, "cli.demo": {"run"}, "cli.info": {"run"}}
PUBLIC |= {"torch.modules": {"GRU", "GRUCell"}, "torch.replacing": {"replace_gru", "restore_gru", "freeze", "unfreeze"}}


def sources():
    """(name, path) of the modules with public functions in Python."""
    for path in sorted(PACKAGE.rglob("*.py")):
        name = ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__")
        if name in PUBLIC or name.partition(".")[0] not in ("convert", "cli", "torch"):
            yield pytest.param(name, path, id=name)


def functions(tree, prefix=""):
    """(name, node) of all functions of a module's source but those inside of functions."""
    for node in tree.body:
        if isinstance(node, ast.FunctionDef):
            yield prefix + node.name, node
        elif isinstance(node, ast.ClassDef):
            yield from functions(node, f"{prefix}{node.name}.")


def lacking(function, is_method):
    """Arguments of a function's source without an annotation, and "return"."""
    given = function.args
    arguments = [*given.posonlyargs, *given.args, *given.kwonlyargs, given.vararg, given.kwarg]
    arguments = [a for a in arguments if a is not None]
    static = any(getattr(d, "id", "") == "staticmethod" for d in function.decorator_list)
    found = [a.arg for a in arguments[1 if is_method and not static else 0 :] if a.annotation is None]
    return found + (["return"] if function.returns is None else [])


@pytest.mark.parametrize("name, path", list(sources()))
def test_public_functions_are_annotated(name, path):
    found, seen = {}, set()
    for function, node in functions(ast.parse(path.read_text(encoding="utf-8"))):
        first, *rest = function.split(".")
        public = not any(part.startswith("_") and part not in ("__init__", "__call__") for part in (first, *rest))
        if public and first in PUBLIC.get(name, {first}):
            seen.add(first)
            if names := lacking(node, bool(rest)):
                found[function] = names
    assert found == {}
    assert seen >= PUBLIC.get(name, set()) - {"PartialConversionWarning"}


def test_what_is_looked_at():
    """The public modules, none of them left out by mistake."""
    names = {"layers.gru", "layers.dense", "models.sequential", "models.training", "losses", "optimizers", "metrics",
             "schedules", "descent", "layers.stateless", "layers.calls", "layers.parameters",
             "initializers", "threads", "backends", "files", "datasets.japanese_vowels", "sequences", "recurrence",
             "reference", "plot", "checks", "configured"}  # fmt: skip
    assert names | set(PUBLIC) <= {source.id for source in sources()}


def test_py_typed_and_stubs_are_installed():
    assert (PACKAGE / "py.typed").is_file()
    stubs = {path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.pyi")}
    compiled = {"calls", "runtime", "baseline", "avx2", "avx512"}
    assert stubs == {"convert/__init__.pyi"} | {f"kernels/{name}.pyi" for name in compiled}


def test_stub_of_the_converters_has_all_names():
    tree = ast.parse((PACKAGE / "convert/__init__.pyi").read_text(encoding="utf-8"))
    found = {(node.module, alias.name, alias.asname) for node in tree.body for alias in node.names}
    wanted = {(f"cgru.convert.{file}", name, name) for file, names in convert._PUBLIC.items() for name in names}
    assert found == wanted


@pytest.mark.parametrize("name", ["calls", "runtime", "baseline"])
def test_stubs_of_compiled_modules_have_their_names(name):
    module = importlib.import_module(f"cgru.kernels.{name}")
    tree = ast.parse((PACKAGE / f"kernels/{name}.pyi").read_text(encoding="utf-8"))
    declared = {}
    for node in tree.body:
        if isinstance(node, ast.AnnAssign):
            declared[node.target.id] = node
        elif isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            declared[node.name] = node
    public = {n for n in vars(module) if not n.startswith("_") and not inspect.ismodule(getattr(module, n))}
    assert {n for n in declared if not n.startswith("_")} == public
    for function, node in declared.items():
        found = getattr(module, function, None)
        if isinstance(node, ast.FunctionDef):
            told = found.__doc__.splitlines()[0]  # Cython writes the signature there
            assert told.startswith(f"{function}("), told
            arguments = told[len(function) + 1 : told.rindex(")")].replace("*,", "").replace("**", "")
            names = [part.partition("=")[0].split()[-1] for part in arguments.split(",") if part.strip()]
            given = node.args
            given = [*given.args, *given.kwonlyargs, *([given.kwarg] if given.kwarg else [])]
            assert names == [argument.arg for argument in given], told


# -- names in annotations


def names_of(alias):
    return set(typing.get_args(alias))


def test_literals_are_the_names_that_the_code_knows():
    assert names_of(types.Activation) == set(recurrence.ACTIVATIONS)
    assert names_of(types.DenseActivation) == set(affine.ACTIVATIONS)
    assert names_of(types.MergeMode) == set(gru.MERGE_MODES)
    assert names_of(types.InitializerName) == set(initializers._KIND.known)
    assert names_of(types.RegularizerName) == set(regularizers._KIND.known)
    assert names_of(types.ConstraintName) == set(constraints._KIND.known)
    assert names_of(types.OptimizerName) == set(optimizers._OPTIMIZERS)
    assert names_of(types.LossName) == set(losses._LOSSES)
    assert names_of(types.MetricName) == set(metrics._METRICS)
    assert names_of(types.BackendName) == set(cgru.kernels.BACKENDS)
    for name in names_of(types.BackendName):
        with backends.backend(name):
            assert cgru.get_backend() == name


def test_options_of_converters_are_those_of_the_layer():
    """With the annotations of the constructor."""
    signature = inspect.signature(cgru.GRU)
    for options in (types.CellOptions, types.GateOptions, types.StoredOptions):
        for name, annotation in options.__annotations__.items():
            wanted = annotation.__forward_arg__ if hasattr(annotation, "__forward_arg__") else annotation
            assert signature.parameters[name].annotation == wanted, name
    left = set(signature.parameters) - set(types.GateOptions.__annotations__)
    # What a convention or its arrays say.
    assert left == {
        *("units", "use_bias", "kernel_initializer", "recurrent_initializer", "bias_initializer", "layer_norm"),
        *("reset_after", "num_layers", "bidirectional", "learn_initial_state", "input_size"),
    }


def test_annotations_can_be_read_at_run_time():
    """As documentation tools and run-time checkers do."""
    for function in (cgru.GRU.__init__, cgru.GRU.__call__, cgru.GRU.step, cgru.Sequential.fit, cgru.Dense.__init__,
                     cgru.save, cgru.load, cgru.convert.from_torch, losses.Loss.gradient):  # fmt: skip
        assert "return" in typing.get_type_hints(function)


def test_modules_that_checkers_see_are_there():
    code = (
        "import cgru\n"
        "names = 'backends initializers layers losses metrics models optimizers sequences threads typing'\n"
        "for name in names.split():\n"
        "    assert getattr(cgru, name).__name__ == f'cgru.{name}'\n"
    )
    assert children.python("-c", code).stderr == ""


# -- mypy


def mypy(*arguments, cwd=ROOT):
    if importlib.util.find_spec("mypy") is None:
        pytest.skip("mypy is not installed")
    done = children.python("-m", "mypy", *arguments, cwd=cwd)
    return done.returncode, done.stdout + done.stderr


def test_mypy():
    """The package, the uses that must pass, and those that must not: without arguments, as in CI."""
    if not (ROOT / "pyproject.toml").exists():
        pytest.skip("without the sources")
    code, said = mypy()
    assert code == 0, said


def test_every_refused_line_is_refused(tmp_path):
    """Without its comment, each line of refused.py gives the error that the comment names, and no other line does."""
    lines = Path(__file__).with_name("refused.py").read_text(encoding="utf-8").splitlines()
    wanted, bare = {}, []
    for number, line in enumerate(lines, start=1):
        code, _, rest = line.partition("  # type: ignore[")
        bare.append(code)
        if rest:
            wanted[number] = rest.partition("]")[0]
    (tmp_path / "refused.py").write_text("\n".join(bare) + "\n", encoding="utf-8")
    _, said = mypy("--config-file", str(ROOT / "pyproject.toml"), str(tmp_path / "refused.py"))
    errors = [line for line in said.splitlines() if ": error: " in line]
    assert all("refused.py:" in line for line in errors), said
    found = {int(line.split("refused.py:")[1].split(":")[0]): line.rpartition("[")[2].rstrip("]") for line in errors}
    assert found == wanted
    assert len(wanted) > 50
