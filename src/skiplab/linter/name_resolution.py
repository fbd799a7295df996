"""Whether the source code reads an overwritten value by the name that it had before the in-place write.

A graph cannot distinguish `y = relu_(x); conv(y) + x` from `y = relu_(x); conv(y) + y`: both names hold one tensor. The
source can. The stack traces of write and reader give the statement of each, in the function that both have in common.
Unclear cases (no source code, a loop between the two) count as unknown.
"""

import ast
import itertools
import linecache
from collections.abc import Iterator

from torch.fx import Node

from skiplab.graph.ops import op_info
from skiplab.graph.source_map import Frame, frames_by_call

_Function = ast.FunctionDef | ast.AsyncFunctionDef


class Sources:
    """The functions in the files that hold a network's code, as syntax trees."""

    def __init__(self) -> None:
        self.functions: dict[str, list[_Function]] = {}
        self.unreadable: set[str] = set()

    def old_name(self, write: Node, reader: Node, overwritten: Node, *, merges: bool) -> str | None:
        """The name by which `reader` reads the value that `write` overwrites, if it is not the name of the result.

        Args:
            write: an in-place operator.
            reader: a later operator that reads the written tensor.
            overwritten: the operator that computes the overwritten value.
            merges: whether the reader is an addition or concatenation, rather than a function of the tensor.
        """
        lines = _meeting(write, reader)
        function = self._function(*lines[-1]) if lines else None
        if function is None:
            return None
        wrote, read = (_statement(function, frame.line) for frame in lines[-1])
        if wrote is None or read is None or read.lineno < wrote.lineno:
            return None
        made = _meeting(overwritten, write)
        same_statement = len(made) == len(lines) and _statement(function, made[-1][0].line) is wrote
        if len(made) > len(lines) or same_statement:
            return None  # one statement computes and overwrites the value, so it has no name here
        used = _operand_names(read) if merges else _argument_names(read)
        if wrote is read:  # `x + f(x)` names x twice, `helper(x)` once
            used = {name for name in used if _times(name, read) > 1}
        return min(_old_names(function, wrote, read) & used, default=None)

    def _function(self, one: Frame, other: Frame) -> _Function | None:
        """The innermost function that contains both lines."""
        if one.file not in self.functions:
            self.functions[one.file] = _functions(one.file)
        if not self.functions[one.file]:
            self.unreadable.add(one.file)
        named = [each for each in self.functions[one.file] if each.name == one.function]
        fitting = [each for each in named if _holds(each, one.line) and _holds(each, other.line)]
        return min(fitting, key=lambda each: (each.end_lineno or 0) - each.lineno, default=None)


def _functions(file: str) -> list[_Function]:
    """All functions of a file except lambdas; empty if the file cannot be read."""
    try:
        tree = ast.parse("".join(linecache.getlines(file)))
    except SyntaxError:
        return []
    return [each for each in ast.walk(tree) if isinstance(each, _Function)]


def _holds(node: _Function | ast.stmt, line: int) -> bool:
    return node.lineno <= line <= (node.end_lineno or 0)


def _meeting(one: Node, other: Node) -> list[tuple[Frame, Frame]]:
    """For each module call that leads to both nodes, and each helper in the innermost one, the line for each node."""
    pairs = zip(frames_by_call(one), frames_by_call(other), strict=False)
    shared = list(itertools.takewhile(lambda pair: pair[0][0] == pair[1][0], pairs))
    met = [(lines[0], other_lines[0]) for (_, lines), (_, other_lines) in shared[:-1]]
    innermost = (shared[-1][0][1], shared[-1][1][1]) if shared else ((), ())
    for line, other_line in zip(*innermost, strict=False):
        if (line.file, line.function) != (other_line.file, other_line.function):
            break
        met.append((line, other_line))
        if line != other_line:
            break
    return met


def _statements(function: _Function) -> list[ast.stmt]:
    """All statements of a function, in order of their lines; the same objects at each call."""
    if not hasattr(function, "statements"):
        found = [each for each in ast.walk(function) if isinstance(each, ast.stmt) and each is not function]
        function.statements = sorted(found, key=lambda s: (s.lineno, -(s.end_lineno or 0)))  # type: ignore[union-attr]
    return function.statements  # type: ignore[union-attr]


def _statement(function: _Function, line: int) -> ast.stmt | None:
    """The innermost statement at a line."""
    around = [each for each in _statements(function) if _holds(each, line)]
    return around[-1] if around else None


def _times(name: str, statement: ast.stmt) -> int:
    """How often a statement reads a name; `x += f(x)` reads x twice."""
    augmented = isinstance(statement, ast.AugAssign)
    found = [n for part in _own(statement) for n in ast.walk(part) if isinstance(n, ast.Name) and n.id == name]
    return sum(augmented or not _binds(n) for n in found)


def _old_names(function: _Function, wrote: ast.stmt, read: ast.stmt) -> set[str]:
    """Names that at `read` still refer to the overwritten value, except those bound to the result of `wrote`."""
    written = _argument_names(wrote)
    if _is_bare_call(wrote) or not written:
        return set()  # `self.relu(x)` as a statement overwrites x on purpose
    if len(written) > 1 and (wrote is read or _stored(wrote) & (_operand_names(read) | _argument_names(read))):
        return set()  # unclear which of them is overwritten
    aliases = _Aliases()
    for statement in _statements(function):
        if statement.lineno < wrote.lineno:
            aliases.bind(statement)
    old = aliases.of(written)
    if wrote is read:
        return old
    old -= _stored(wrote)
    for statement in _statements(function):
        if wrote.lineno < statement.lineno < read.lineno:
            source = _copied_name(statement)
            if source in old:
                old |= _stored(statement)
            elif _encloses(function, statement, read):
                old -= _stored(statement)
    return old


