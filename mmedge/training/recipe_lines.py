"""Where in a YAML file the keys of a recipe are."""

from __future__ import annotations

from collections.abc import Iterator

import yaml


def repeated_keys(node: yaml.Node) -> Iterator[tuple[int, str]]:
    """Line and dotted name of every key that is there again, of which a loader takes the last."""
    yield from _repeated(node, "", set())


def _repeated(node: yaml.Node, where: str, seen: set[int]) -> Iterator[tuple[int, str]]:
    if id(node) in seen:  # a node may hold itself
        return
    seen.add(id(node))
    keys: set[str] = set()
    for key, value in node.value if isinstance(node, yaml.MappingNode) else ():
        name = f"{where}{key.value}"
        if name in keys:
            yield key.start_mark.line + 1, name
        keys.add(name)
        yield from _repeated(value, f"{name}.", seen)
    for value in node.value if isinstance(node, yaml.SequenceNode) else ():
        yield from _repeated(value, where, seen)


def line_of(node: yaml.Node, where: list[str | int]) -> int:
    """The line of the key at `where`, or of the deepest key above it that is there."""
    line = node.start_mark.line
    for part in where:
        if isinstance(node, yaml.MappingNode):
            found = next(((key, value) for key, value in node.value if key.value == str(part)), None)
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
            found = (node.value[part], node.value[part])
        else:
            found = None
        if found is None:
            break
        line, node = found[0].start_mark.line, found[1]
    return line + 1
