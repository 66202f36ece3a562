"""What a command writes when left alone, and whether half of it is right."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from histoxai.store.records import read_item
from histoxai.store.shards import Store
from tests.conftest import array_files


@dataclass
class Case:
    """A command without its output, what it writes when left alone, and the seconds that takes."""

    command: list[object]
    whole: dict[str, bytes] = field(default_factory=dict)
    digest: str = ""
    seconds: float = 0.0

    def to(self, output: Path) -> list[object]:
        return [*self.command, "-o", output, "--quiet"]


def nothing_wrong(output: Path, case: Case) -> bool:
    """Every record stands for the right bytes; returns whether the store is complete."""
    if not output.exists():
        return False
    written = array_files(output)
    states = Store(output).completeness(verify=True)
    for name, state in states.items():
        assert not state["failed"], name
        if name == "index":
            continue
        facts = read_item(output, name)
        assert facts is not None
        for shard in (record["shard"] for record in state["records"]):
            starts = tuple(f"{array}/c/{shard}/" for array in facts["arrays"])
            files = {n: data for n, data in written.items() if f"{n}/".startswith(starts)}
            assert files
            assert all(case.whole[n] == data for n, data in files.items())
    return not any(state["missing"] for state in states.values())
