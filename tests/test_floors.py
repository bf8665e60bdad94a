"""The layout of the package, held on its syntax trees: floors, who may import what, and sizes."""

import ast
import graphlib
import re
from pathlib import Path

import pytest

import adaptkit

ROOT = Path(adaptkit.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))
FLOORS = {
    0: "errors files config progress layout torchrun",
    1: "kaldi text score bootstrap",
    2: "adapters augment features dump result record speaking optim",
    3: "base examples batches checkpoint experiment objective taps kinds sampler sets resuming",
    4: "train loop plan keeper state journal decode run_decode submodels enrol cross cost serve bench "
    "run_record policies prune report conditions charts page outcome",
    5: "cli __main__",
}
FLOOR_OF = {unit: floor for floor, units in FLOORS.items() for unit in units.split()}
HEAVY = {
    *("torch", "torchaudio", "numpy", "scipy", "soundfile", "kaldiio", "sentencepiece", "safetensors"),
    *("espnet", "espnet2", "matplotlib", "jiwer", "yaml", "pydantic", "rich"),
}
SLOW = ("espnet2.tasks", "espnet2.bin")  # 16 s


def by_file(files=FILES):
    return pytest.mark.parametrize("file", files, ids=lambda file: str(file.relative_to(ROOT)))


def inside(folder):
    return [file for file in FILES if (ROOT / folder) in file.parents]


def outside(*names):
    return [file for file in FILES if file.relative_to(ROOT).parts[0] not in names]


def imports(nodes):
    """Every module that some nodes import, `from a import b` as a.b, or name in a string for importlib."""
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Constant) and re.fullmatch(r"espnet2?(\.\w+)+", str(node.value)):
            yield node.value


def tree(file):
    return ast.parse(file.read_text())


def packages(file):
    return {name.split(".")[0] for name in imports(ast.walk(tree(file)))}


def unit(file):
    """The module or package under adaptkit/ that a file belongs to."""
    return file.relative_to(ROOT).with_suffix("").parts[0]


def units_imported(file):
    names = (name.split(".") for name in imports(ast.walk(tree(file))))
    return {parts[1] for parts in names if parts[0] == "adaptkit"} & set(FLOOR_OF) - {unit(file)}


@by_file(outside("__init__.py"))
def test_every_module_has_its_floor(file):
    assert unit(file) in FLOOR_OF, "say here and in the architecture on which floor it stands"


@by_file(outside("__init__.py"))
def test_imports_lead_downward_or_sideways(file):
    upward = {name for name in units_imported(file) if FLOOR_OF[name] > FLOOR_OF[unit(file)]}
    assert not upward


def test_no_two_modules_need_each_other():
    graph = {name: set() for name in FLOOR_OF}
    for file in outside("__init__.py"):
        graph[unit(file)] |= units_imported(file)
    order = graphlib.TopologicalSorter(graph).static_order()  # raises CycleError, which names them
    assert set(order) == set(FLOOR_OF)


@by_file(outside("base"))
def test_espnet_is_imported_in_base_alone(file):
    assert not packages(file) & {"espnet", "espnet2"}


def test_tasks_of_espnet_are_imported_in_one_file_alone():
    slow = [file for file in FILES if any(n.startswith(SLOW) for n in imports(ast.walk(tree(file))))]
    assert len(slow) <= 1
    assert not [name for file in slow for name in imports(tree(file).body) if name.startswith(SLOW)]


@by_file(outside("cli"))
def test_typer_and_print_are_used_in_cli_alone(file):
    calls = [node.func for node in ast.walk(tree(file)) if isinstance(node, ast.Call)]
    assert "print" not in {call.id for call in calls if isinstance(call, ast.Name)}
    assert not packages(file) & {"typer", "click"}


@by_file(outside("config.py"))
def test_yaml_is_imported_in_config_alone(file):
    assert "yaml" not in packages(file)


@by_file()
def test_argparse_is_imported_nowhere(file):
    assert "argparse" not in packages(file)


@by_file(inside("cli"))
def test_command_line_imports_only_light_things_at_the_top(file):
    names = set(imports(tree(file).body))
    ours = {name for name in names if name.startswith("adaptkit.")}
    assert not {name.split(".")[0] for name in names} & HEAVY
    assert all(name.startswith(("adaptkit.cli", "adaptkit.errors")) for name in ours)


@by_file()
def test_file_has_fewer_than_300_lines(file):
    assert len(file.read_text().splitlines()) < 300


@by_file()
def test_function_has_at_most_60_lines(file):
    functions = [node for node in ast.walk(tree(file)) if isinstance(node, ast.FunctionDef)]
    assert not [
        f"{f.name}: {f.end_lineno - f.lineno + 1}" for f in functions if f.end_lineno - f.lineno >= 60
    ]
