"""Header fields: of a request by name, of a response in every form they may have."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TypeAlias

HeaderValue: TypeAlias = str | int | None | Iterable[str]
HeaderInput: TypeAlias = Mapping[str, HeaderValue] | Iterable[tuple[str, HeaderValue]]


class MultiMapping(Mapping[str, str]):
    """Name to value where a name may occur more than once: `m[name]` is the first, `getlist` gives all."""

    __slots__ = ("_items",)

    def __init__(self, items: Iterable[tuple[str, str]]) -> None:
        self._items = tuple(items)

    def _key(self, name: str) -> str:
        return name

    def getlist(self, name: str) -> list[str]:
        """All values of `name` in order; an empty list if there are none."""
        wanted = self._key(name)
        return [value for key, value in self._items if key == wanted]

    def __getitem__(self, name: str) -> str:
        wanted = self._key(name)
        for key, value in self._items:
            if key == wanted:
                return value
        raise KeyError(name)

    def __iter__(self) -> Iterator[str]:
        return iter(dict.fromkeys(key for key, _ in self._items))

    def __len__(self) -> int:
        return len({key for key, _ in self._items})

    def __repr__(self) -> str:
        return f"{type(self).__name__}({list(self._items)!r})"


class Headers(MultiMapping):
    """Request header fields by name, in any case.  A repeated field is one value joined with ", " (RFC 9110 5.3)."""

    __slots__ = ()

    def _key(self, name: str) -> str:
        return name.lower()

    def __getitem__(self, name: str) -> str:
        values = self.getlist(name)
        if not values:
            raise KeyError(name)
        return ("; " if name.lower() == "cookie" else ", ").join(values)


_MAPPINGS = (dict, Mapping)  # asking Mapping costs more than flattening a small dict


def header_lines(headers: HeaderInput) -> list[tuple[str, str]]:
    """Flatten the forms a header value may take into (name, value) lines."""
    items: Any = headers.items() if isinstance(headers, _MAPPINGS) else headers
    lines: list[tuple[str, str]] = []
    for name, value in items:
        if value is None:
            continue
        if isinstance(value, (str, int)):
            lines.append((name, str(value)))
        else:
            lines.extend((name, str(one)) for one in value)
    return lines


def has_header(lines: Iterable[tuple[str, str]], name: str) -> bool:
    """Whether `name` (lower case) is among the header lines, in any case."""
    return any(key.lower() == name for key, _ in lines)
