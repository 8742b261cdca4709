"""What is public: every name in the ``__all__`` of a stage, where it is defined, and what it says of itself.

Files are parsed, not imported: annotations stay as they were written, and constants and type aliases have a docstring
too (the string that follows them).
"""

import ast
import dataclasses
import functools
import inspect
from collections.abc import Iterator
from pathlib import Path

_WIDTH = 96


class SourceError(Exception):
    """The package cannot be documented; says where and why."""


@dataclasses.dataclass(frozen=True)
class Symbol:
    """A public name.

    Attributes:
      stage: the subpackage whose ``__all__`` has it.
      name: its name there.
      module: the dotted name of the file that defines it.
      node: its definition.
      doc: its docstring, cleaned of indentation, or an empty string.
    """

    stage: str
    name: str
    module: str
    node: ast.stmt
    doc: str

    @property
    def path(self) -> str:
        """What a user writes: ``jaxtrain.optimizers.soap``; also the anchor on its page."""
        return f"jaxtrain.{self.stage}.{self.name}"

    @property
    def family(self) -> str:
        """The name of its file, which names its page."""
        return self.module.rpartition(".")[2].lstrip("_")

    @property
    def page(self) -> str:
        """The Markdown file of its page."""
        return f"{self.stage}/{self.family}.md"

    @property
    def url(self) -> str:
        """Its page and anchor, from the root of the site."""
        return f"{self.page}#{self.path}"

    @property
    def is_class(self) -> bool:
        """Whether it is a class."""
        return isinstance(self.node, ast.ClassDef)

    @property
    def is_function(self) -> bool:
        """Whether it is a function."""
        return isinstance(self.node, ast.FunctionDef)

    @property
    def summary(self) -> str:
        """The first paragraph of the docstring on one line."""
        return " ".join(self.doc.partition("\n\n")[0].split())

    def methods(self) -> list["Symbol"]:
        """The public, documented methods and properties of a class; their name has the class in front."""
        if not isinstance(self.node, ast.ClassDef):
            return []
        found = [
            Symbol(self.stage, f"{self.name}.{n.name}", self.module, n, ast.get_docstring(n) or "")
            for n in self.node.body
            if isinstance(n, ast.FunctionDef) and not n.name.startswith("_")
        ]
        return [method for method in found if method.doc]


def stages(root: Path) -> dict[str, Path]:
    """The subpackages of ``jaxtrain`` that have an ``__all__``, and their folders."""
    folders = {p.parent.name: p.parent for p in sorted((root / "jaxtrain").glob("*/__init__.py"))}
    return {name: folder for name, folder in folders.items() if _exported(folder / "__init__.py") is not None}


def public(root: Path) -> dict[str, list[Symbol]]:
    """All public names by stage, sorted as in ``__all__``.

    Raises:
      SourceError: an ``__all__`` is not a plain list, or names what cannot be found.
    """
    return {
        stage: [_find(root, stage, name, f"jaxtrain.{stage}") for name in _exported(folder / "__init__.py") or ()]
        for stage, folder in stages(root).items()
    }


def undocumented(symbols: dict[str, list[Symbol]]) -> list[str]:
    """A message for every public name without a docstring."""
    return [
        f"{symbol.path} has no docstring ({symbol.module}, line {symbol.node.lineno})"
        for group in symbols.values()
        for symbol in group
        if not symbol.doc.strip()
    ]


def module_doc(root: Path, module: str) -> str:
    """The docstring of a file or package."""
    return ast.get_docstring(_parse(_file(root, module))) or ""


@functools.cache
def _parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def _file(root: Path, module: str) -> Path:
    path = root.joinpath(*module.split("."))
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def _exported(path: Path) -> list[str] | None:
    for node in _parse(path).body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "__all__":
            try:
                return list(ast.literal_eval(node.value))
            except ValueError as error:
                raise SourceError(f"{path}: __all__ must be a plain list of strings") from error
    return None


