"""From files back to paths."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from safekv.engines.hf.tiers.files import NO_PARENT, About


def paths(found: Sequence[tuple[float, About]]) -> list[list[About]]:
    """The paths that `found` files make up, each up to a file that no other follows, the ones
    written last at the end. Files whose parent is missing, or stands elsewhere, are left out."""
    written = {about.name: when for when, about in found}
    children: dict[bytes, list[About]] = {}
    for _, about in found:
        children.setdefault(about.parent, []).append(about)
    ends, todo = list[list[About]](), [[about] for about in _at(0, children.get(NO_PARENT, ()))]
    while todo:
        path = todo.pop()
        below = _at(len(path), children.get(path[-1].name, ()))
        todo += [[*path, about] for about in below]
        if not below:
            ends.append(path)
    return sorted(ends, key=lambda path: max(written[about.name] for about in path))


def _at(position: int, abouts: Iterable[About]) -> list[About]:
    return [about for about in abouts if about.position == position]
