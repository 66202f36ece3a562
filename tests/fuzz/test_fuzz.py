"""Every parser of bytes that others wrote, fed with bytes that nobody meant.

No traceback, no hang, no memory beyond a bound, exit codes as documented; and of our own stores, which have checksums,
never another number: refused, or the same. CI runs a fixed set of cases, `scripts/fuzz` as many as there is time for.
What did harm once, and an example of every kind of refusal, is kept in `corpus/` and tried first.
"""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from fnmatch import fnmatch
from hashlib import blake2b
from pathlib import Path
from queue import SimpleQueue

import pytest

from tests.conftest import Mini, array_files
from tests.fuzz.mutate import mutate, resealed
from tests.fuzz.targets import FOREIGN, MODELS, STORES, Target
from tests.fuzz.trial import Outcome, Trier, describe, judged
from tests.sampling import FUZZ_CASES, share, sized

pytestmark = pytest.mark.fuzz
TARGETS = {**FOREIGN, **MODELS, **STORES}
CASES = int(os.environ.get("HISTOXAI_FUZZ_CASES", sized(FUZZ_CASES)))
SEED = os.environ.get("HISTOXAI_FUZZ_SEED", "0")
KEEP = bool(os.environ.get("HISTOXAI_FUZZ_KEEP"))
CORPUS = Path(__file__).with_name("corpus")
AT_ONCE = 2
LARGEST = 20_000  # bytes of a file in the corpus


class Bench:
    """A copy of a target's files that one child works on."""

    def __init__(self, target: Target, made: Path, place: Path) -> None:
        self.target, self.place = target, place
        shutil.copytree(made, place, symlinks=True)
        self.base = place.with_name(f"{place.name}-out")
        if (place / "out").exists():
            (place / "out").rename(self.base)  # what a run goes on from
        found = {p for pattern in target.files for p in self._folder(pattern).glob(self._rest(pattern))}
        self.names = sorted(self._name(p) for p in found if p.is_file() and not p.is_symlink())
        self.good = {name: self._path(name).read_bytes() for name in self.names}
        self.trier = Trier()
        self.whole: tuple[str, dict[str, bytes]] | None = None

    def _folder(self, pattern: str) -> Path:
        return self.base if pattern.startswith("out/") else self.place

    def _rest(self, pattern: str) -> str:
        return pattern.removeprefix("out/")

    def _name(self, path: Path) -> str:
        if path.is_relative_to(self.place):
            return path.relative_to(self.place).as_posix()
        return f"out/{path.relative_to(self.base).as_posix()}"

    def _path(self, name: str) -> Path:
        return self.base / name.removeprefix("out/") if name.startswith("out/") else self.place / name

    def run(self, name: str | None = None, data: bytes | None = b"") -> tuple[Outcome, dict[str, bytes]]:
        """The command with one file changed (None: missing); what it said, and the files that it left."""
        out = self.place.with_name(f"{self.place.name}-made")
        shutil.rmtree(out, ignore_errors=True)
        changed = self._path(name) if name is not None else None
        if changed is not None and data is None:
            changed.unlink()
        elif changed is not None and data is not None:
            changed.write_bytes(data)
        if self.base.exists():
            shutil.copytree(self.base, out)
        try:
            outcome = self.trier(self.target.command(self.place, out))
            made = array_files(out) if out.is_dir() and self.target.same else {}
            made = {name: data for name, data in made.items() if fnmatch(name, self.target.compared)}
        finally:
            shutil.rmtree(out, ignore_errors=True)
            if name is not None:
                self._restore(name)
        return outcome, made

    def _restore(self, name: str) -> None:
        # the command may have mended the file, or moved it out of the way
        path = self._path(name)
        if path.is_dir():
            shutil.rmtree(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(self.good[name])

    def reference(self) -> None:
        """The command on good files."""
        outcome, made = self.run()
        assert judged(outcome, (0,)) == "", describe(self.target.command(self.place, self.place))
        self.whole = (outcome.out, made)

    def verdict(self, name: str, data: bytes | None, harmful: bool) -> tuple[str, Outcome]:
        """What is wrong with how the command took a changed file; empty if nothing."""
        outcome, made = self.run(name, data)
        wrong = judged(outcome, (0, 1, 2, 3, 4))
        if not wrong and self.target.same and not harmful and outcome.code == 0 and data != self.good[name]:
            assert self.whole is not None
            if made != self.whole[1]:
                other = [n for n in sorted(made.keys() | self.whole[1].keys()) if made.get(n) != self.whole[1].get(n)]
                wrong = f"other files than from good input, and no error: {other[:5]}"
            elif self.target.command(self.place, self.place)[-1] == "--json" and outcome.out != self.whole[0]:
                wrong = "other numbers than from good input, and no error"
        return wrong, outcome


@pytest.fixture
def ground() -> Iterator[Path]:
    """A folder in memory, where there is one: thousands of small stores are made."""
    shm = Path("/dev/shm")
    place = (
        shm if os.access(shm, os.W_OK) else Path(os.environ.get("TMPDIR", "/tmp"))
    ) / f"histoxai-fuzz-{os.getpid()}"
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(mode=0o700)
    yield place
    shutil.rmtree(place, ignore_errors=True)


def kept(target: str) -> list[tuple[str, bytes]]:
    """The corpus: changed files, by the file whose place they take."""
    found = sorted((CORPUS / target.replace(" ", "-")).glob("*"))
    return [(p.name.rpartition("--")[0].replace("%", "/"), p.read_bytes()) for p in found]


def is_small(data: bytes) -> bool:
    """Whether a file may be kept: small, and without the paths of one machine."""
    return len(data) <= LARGEST and not any(word in data for word in (b"pytest-of", b"histoxai-fuzz"))


def keep(target: str, name: str, data: bytes) -> None:
    folder = CORPUS / target.replace(" ", "-")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name.replace('/', '%')}--{blake2b(data, digest_size=4).hexdigest()}").write_bytes(data)


