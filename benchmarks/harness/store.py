"""The finished units of a run that may be interrupted, one JSON line each."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

Key = Mapping[str, Any]


def _canonical(key: Key) -> str:
    return json.dumps(key, sort_keys=True, separators=(",", ":"))


class Store:
    """Keeps the value of every finished unit of work under the settings that determine it.

    Args:
        path: JSON-lines file; its first line is the stamp, then one line per unit.
        stamp: what all units must have in common to be mixed (machine, versions, code).
            A file with another stamp is dropped.
        fresh: drop what the file holds.
    """

    def __init__(self, path: Path, stamp: Key, *, fresh: bool = False) -> None:
        self.path = path
        self._values: dict[str, Any] = {}
        self.dropped = 0
        lines = self._read()
        if lines and not fresh and lines[0] == {"stamp": json.loads(_canonical(stamp))}:
            self._values = {_canonical(line["key"]): line["value"] for line in lines[1:]}
        else:
            self.dropped = max(len(lines) - 1, 0)
            self._rewrite([{"stamp": stamp}])
        self.found = len(self._values)

    def _read(self) -> list[dict[str, Any]]:
        """The complete lines; a line cut short by a crash ends the file."""
        lines: list[dict[str, Any]] = []
        try:
            text = self.path.read_text()
        except FileNotFoundError:
            return lines
        kept = 0
        for line in text.splitlines(keepends=True):
            try:
                if not line.endswith("\n"):
                    raise ValueError
                lines.append(json.loads(line))
            except ValueError:
                with self.path.open("r+b") as file:
                    file.truncate(kept)
                break
            kept += len(line.encode())
        return lines

    def _rewrite(self, lines: list[dict[str, Any]]) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(self.path, "".join(json.dumps(line) + "\n" for line in lines))

    def __contains__(self, key: Key) -> bool:
        return _canonical(key) in self._values

    def get(self, key: Key) -> Any:
        """The kept value of a unit, or None."""
        return self._values.get(_canonical(key))

    def put(self, key: Key, value: Any) -> Any:
        """Keeps a JSON value on disk before it returns it (as JSON gives it back)."""
        line = json.dumps({"key": key, "value": value})
        with self.path.open("a") as file:
            file.write(line + "\n")
            file.flush()
            os.fsync(file.fileno())
        value = json.loads(line)["value"]
        self._values[_canonical(key)] = value
        return value

    def unit(self, key: Key, compute: Callable[[], Any]) -> Any:
        """The kept value of a unit, computed and kept if there is none yet."""
        return self.get(key) if key in self else self.put(key, compute())

    def close(self) -> None:
        """The run is complete: its result file replaces the units."""
        self.path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            self.path.parent.rmdir()


def write_atomic(path: Path, content: str | bytes) -> None:
    """Writes a whole file or nothing: into a neighbour first, then renamed."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        if isinstance(content, bytes):
            temporary.write_bytes(content)
        else:
            temporary.write_text(content, encoding="utf-8")
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
