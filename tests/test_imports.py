"""Who may import whom, what the package needs to be imported, and which of JAX's names it stays away from."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "jaxtrain"
STAGES = {
    "aggregation",
    "averaging",
    "estimators",
    "evaluation",
    "gradients",
    "initializers",
    "losses",
    "models",
    "optimizers",
    "sampling",
    "schedules",
    "studies",
}
BETWEEN_STAGES = {"gradients": {"aggregation"}}
"""What the data flow needs, and no more: from stage -> to stages. Must stay free of cycles."""
ABOVE = {"testing", "papers", "workloads", "merge", "cli", "config", "report", "__main__"}
"""May use everything below them. Nothing below uses them."""
CORE = {"jax", "jaxlib", "flax", "optax", "chex", "orbax", "jaxtyping", "numpy", "jaxtrain"}
EXPERIMENTAL = {"multihost_utils", "checkify", "layout", "topologies"}
"""Of jax.experimental: what has no other home yet."""
FORBIDDEN = {"pmap", "pjit", "PRNGKey", "tree_map", "pure_callback", "io_callback", "xmap"}


def _modules():
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = list(path.relative_to(ROOT).with_suffix("").parts)
        yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts), path


def _imports(source, module, is_package=False):
    """``(absolute name, stands at the top of the module)`` of every import."""
    tree = ast.parse(source)
    top = set()
    todo = list(tree.body)
    while todo:  # what runs when the module is imported
        node = todo.pop()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        top.add(node)
        todo.extend(ast.iter_child_nodes(node))
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, node in top
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                package = module.split(".")[: len(module.split(".")) - node.level + is_package]
                base = ".".join([*package, base] if base else package)
            for alias in node.names:
                yield f"{base}.{alias.name}", node in top


def _part(name):
    """``losses`` for ``jaxtrain.losses.comp_sum``."""
    return name.split(".")[1] if "." in name else ""


def _wrong_direction(module, name):
    """Whether ``module`` must not import ``name``."""
    if name.split(".")[0] != "jaxtrain":
        return False
    here, there = _part(module), _part(name)
    if here in ABOVE or not here or here == there:
        return False
    if here in STAGES:
        return there not in {"core"} | BETWEEN_STAGES.get(here, set())
    if here in ("core", "training"):
        return there != "core"
    return there not in {"core"} | STAGES  # scenarios: the stages they are built from, not one another


def _forbidden_names(source):
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute) and node.attr in FORBIDDEN and ast.unparse(node.value) != "jax.tree":
            found.append(f"{ast.unparse(node)}, line {node.lineno}")
        if isinstance(node, ast.Attribute) and ast.unparse(node) in ("nnx.jit", "nnx.grad", "jax.debug.callback"):
            found.append(f"{ast.unparse(node)}, line {node.lineno}")
        if isinstance(node, ast.ImportFrom):
            found += [f"{a.name}, line {node.lineno}" for a in node.names if a.name in FORBIDDEN]
        if isinstance(node, ast.With):
            for item in node.items:
                if isinstance(item.context_expr, ast.Name | ast.Attribute) and "mesh" in ast.unparse(item.context_expr):
                    found.append(f"with {ast.unparse(item.context_expr)}:, line {node.lineno}")
    for name, _ in _imports(source, "x"):
        if name.startswith("jax.experimental.") and name.split(".")[2] not in EXPERIMENTAL:
            found.append(name)
    return found


def test_every_folder_has_its_place():
    """A new folder is a stage, a part above the stages, or a scenario; the last need no entry."""
    folders = {p.parent.name for p in PACKAGE.glob("*/__init__.py")}
    assert folders >= STAGES and {"core", "training", "testing", "papers", "workloads"} <= folders
    for start in BETWEEN_STAGES:
        seen, todo = set(), [start]
        while todo:
            for there in BETWEEN_STAGES.get(todo.pop(), ()):
                assert there != start, f"{start} uses itself by way of others"
                if there not in seen:
                    seen.add(there)
                    todo.append(there)


def test_imports_run_one_way():
    wrong = [
        f"{module} imports {name}"
        for module, path in _modules()
        for name, _ in _imports(path.read_text(), module, path.name == "__init__.py")
        if _wrong_direction(module, name)
    ]
    assert not wrong, "\n".join(wrong)


def test_only_the_core_packages_at_the_top_of_modules():
    wrong = [
        f"{module} imports {name}"
        for module, path in _modules()
        for name, top in _imports(path.read_text(), module, path.name == "__init__.py")
        if top and name.split(".")[0] not in CORE | sys.stdlib_module_names
    ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("folder", ["jaxtrain", "experiments"])
def test_names_that_are_not_used(folder):
    wrong = [f"{path}: {name}" for path in (ROOT / folder).rglob("*.py") for name in _forbidden_names(path.read_text())]
    assert not wrong, "\n".join(wrong)


def test_the_rules_catch_what_they_forbid():
    assert _wrong_direction("jaxtrain.losses.hinge", "jaxtrain.training.make_step")
    assert _wrong_direction("jaxtrain.training.runner", "jaxtrain.averaging.swa")
    assert _wrong_direction("jaxtrain.aggregation.mean", "jaxtrain.gradients.plain")
    assert _wrong_direction("jaxtrain.core.types", "jaxtrain.losses")
    assert _wrong_direction("jaxtrain.optimizers.soap", "jaxtrain.testing")
    assert _wrong_direction("jaxtrain.federated.avg", "jaxtrain.cli")
    assert not _wrong_direction("jaxtrain.federated.avg", "jaxtrain.aggregation.mean")
    assert not _wrong_direction("jaxtrain.gradients.jacobian", "jaxtrain.aggregation.upgrad")
    found = list(_imports("from . import a\nfrom ..core import b\ndef f():\n    import c", "jaxtrain.losses.x"))
    assert found == [("jaxtrain.losses.a", True), ("jaxtrain.core.b", True), ("c", False)]
    assert list(_imports("from .x import a", "jaxtrain.losses", True)) == [("jaxtrain.losses.x.a", True)]
    assert list(_imports("try:\n    import a\nexcept ImportError:\n    pass", "x")) == [("a", True)]
    for source in (
        "jax.pmap(f)",
        "from jax.experimental.pjit import pjit",
        "from jax.experimental import shard_map",
        "import jax.experimental.maps",
        "jax.random.PRNGKey(0)",
        "jax.tree_map(f, x)",
        "jax.tree_util.tree_map(f, x)",
        "with mesh:\n    pass",
        "with self.mesh:\n    pass",
        "nnx.jit(f)",
        "jax.pure_callback(f, x)",
    ):
        assert _forbidden_names(source), source
    for source in ("jax.tree.map(f, x)", "with jax.set_mesh(mesh):\n    pass", "jax.random.key(0)", "jax.jit(f)"):
        assert not _forbidden_names(source), source


def _python(program):
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


_ONLY_THE_CORE = """
import importlib, importlib.abc, importlib.metadata as metadata, pkgutil, re, sys

