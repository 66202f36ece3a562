"""Published works that methods, networks and statistics rest on, read from references.bib by citation key."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

_ENTRY = re.compile(r"^@\w+\s*\{\s*([^,\s]+)\s*,.*?(?=^@|\Z)", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Reference:
    """One work: its citation key and its BibTeX entry."""

    key: str
    entry: str

    def field(self, name: str) -> str:
        """Text of one field of the entry, without braces and accents; empty if there is none."""
        braces = r"\{(?:[^{}]|\{(?:[^{}]|\{[^{}]*\})*\})*\}"
        match = re.search(rf"\b{name}\s*=\s*({braces})", self.entry)
        return re.sub(r"\\v(?=\{)|\\\W|[{}]", "", match[1]) if match else ""

    @property
    def short(self) -> str:
        """Authors, year and where to find it, such as "Selvaraju et al. 2017, arXiv 1610.02391"."""
        authors = [author.split(",")[0] for author in self.field("author").split(" and ")]
        names = " and ".join(authors) if len(authors) < 3 else f"{authors[0]} et al."
        journal = f"{self.field('journal')} {self.field('volume')}:{self.field('pages').split('-')[0]}".rstrip(": ")
        addresses = {"arXiv ": self.field("eprint"), "doi ": self.field("doi"), "": journal}
        address = next((words + value for words, value in addresses.items() if value), "")
        return f"{names} {self.field('year')}" + (f", {address}" if address else "")


def parse_bibtex(text: str) -> dict[str, Reference]:
    """Parse the entries of a BibTeX file, each of which starts with @ at the start of a line, by key."""
    return {match[1]: Reference(match[1], match[0].strip()) for match in _ENTRY.finditer(text)}


@cache
def references() -> dict[str, Reference]:
    """Return the references that come with histoxai, in the order of their file."""
    return parse_bibtex((files("histoxai.core") / "references.bib").read_text(encoding="utf-8"))