class _Aliases:
    """Names that refer to the same value, through assignments `a = b` and `list.append(a)`."""

    def __init__(self) -> None:
        self.value: dict[str, object] = {}
        self.held: dict[str, set[str]] = {}

    def bind(self, statement: ast.stmt) -> None:
        source, container = _copied_name(statement), _appended(statement)
        if container is not None:
            name, item = container
            self.held.setdefault(name, set()).add(item)
        for name in _stored(statement):
            if source is not None:
                self.value[name] = self.value.setdefault(source, object())
            else:
                self.value[name] = object()
                self.held.pop(name, None)

    def of(self, names: set[str]) -> set[str]:
        values = [self.value.setdefault(name, object()) for name in names]
        same = {name for name, value in self.value.items() if any(value is each for each in values)}
        return same | {name for name, items in self.held.items() if items & same}


def _copied_name(statement: ast.stmt) -> str | None:
    """b in `a = b`."""
    if isinstance(statement, (ast.Assign, ast.AnnAssign)) and isinstance(statement.value, ast.Name):
        return statement.value.id
    return None


def _appended(statement: ast.stmt) -> tuple[str, str] | None:
    """(a, b) in `a.append(b)`."""
    call = statement.value if isinstance(statement, ast.Expr) else None
    if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Attribute) or call.func.attr != "append":
        return None
    holder, item = call.func.value, call.args[0] if len(call.args) == 1 else None
    return (holder.id, item.id) if isinstance(holder, ast.Name) and isinstance(item, ast.Name) else None


def _stored(statement: ast.stmt) -> set[str]:
    """Names that a statement binds to a new value; `x += y` does not rebind a tensor."""
    if isinstance(statement, ast.AugAssign):
        return set()
    return {n.id for part in _own(statement) for n in ast.walk(part) if isinstance(n, ast.Name) and _binds(n)}


def _binds(name: ast.Name) -> bool:
    return isinstance(name.ctx, ast.Store)


def _own(statement: ast.stmt) -> list[ast.AST]:
    """The parts of a statement that are not statements."""
    return [child for child in ast.iter_child_nodes(statement) if not isinstance(child, ast.stmt)]


def _encloses(function: _Function, statement: ast.stmt, read: ast.stmt) -> bool:
    """Whether a statement is always executed before `read`: no `if` or loop contains only the statement."""
    around = [s for s in _statements(function) if s is not statement and statement in ast.walk(s)]
    return all(read in ast.walk(s) for s in around)


def _is_bare_call(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Call) and not _appends(statement.value)


def _appends(call: ast.Call) -> bool:
    return any(isinstance(argument, ast.Call) for argument in call.args)


def _argument_names(statement: ast.stmt) -> set[str]:
    """Names that a statement passes to functions, or whose in-place method it calls."""
    names = set()
    for part in _own(statement):
        for call in ast.walk(part):
            if isinstance(call, ast.Call):
                names |= set(_direct_names(call))
    return names


def _direct_names(call: ast.Call) -> Iterator[str]:
    items: list[ast.expr] = [*call.args, *(keyword.value for keyword in call.keywords)]
    if isinstance(call.func, ast.Attribute) and call.func.attr.endswith("_"):
        items.append(call.func.value)
    for item in items:
        parts = item.elts if isinstance(item, (ast.List, ast.Tuple)) else [item]
        for part in parts:
            inner = part.value if isinstance(part, (ast.Starred, ast.Subscript)) else part
            if isinstance(inner, ast.Name):
                yield inner.id


def _operand_names(statement: ast.stmt) -> set[str]:
    """Names that a statement adds or joins: operands of a sum outside calls, or arguments of a joining function."""
    names: set[str] = set()
    pending: list[ast.AST] = list(_own(statement))
    joined = isinstance(statement, ast.AugAssign)
    while pending:
        each = pending.pop()
        joined |= isinstance(each, ast.BinOp) and isinstance(each.op, (ast.Add, ast.Sub))
        if isinstance(each, ast.Name) and (not _binds(each) or isinstance(statement, ast.AugAssign)):
            names.add(each.id)
        if not isinstance(each, ast.Call):
            pending += ast.iter_child_nodes(each)
    joins = {name for part in _own(statement) for call in ast.walk(part) for name in _joined_names(call)}
    return names | joins if joined else joins


def _joined_names(call: ast.AST) -> Iterator[str]:
    """Operands that are names in `torch.cat([x, y])` or `x.add(y)`."""
    if isinstance(call, ast.Call):
        function = call.func
        if isinstance(function, ast.Attribute) and _is_merge(function.attr):
            yield from _direct_names(call)
            if isinstance(function.value, ast.Name):
                yield function.value.id
        elif isinstance(function, ast.Name) and _is_merge(function.id):
            yield from _direct_names(call)


def _is_merge(function: str) -> bool:
    """Whether a function of this name adds or concatenates tensors. `sum` does, of a stack or by Python."""
    return op_info(function.removesuffix("_")).kind == "merge" or function == "sum"