def cases(target: str, bench: Bench) -> Iterator[tuple[str, bytes | None, bool]]:
    corpus = [(name, data) for name, data in kept(target) if name in bench.good]
    assert len(corpus) == len(kept(target)), "a file in the corpus takes the place of none"
    yield from ((name, data, False) for name, data in corpus)
    for number in range(max(1, round(CASES * bench.target.weight))):
        rng = random.Random(f"{SEED} {target} {number}")
        name = rng.choice(bench.names)
        bases = [bench.good[name]] * 3 + [data for n, data in corpus if n == name]
        data = mutate(rng.choice(bases), rng, list(bench.good.values()))
        if "_done/" in name and rng.random() < 0.5:  # meant: it may say something else, and still do no harm
            yield name, resealed(data), True
        else:
            yield name, None if rng.random() < 0.04 else data, False


@pytest.mark.parametrize("target", list(TARGETS))
def test_bytes_that_nobody_meant(target: str, mini: Mini, ground: Path) -> None:
    (ground / "made").mkdir()
    TARGETS[target].make(ground / "made", mini)
    benches = [Bench(TARGETS[target], ground / "made", ground / f"{k}") for k in range(AT_ONCE)]
    free: SimpleQueue[Bench] = SimpleQueue()
    for bench in benches:
        bench.reference()
        free.put(bench)

    def tried(case: tuple[str, bytes | None, bool]) -> tuple[str, bytes | None, str, Outcome]:
        bench = free.get()
        try:
            return (*case[:2], *bench.verdict(*case))
        finally:
            free.put(bench)

    harm, seen, count = [], {}, 0
    with ThreadPoolExecutor(AT_ONCE) as pool:
        for name, data, wrong, outcome in pool.map(tried, cases(target, benches[0])):
            count += 1
            if wrong:
                harm.append(f"{name}: {wrong}")
            if data is not None and (wrong or (KEEP and outcome.signature not in seen and is_small(data))):
                keep(target, name, data)
            seen[outcome.signature] = seen.get(outcome.signature, 0) + 1
    for used in benches:
        used.trier.close()
    print(f"{target}: {count} cases, {len(seen)} kinds of outcome, {len(harm)} did harm")
    if KEEP:
        for signature, times in sorted(seen.items(), key=lambda item: -item[1]):
            print(f"  {times:6} {signature}")
    assert not harm, "\n\n".join(harm[:20])
    assert len(seen) > 1 or TARGETS[target].mends or share() < 1  # a few inputs may all end alike
