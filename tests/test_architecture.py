"""The rules of the house, kept by reading the source: layers, imports, modality branches, start-up."""

from __future__ import annotations

import ast
import functools
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

# Lowest first. A package imports only packages of lower layers; packages of one layer do not import each other.
LAYERS = (
    ("schema", "errors", "progress", "distributed", "children", "rng", "cores", "cluster", "storage"),
    ("outputs", "config"),
    ("launch", "media", "patches", "nn", "quantize", "memory"),
    ("archive", "model", "tasks"),
    ("stream", "checkpoint"),
    ("inputs",),
    ("decoding",),
    ("sharding", "formats", "train"),
    ("infer",),
    ("evaluate", "export"),
    ("report", "doctor", "init_config"),
    ("api",),
)
LEVEL = {package: level for level, packages in enumerate(LAYERS) for package in packages}
# The nouns, the errors and the reports are used by everybody, `config` included: also inside the lowest layer.
WORDS = ("schema", "errors", "progress")
CLI_MAY_IMPORT = ("bridle.api", "bridle.errors", "bridle.config", "bridle.__version__")

# Where code may look at which modality it has, and why.
MODALITY_PLACES = {
    "bridle/media": "bytes of each kind are decoded differently",
    "bridle/patches": "clips of each kind are cut differently",
    "bridle/schema.py": "the names themselves",
    "bridle/config/sections.py": "the tag that tells the patches sections apart",
    "bridle/config/loading.py": "picks the patches section by its tag",
    "bridle/config/adapt.py": "which of the sizes in a patches section follow from the corpus",
    "bridle/sharding/notices.py": "what the measurements of each kind say of training",
    "bridle/decoding/transcode.py": "each kind is written in a format of its own",
    "bridle/doctor.py": "a clip of each kind is made to try its decoder",
    "bridle/init_config/patches.py": "what a comment says of each kind's sizes",
    "bridle/export/describe.py": "how each kind is opened in the read-me of an export",
    "bridle/export/huggingface.py": "which Auto class and processor go with each kind",
    "bridle/export/standalone/preprocess.py": "patches again, for programs without this library",
}
MODALITIES = ("audio", "image", "video")


@functools.cache
def sources(package: str) -> list[tuple[str, ast.Module]]:
    paths = sorted((ROOT / package).rglob("*.py"))
    return [(path.relative_to(ROOT).as_posix(), ast.parse(path.read_text("utf-8"))) for path in paths]


