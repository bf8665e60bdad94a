"""What neither ruff nor import-linter can hold about the layout; each test lists the offenders."""

import ast
import re
from functools import cache
from pathlib import Path

import adaptkit

ROOT = Path(adaptkit.__file__).parent
GROUND = {"characters", "errors", "files", "config", "progress", "experiment", "folders"}
GROUND |= {"locks", "provenance", "records", "search_options", "tables", "tensors", "tokens"}
GROUND |= {"training_options", "keys", "experiment_keys"}
ROOMS = {
    *("adapters", "augment", "base", "bench", "cli", "corpora", "data", "decoding", "features", "kaldi"),
    *("model", "report", "scoring", "serve", "submodels", "training"),
}
SHIPPED = {"conf", "egs", "recipes"}  # links to what the wheel takes along
HEAVY = {
    *("torch", "torchaudio", "numpy", "scipy", "soundfile", "kaldiio", "sentencepiece", "safetensors"),
    *("espnet", "espnet2", "matplotlib", "jiwer", "yaml", "pydantic", "rich"),
}
FILES = sorted(file for file in ROOT.rglob("*.py") if file.relative_to(ROOT).parts[0] not in SHIPPED)


@cache
def trees():
    """The syntax tree of every module; parsed here so that only the process that runs these tests does so."""
    return {str(file.relative_to(ROOT)): ast.parse(file.read_text()) for file in FILES}


def imports(nodes):
    """Every module that some nodes import, `from a import b` as a.b."""
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{'.' * node.level}{node.module}.{alias.name}" for alias in node.names)


def test_every_module_is_in_a_room_or_on_the_ground():
    names = {path.stem for path in ROOT.iterdir() if path.suffix == ".py" or path.is_dir()}
    assert names - {"__init__", "__main__", "__pycache__"} - GROUND - ROOMS - SHIPPED == set()


def test_no_module_imports_by_a_relative_name():
    names = [(name, i) for name, tree in trees().items() for i in imports(ast.walk(tree))]
    assert [f"{name}: {imported}" for name, imported in names if imported.startswith(".")] == []


def test_tasks_and_programs_of_espnet_are_named_in_two_files_and_imported_at_the_top_of_none():
    slow = ("espnet2.tasks", "espnet2.bin")  # 16 s
    named, imported = [], []
    for name, tree in trees().items():
        texts = [node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)]
        if any(str(text).startswith(slow) and " " not in str(text) for text in texts):
            named.append(name)
        imported += [i for i in imports(tree.body) if i.startswith(slow)]
    assert (named, imported) == (["base/build.py", "base/reference.py"], [])


def test_packages_that_espnet_202611_moved_are_imported_by_import_class_only():
    named = [(name, i) for name, tree in trees().items() for i in imports(ast.walk(tree))]
    assert [f"{name}: {imported}" for name, imported in named if imported.startswith("espnet.")] == []


def test_the_command_line_imports_only_light_modules_at_the_top():
    light = ("adaptkit.cli", "adaptkit.errors")
    heavy = []
    for name, tree in trees().items():
        for imported in imports(tree.body) if name.startswith("cli/") else ():
            is_ours = imported.startswith("adaptkit.")
            if imported.split(".")[0] in HEAVY or is_ours and not imported.startswith(light):
                heavy.append(f"{name}: {imported}")
    assert heavy == []


def test_files_have_fewer_than_300_lines():
    lengths = {str(file.relative_to(ROOT)): len(file.read_text().splitlines()) for file in FILES}
    assert {name: length for name, length in lengths.items() if length >= 300} == {}


def test_functions_have_at_most_60_lines():
    long = [
        f"{name}: {node.name} {node.end_lineno - node.lineno + 1}"
        for name, tree in trees().items()
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.end_lineno - node.lineno >= 60
    ]
    assert long == []


def test_log_messages_count_one_utterance_and_two_utterances():
    nouns = "utterances|entries|speakers|recordings|Submodels|references|arks|jobs|steps|problems|warnings"
    plural = re.compile(rf"(?<!of )(?<!to )%d ({nouns})\b")
    constants = (
        (name, node.value)
        for name, tree in trees().items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant)
    )
    assert [f"{name}: {value}" for name, value in constants if plural.search(str(value))] == []


def test_files_of_a_run_are_named_in_one_module():
    names = {"adapter.safetensors", "state.safetensors", "start.safetensors", "model.pth"}
    names |= {"train.jsonl", "run.json", "score.json"}
    spelt = [
        name
        for name, tree in trees().items()
        if any(isinstance(n, ast.Constant) and n.value in names for n in ast.walk(tree))
    ]
    assert spelt == ["folders.py"]


def test_paths_in_suggested_commands_are_words_of_the_shell():
    texts = [
        "".join(
            part.value if isinstance(part, ast.Constant) else "{" + ast.unparse(part.value) + "}"
            for part in node.values
        )
        for tree in trees().values()
        for node in ast.walk(tree)
        if isinstance(node, ast.JoinedStr)
    ]
    commands = [command for text in texts for command in re.findall(r"'?adaptkit [a-z]+ [^']*", text)]
    bare = re.compile(r"\{(?!shell_word)[^}]*(path|folder|out|data|where)\b")
    assert len(commands) > 20
    assert [command for command in commands if bare.search(command)] == []
