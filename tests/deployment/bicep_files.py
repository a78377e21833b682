"""Reads Bicep files as far as a parser can, since no compiler runs where the tests do: what a file declares, what it
passes to whom, and what it names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import tree_sitter_bicep
from tree_sitter import Language, Node, Parser

_parser = Parser(Language(tree_sitter_bicep.language()))
# Whose identifier is a name of its own, not a reference to a declared one.
_FUNCTIONS = {"decorators", "type", "primitive_type"}


def text(node: Node) -> str:
    return (node.text or b"").decode()


def walk(node: Node) -> Iterator[Node]:
    yield node
    for child in node.named_children:
        yield from walk(child)


def literal(node: Node | None) -> object:
    """A value that is written out: a string, a bool, a number, an array or object of such. None for anything else."""
    match node:
        case Node(type="string") if all(part.type == "string_content" for part in node.named_children):
            return "".join(map(text, node.named_children))
        case Node(type="boolean"):
            return text(node) == "true"
        case Node(type="number"):
            return int(text(node))
        case Node(type="array"):
            return [literal(each) for each in node.named_children if each.type != "comment"]
        case Node(type="object"):
            return {key: literal(value) for key, value in properties(node).items()}
    return None


def properties(node: Node | None) -> dict[str, Node]:
    """The properties of an object literal."""
    found: dict[str, Node] = {}
    for each in node.named_children if node is not None and node.type == "object" else ():
        if each.type == "object_property":
            key, value = [part for part in each.named_children if part.type != "comment"]
            found[str(literal(key)) if key.type == "string" else text(key)] = value
    return found


def at(node: Node | None, *path: str) -> Node | None:
    """The value under nested properties."""
    for key in path:
        node = properties(node).get(key)
    return node


def objects(node: Node | None) -> Iterator[Node]:
    """The object literals that an expression is made of, `union({...}, a ? {...} : {})`; not those inside of them."""
    if node is None:
        return
    if node.type == "object":
        yield node
    else:
        for child in node.named_children:
            yield from objects(child)


def references(node: Node) -> Iterator[str]:
    """The declared names that an expression uses. Those that loops and lambdas bring along are left out."""
    match node.type:
        case "object_property":
            yield from references(node.named_children[-1])
        case "lambda_expression":
            *bound, body = node.named_children
            yield from (name for name in references(body) if name not in {text(each) for each in bound})
        case "for_statement":
            # `for item in list: body`, or `for (item, index) in list: body`
            *head, body = node.named_children
            bound = {text(each) for each in walk(head[0]) if each.type == "identifier"}
            yield from references(head[-1])
            yield from (name for name in references(body) if name not in bound)
        case "call_expression":
            function, *arguments = node.named_children
            if function.type != "identifier":
                yield from references(function)
            for each in arguments:
                yield from references(each)
        case "identifier":
            yield text(node)
        case kind if kind not in _FUNCTIONS:
            for child in node.named_children:
                yield from references(child)


@dataclass(frozen=True)
class Declaration:
    """`kind`: param, var, output, resource or module. `source`: the type of a resource, the path of a module. `body`:
    its object, behind loops and conditions; `value`: the expression of anything else."""

    kind: str
    name: str
    node: Node
    decorators: dict[str, list[Node]]
    source: str = ""
    existing: bool = False

    @property
    def description(self) -> str:
        arguments = self.decorators.get("description")
        return str(literal(arguments[0])) if arguments else ""

    @property
    def secure(self) -> bool:
        return "secure" in self.decorators

    @property
    def value(self) -> Node | None:
        last = self.node.named_children[-1]
        return None if last.type in ("type", "identifier") else last

    @property
    def body(self) -> Node | None:
        return next(objects(self.value), None)


@dataclass(frozen=True)
class File:
    path: Path
    root: Node
    declared: dict[str, Declaration] = field(default_factory=dict)
    outputs: dict[str, Declaration] = field(default_factory=dict)

    def of(self, kind: str) -> list[Declaration]:
        return [each for each in (*self.declared.values(), *self.outputs.values()) if each.kind == kind]

    @property
    def errors(self) -> list[str]:
        """What the parser did not understand."""
        return [f"line {node.start_point.row + 1}: {text(node)[:60]!r}" for node in _broken(self.root)]


def _broken(node: Node) -> Iterator[Node]:
    for child in node.children:
        if child.type == "ERROR" or child.is_missing:
            yield child
        elif child.has_error:
            yield from _broken(child)


def read(path: Path) -> File:
    file = File(path, _parser.parse(path.read_bytes()).root_node)
    decorators: dict[str, list[Node]] = {}
    for node in file.root.named_children:
        kind, _, what = node.type.partition("_")
        if node.type == "decorators":
            calls = (decorator.named_children[0] for decorator in node.named_children)
            decorators = {text(call.named_children[0]): call.named_children[1].named_children for call in calls}
        elif what == "declaration":
            name, second = node.named_children[0], node.named_children[1]
            found = Declaration(
                {"parameter": "param", "variable": "var"}.get(kind, kind),
                text(name),
                node,
                decorators,
                str(literal(second)) if kind in ("resource", "module") else "",
                any(child.type == "existing" or text(child) == "existing" for child in node.children),
            )
            (file.outputs if kind == "output" else file.declared)[found.name] = found
            decorators = {}
    return file


def read_all(folder: Path) -> dict[str, File]:
    return {path.name: read(path) for path in sorted(folder.glob("*.bicep"))}


# --- what a deployed app finds in its environment -------------------------------------------------------------------


def environment(files: Mapping[str, File], module: str, values: Mapping[str, str | None]) -> dict[str, str]:
    """The settings of the app that `module` deploys: those that main.bicep passes to it, its own, and its secrets.
    `values` holds what Azure would put in an expression's place, by the expression's text, and by name what a secret
    is; None where a condition leaves the setting out. A condition that it holds is false if it is None. Raises KeyError
    for an expression that is not there."""
    main = files["main.bicep"]
    (use,) = (each for each in main.of("module") if each.source == module)
    (config,) = (
        config
        for site in files[module].of("module")
        if (configs := at(site.body, "params", "configs")) is not None
        for config in configs.named_children
        if literal(at(config, "name")) == "appsettings"
    )
    passed = list(_parts(main, at(use.body, "params", "settings"), values))
    parts = _parts(files[module], at(config, "properties"), values, passed)
    found = {name: _value(node, values) for part in parts for name, node in part}
    found |= {name: values[name] for name in _names(main, at(use.body, "params", "secretNames"))}
    return {name: value for name, value in found.items() if value is not None}


Part = list[tuple[str, Node]]


def _parts(
    file: File, node: Node | None, values: Mapping[str, str | None], passed: list[Part] | None = None
) -> Iterator[Part]:
    """The object literals of an expression, and of the variables that it names, in their order. `passed` are those of
    the parameter `settings`."""
    if node is None:
        return
    name = text(node) if node.type == "identifier" else ""
    children = node.named_children
    if node.type == "object":
        yield list(properties(node).items())
    elif name == "settings" and passed is not None:
        yield from passed
    elif name in file.declared and file.declared[name].kind == "var":
        yield from _parts(file, file.declared[name].value, values, passed)
    elif node.type == "ternary_expression" and text(children[0]) in values:
        yield from _parts(file, children[1 if values[text(children[0])] else 2], values, passed)
    else:
        for child in children:
            yield from _parts(file, child, values, passed)


def _names(file: File, node: Node | None) -> list[str]:
    """The strings of the first array that an expression, or the variable that it is, writes out."""
    assert node is not None
    value = file.declared[text(node)].value
    assert value is not None
    return next(literal(each) for each in walk(value) if each.type == "array")  # type: ignore[return-value]


def _value(node: Node, values: Mapping[str, str | None]) -> str | None:
    written = literal(node)
    return str(written) if written is not None else values[text(node)]