def imports(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Every module named by an import anywhere in the file; `from bridle import api` names `bridle.api`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            if node.level:  # see `test_relative_imports_are_left_to_files_that_leave`
                continue
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            yield from ((node.lineno, name) for name in (names if node.module == "bridle" else [node.module]))


def package_of(module: str) -> str | None:
    """`bridle.model.encoder` -> `model`; None for other people's modules and for the version."""
    parts = module.split(".")
    return parts[1] if parts[0] == "bridle" and len(parts) > 1 and parts[1] != "__version__" else None


def layer_faults(path: str, tree: ast.Module) -> list[str]:
    own = path.removeprefix("bridle/").split("/")[0].removesuffix(".py")
    faults = []
    for line, module in imports(tree):
        used = package_of(module)
        if used is None or used == own or (used in WORDS and own not in WORDS):
            continue
        if LEVEL[used] >= LEVEL.get(own, len(LAYERS)):
            faults.append(f"{path}:{line} imports bridle.{used}")
    return faults


def modality_faults(path: str, tree: ast.Module) -> list[str]:
    """Comparisons, matches and lookups by a modality; passing one along or printing it is no branch."""

    def names_modality(node: ast.AST) -> bool:
        if isinstance(node, ast.Constant):
            return node.value in MODALITIES
        if isinstance(node, ast.Attribute):
            return node.attr in {name.upper() for name in MODALITIES} and ast.unparse(node.value).endswith("Modality")
        return isinstance(node, ast.Tuple | ast.List | ast.Set) and any(map(names_modality, node.elts))

    faults = []
    for node in ast.walk(tree):
        parts: list[ast.AST] = []
        if isinstance(node, ast.Compare):
            parts = [node.left, *node.comparators]
        elif isinstance(node, ast.MatchValue):
            parts = [node.value]
        elif isinstance(node, ast.Dict):
            parts = [key for key in node.keys if key is not None]
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "isinstance":
            kinds = ast.unparse(node.args[1])
            if any(f"{name.capitalize()}Patches" in kinds for name in MODALITIES):
                faults.append(f"{path}:{node.lineno} {ast.unparse(node)}")
        if any(map(names_modality, parts)):
            faults.append(f"{path}:{node.lineno} {ast.unparse(node)[:80]}")
    return faults


def start_up_faults(path: str, tree: ast.Module) -> list[str]:
    """Reads of the environment that happen when the module is imported."""
    faults = []
    waiting: list[ast.AST] = list(tree.body)
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            waiting += node.decorator_list if not isinstance(node, ast.Lambda) else []
            waiting += [*node.args.defaults, *filter(None, node.args.kw_defaults)]
            continue
        if isinstance(node, ast.Attribute | ast.Name):
            name = node.attr if isinstance(node, ast.Attribute) else node.id
            faults += [f"{path}:{node.lineno} {name}"] if name in ("environ", "getenv") else []
        waiting += ast.iter_child_nodes(node)
    return faults


def test_packages_import_only_lower_layers() -> None:
    assert [fault for path, tree in sources("bridle") for fault in layer_faults(path, tree)] == []


def test_relative_imports_are_left_to_files_that_leave() -> None:
    """They hide the layer; files that are copied into exports import only each other, and nothing of the library."""
    for path, tree in (*sources("bridle"), *sources("bridle_cli")):
        relative = [node.lineno for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.level]
        if path.startswith("bridle/export/standalone/"):
            assert not [module for _, module in imports(tree) if module.startswith("bridle")], path
        elif path == "bridle/media/pixels.py":  # is copied, too
            assert not relative
            assert {module.split(".")[0] for _, module in imports(tree)} <= {*sys.stdlib_module_names, "numpy", "PIL"}
        else:
            assert not relative, path


def test_every_package_has_a_layer() -> None:
    found = {
        path.stem for path in (ROOT / "bridle").iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()
    }
    assert found - {"__init__"} <= set(LEVEL)


def test_command_line_imports_only_the_api_errors_and_config() -> None:
    wrong = [
        f"{path}:{line} imports {module}"
        for path, tree in sources("bridle_cli")
        for line, module in imports(tree)
        if module.split(".")[0] == "bridle" and not module.startswith(CLI_MAY_IMPORT)
    ]
    assert wrong == []


def test_library_does_not_import_the_command_line() -> None:
    wrong = [path for path, tree in sources("bridle") for _, name in imports(tree) if name.startswith("bridle_cli")]
    assert wrong == []


def test_modality_branches_live_in_media_and_patches() -> None:
    faults = [
        fault
        for path, tree in sources("bridle")
        if not path.startswith(tuple(MODALITY_PLACES))
        for fault in modality_faults(path, tree)
    ]
    assert faults == []


def test_nothing_reads_the_environment_at_import() -> None:
    packages = ("bridle", "bridle_cli")
    assert [fault for name in packages for path, tree in sources(name) for fault in start_up_faults(path, tree)] == []


@pytest.mark.parametrize(
    ("check", "path", "text"),
    [
        (layer_faults, "bridle/nn/block.py", "from bridle.model.encoder import Encoder"),
        (layer_faults, "bridle/nn/block.py", "from bridle import media"),
        (layer_faults, "bridle/errors.py", "import bridle.schema"),
        (modality_faults, "bridle/train/loop.py", "if clip.modality is Modality.AUDIO: pass"),
        (modality_faults, "bridle/train/loop.py", "if modality in ('image', 'video'): pass"),
        (modality_faults, "bridle/train/loop.py", "rate = {'audio': 1, 'video': 2}[modality]"),
        (modality_faults, "bridle/train/loop.py", "isinstance(section, sections.AudioPatches)"),
        (start_up_faults, "bridle/train/loop.py", "RANK = os.environ['RANK']"),
        (start_up_faults, "bridle/train/loop.py", "def f(rank=os.getenv('RANK')): pass"),
    ],
)
def test_the_checks_find_what_they_look_for(check, path, text) -> None:
    assert len(check(path, ast.parse(text))) == 1


def test_reading_the_environment_in_a_function_is_fine() -> None:
    assert start_up_faults("bridle/x.py", ast.parse("def f():\n    return os.environ['RANK']")) == []


@pytest.mark.parametrize(
    "arguments",
    [
        ["-m", "bridle_cli", "--help"],
        ["-m", "bridle_cli", "pretrain", "--help"],
        ["-c", "import bridle, bridle.api, bridle.config, bridle.errors, bridle.schema, bridle_cli.main"],
    ],
)
def test_start_up_loads_nothing_heavy(arguments: list[str]) -> None:
    done = subprocess.run([sys.executable, "-X", "importtime", *arguments], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr[-500:]
    loaded = {line.rsplit("|", 1)[-1].strip() for line in done.stderr.splitlines() if line.startswith("import time:")}
    assert "bridle" in loaded
    heavy = {"torch", "numpy", "torchvision", "torchaudio", "webdataset", "av", "decord", "sklearn", "pydantic", "yaml"}
    assert loaded & (heavy | {"rich.console"}) == set()


def test_the_package_alone_loads_nothing_of_others() -> None:
    """Measured: `import bridle` takes as long as Python without it, to a hundredth of a second."""
    ask = "import sys; before = {*sys.modules}; import bridle; print(*({*sys.modules} - before))"
    done = subprocess.run([sys.executable, "-c", ask], capture_output=True, text=True, cwd=ROOT, check=True)
    assert {name.split(".")[0] for name in done.stdout.split()} - {*sys.stdlib_module_names} == {"bridle"}


def test_functions_take_ten_parameters_at_most() -> None:
    found = set()
    for path, tree in (*sources("bridle"), *sources("bridle_cli")):
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef) and "/standalone/" not in path:
                names = [one.arg for one in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)]
                if len({*names} - {"self", "cls"}) > 10:
                    found.add(f"{path}: {node.name}")
    assert found == set()