def _find(root: Path, stage: str, name: str, module: str, wanted: str | None = None) -> Symbol:
    """Follows imports from the face of a stage to the definition."""
    wanted = wanted or name
    if not _file(root, module).is_file():
        raise SourceError(f"jaxtrain.{stage} imports {name!r} from {module}, which there is not")
    body = _parse(_file(root, module)).body
    for i, node in enumerate(body):
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name == wanted:
            return Symbol(stage, name, module, node, ast.get_docstring(node) or "")
        if isinstance(node, ast.Assign | ast.AnnAssign):
            target = node.target if isinstance(node, ast.AnnAssign) else node.targets[0]
            if getattr(target, "id", "") == wanted:
                after = body[i + 1] if i + 1 < len(body) else None
                said = isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant) and after.value.value
                return Symbol(stage, name, module, node, inspect.cleandoc(said) if isinstance(said, str) else "")
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("jaxtrain"):
            for alias in node.names:
                if (alias.asname or alias.name) == wanted:
                    return _find(root, stage, name, node.module, alias.name)
    raise SourceError(f"jaxtrain.{stage} exports {name!r}, which {module} neither defines nor imports")


def imports(root: Path, module: str) -> dict[str, str]:
    """The names that a file imports from ``jaxtrain`` and their dotted origin, for references in its docstrings."""
    return {
        alias.asname or alias.name: f"{node.module}.{alias.name}"
        for node in _parse(_file(root, module)).body
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("jaxtrain")
        for alias in node.names
    }


def defines(root: Path, module: str, name: str) -> bool:
    """Whether a module or package has a name, public or not; ``Class.method`` is looked up in the class."""
    path = _file(root, module)
    if not path.is_file():
        return False
    first, _, rest = name.partition(".")
    for node in _parse(path).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name == first:
            return not rest or any(_names(n, rest) for n in node.body)
        if _names(node, first):
            return True
    return path.name == "__init__.py" and _file(root, f"{module}.{name}").is_file()


def _names(node: ast.stmt, name: str) -> bool:
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        return node.name == name
    if isinstance(node, ast.ImportFrom):
        return any((alias.asname or alias.name) == name for alias in node.names)
    targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
    return any(getattr(target, "id", None) == name for target in targets)


def signature(symbol: Symbol) -> str:
    """The definition as code: a function with its arguments, a class with its fields, an alias with its value.

    >>> node = ast.parse("def f(a: int, *, b: float = 1.0) -> int: ...").body[0]
    >>> signature(Symbol("core", "f", "jaxtrain.core.f", node, ""))
    'f(a: int, *, b: float = 1.0) -> int'
    """
    node = symbol.node
    if isinstance(node, ast.FunctionDef):
        if any(getattr(d, "id", "") in ("property", "cached_property") for d in node.decorator_list):
            return f"{symbol.name}: {ast.unparse(node.returns)}" if node.returns else symbol.name
        arguments = list(_arguments(node.args))
        if "." in symbol.name and arguments and arguments[0] in ("self", "cls"):
            arguments = arguments[1:]
        returns = f" -> {ast.unparse(node.returns)}" if node.returns else ""
        line = f"{symbol.name}({', '.join(arguments)}){returns}"
        if len(line) <= _WIDTH:
            return line
        return "\n".join([f"{symbol.name}(", *(f"    {a}," for a in arguments), f"){returns}"])
    if isinstance(node, ast.ClassDef):
        bases = ", ".join(ast.unparse(b) for b in node.bases)
        fields = [f"    {ast.unparse(n)}" for n in node.body if isinstance(n, ast.AnnAssign)]
        lines = [f"class {symbol.name}({bases})" if bases else f"class {symbol.name}", *fields]
        return "\n".join(lines).replace("\n", ":\n", 1)
    value = getattr(node, "value", None)
    text = ast.unparse(value) if value is not None else ""
    return f"{symbol.name} = {text}" if len(text) <= _WIDTH else symbol.name


def _arguments(args: ast.arguments) -> Iterator[str]:
    def one(arg: ast.arg, default: ast.expr | None = None) -> str:
        text = f"{arg.arg}: {ast.unparse(arg.annotation)}" if arg.annotation else arg.arg
        if default is None:
            return text
        return f"{text} = {ast.unparse(default)}" if arg.annotation else f"{text}={ast.unparse(default)}"

    positional = [*args.posonlyargs, *args.args]
    defaults = [None] * (len(positional) - len(args.defaults)) + list(args.defaults)
    for i, (arg, default) in enumerate(zip(positional, defaults, strict=True)):
        yield one(arg, default)
        if args.posonlyargs and i == len(args.posonlyargs) - 1:
            yield "/"
    if args.vararg:
        yield "*" + one(args.vararg)
    elif args.kwonlyargs:
        yield "*"
    for arg, default in zip(args.kwonlyargs, args.kw_defaults, strict=True):
        yield one(arg, default)
    if args.kwarg:
        yield "**" + one(args.kwarg)