def requirements(name, seen):
    if name in seen:
        return
    try:
        wanted = metadata.requires(name) or ()
    except metadata.PackageNotFoundError:
        return
    seen.add(name)
    for line in wanted:
        if "extra ==" not in line.replace("'", '"'):
            requirements(re.match("[A-Za-z0-9._-]+", line)[0].lower().replace("_", "-"), seen)

allowed = set()
for name in ("jax", "jaxlib", "flax", "optax", "chex", "orbax-checkpoint", "jaxtyping", "numpy"):
    requirements(name, allowed)
blocked = {
    module
    for module, owners in metadata.packages_distributions().items()
    if not any(owner.lower().replace("_", "-") in allowed for owner in owners)
} - {"jaxtrain", "importlib"}
assert {"sklearn", "matplotlib", "grain", "mlxtend", "pytest", "hypothesis"} <= blocked, blocked

class Blocker(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in blocked:
            raise ModuleNotFoundError(f"{name} is not among the core packages", name=name)

for name in blocked & set(sys.modules):  # what the environment loads at start
    del sys.modules[name]
sys.meta_path.insert(0, Blocker())
import jaxtrain
for stage in jaxtrain.__all__:
    getattr(jaxtrain, stage)
names = [m.name for m in pkgutil.walk_packages(jaxtrain.__path__, "jaxtrain.") if not m.name.endswith("__main__")]
for name in names:
    importlib.import_module(name)
print(len(names), *sorted(blocked & {m.split(".")[0] for m in sys.modules}))
"""


def test_every_module_imports_with_the_core_packages_alone():
    """In a fresh process, where what the core packages do not need themselves cannot be imported."""
    count, *leaked = _python(_ONLY_THE_CORE).split()
    assert int(count) > 50 and not leaked


def test_import_costs_next_to_nothing():
    """At most 0.15 s more than jax, flax and optax: the least CPU time of three fresh processes."""
    program = (
        "import jax, flax, optax, sys, time; loaded = set(sys.modules); start = time.process_time(); import jaxtrain;"
        "print(time.process_time() - start, *(set(sys.modules) - loaded))"
    )
    rows = [_python(program).split() for _ in range(3)]
    assert min(float(row[0]) for row in rows) < 0.15
    # a stage is loaded when it is touched
    assert {name for name in rows[0][1:] if name.startswith("jaxtrain")} == {"jaxtrain"}


def test_stages_load_when_touched():
    import jaxtrain

    assert set(STAGES) < set(jaxtrain.__all__) <= set(dir(jaxtrain))
    with pytest.raises(AttributeError, match="'jaxtrain' has no attribute 'optimisers'"):
        jaxtrain.optimisers  # noqa: B018
