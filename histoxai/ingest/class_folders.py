"""Find the class, split and group of each image in a tree of folders."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path

from histoxai.core.errors import InputRefused
from histoxai.core.safe_text import escape_text
from histoxai.ingest.formats.base import PatchIndex, clean_name, identifier
from histoxai.ingest.split_words import NAMES, SPLITS, is_magnification, split_of, split_of_folder
from histoxai.settings.base import join

_SHOWN = 5
_WITHOUT_SCANS = (
    "no scan folders below the classes: every image counts as a group of its own, so a split by "
    "group cannot keep patches of one scan together"
)

ByFolder = dict[str, list[tuple[str, ...]]]  # folder directly in the source -> paths of its images below the source


@dataclass(frozen=True)
class ClassifiedImage:
    """An image file, and what its folders say. stem: start of its ids. group: its scan, or empty without one."""

    path: Path
    split: int
    stem: str
    group: str


def classify_images(
    root: Path, folders: list[str], files: list[Path], classes: tuple[str, ...] | None, notes: list[str]
) -> dict[str, list[ClassifiedImage]]:
    """Return the images by class. folders: all folders directly in `root`; classes: those that the user names.

    Classes are the folders in `root`, or the folders in those where these are named after splits. Raises InputRefused
    where a folder may be a class as well as a split, or a level above the classes. Where `classes` are folders one
    level lower, the folders in `root` are scans or patients: they belong to the group.
    """
    below: ByFolder = {name: [] for name in folders}
    outside = []
    for path in files:
        parts = path.relative_to(root).parts
        if len(parts) > 1:
            below[parts[0]].append(parts)
        else:
            outside.append(path)
    if outside:
        notes.append(f"{len(outside)} images lie in no class folder: left out ({escape_text(outside[0].name)}, say)")
    level = _class_level(root, {name: paths for name, paths in below.items() if paths}, classes)
    by_class: dict[str, list[ClassifiedImage]] = defaultdict(list)
    if level == 0:
        by_class |= {clean_name(name): [] for name in folders}
    spellings = defaultdict(set)
    for parts in (parts for paths in below.values() for parts in paths):
        name = clean_name(parts[level])
        spellings[name].add(parts[level])
        by_class[name].append(_classified(root, parts, level))
    for name, ways in spellings.items():
        if len(ways) > 1:
            notes.append(f"{' and '.join(repr(escape_text(w)) for w in sorted(ways))} are one class, '{name}'")
    codes = {name: _top_split(name) for name, paths in below.items() if paths}
    if level and any(codes.values()):
        notes.append("split: " + ", ".join(f"'{escape_text(n)}' is {NAMES[code]}" for n, code in codes.items()))
    return dict(by_class)


def note_groups(index: PatchIndex, root: Path, images: list[ClassifiedImage]) -> None:
    """Say which folders became groups, and how many groups there are."""
    scans = [image for image in images if image.group]
    if not scans:
        index.note_groups(_WITHOUT_SCANS)
        return
    example = scans[0].path.relative_to(root).as_posix()
    count = len({image.group for image in scans})
    alone = len(images) - len(scans)
    is_above = clean_name(example.partition("/")[0]) == scans[0].group.partition("/")[0]
    place = "above the class and between class and image" if is_above else "between class and image"
    index.note_groups(
        f"group: the folders {place}, without names of splits and magnifications: "
        f"'{escape_text(scans[0].group)}' of {escape_text(example)}, say; {count:,} groups of {len(scans):,} images"
        + (f"; {alone:,} images have no such folder: each is a group of its own" if alone else "")
    )


def _classified(root: Path, parts: tuple[str, ...], level: int) -> ClassifiedImage:
    *folders, file = (*parts[:level], *parts[level + 1 :])
    above, between = folders[:level], folders[level:]
    split = next((_top_split(f) for f in above), 0) or next((c for f in between if (c := SPLITS.get(f.lower()))), 0)
    # the class must never become a group
    named = [f for f in above if not _top_split(f)] + [f for f in between if f.lower() not in SPLITS]
    scan = [clean_name(f) for f in named if not is_magnification(f)]
    return ClassifiedImage(
        root.joinpath(*parts), split, identifier(*folders, parts[level], Path(file).stem), identifier(*scan)
    )


def _top_split(name: str) -> int:
    return split_of_folder(name) or split_of(name)


def _class_level(root: Path, below: ByFolder, classes: tuple[str, ...] | None) -> int:
    """Return how many folders lie above the class folders.

    1 where all folders in the source are named after splits, or hold all the classes that the user names.
    """
    if classes and set(classes) <= {clean_name(name) for name in below}:
        return 0
    splits = [name for name in below if _top_split(name)]
    if not splits:
        if classes:
            is_deep = len(below) > 1 and all(len(parts) > 2 for paths in below.values() for parts in paths)
            return int(is_deep and set(classes) <= _names_below(below).keys())
        _require_no_level_above(root, below)
        return 0
    remedy = "if folders with such names are classes, name all classes with --classes"
    for name in splits:
        if direct := next((parts for parts in below[name] if len(parts) == 2), None):
            raise InputRefused(
                f"{root}: '{escape_text(name)}' has the name of a split, but images lie directly in it "
                f"({escape_text(direct[-1])}, say); put them into class folders ({escape_text(name)}/<class>/) or "
                f"move them away; {remedy}"
            )
    if others := [name for name in below if name not in splits]:
        raise InputRefused(
            f"{root}: '{escape_text(splits[0])}' has the name of a split, and '{escape_text(others[0])}' has none; "
            "name all folders above the classes after train, validation or test, or ingest each of them alone; "
            + remedy
        )
    return 1


def _require_no_level_above(root: Path, below: ByFolder) -> None:
    """Raise InputRefused where the folders in the source seem to hold class folders rather than scans.

    Names of scans nearly always have digits, so that names without any are taken for classes.
    """
    if len(below) == 1:
        _require_no_wrapper(root, *below.items())
        return
    if any(len(parts) == 2 for paths in below.values() for parts in paths):
        return
    counts = _names_below(below)
    shared = sorted(name for name, k in counts.items() if k > 1 and not _is_scan_like(name))
    if _are_scans_of_few_classes(list(below), counts):
        shared = sorted(counts)
    if len(shared) > 1:
        tops = _few(list(below))
        lower, upper = (escape_text(join(tuple(names))) for names in (shared, map(clean_name, below)))
        raise InputRefused(
            f"{root}: {tops} hold folders of the same names ({_few(shared)}): if these are the classes, say --classes "
            f"{lower} (the folders above them become groups), or name those train, validation and test; if {tops} are "
            f"the classes, say --classes {upper}"
        )


def _names_below(below: ByFolder) -> Counter[str]:
    """Count in how many of the folders in the source a folder of each name lies, as names of classes count."""
    return Counter(name for paths in below.values() for name in {clean_name(p[1]) for p in paths if len(p) > 2})


def _are_scans_of_few_classes(tops: list[str], counts: Counter[str]) -> bool:
    """Return whether folders named like scans share a few names: `<patient>/0`, `<patient>/1` of many patients.

    Scans that several classes share are more than the classes, or have longer names than 0, 1, ...
    """
    numbered = [str(k) for k in range(len(counts))]
    few = len(counts) < len(tops) or (sorted(counts) == sorted(numbered) and not set(tops) <= set(numbered))
    return len(tops) > 1 and few and all(map(_is_scan_like, tops)) and min(counts.values()) * 2 > len(tops)


def _require_no_wrapper(root: Path, top: tuple[str, list[tuple[str, ...]]]) -> None:
    """Raise InputRefused where the only folder in the source seems to hold the class folders."""
    name, paths = top
    depth = next((k for k in range(1, min(map(len, paths)) - 1) if len({parts[k] for parts in paths}) > 1), None)
    if depth is None:
        return
    inner = sorted({parts[depth] for parts in paths if not _is_scan_like(parts[depth])})
    if len(inner) > 1:
        raise InputRefused(
            f"{root}: holds one folder, '{escape_text(name)}', and in it {_few(inner)}: if these are the classes, name "
            f"{escape_text(root.joinpath(*paths[0][:depth]))} as the source; if '{escape_text(name)}' is the class, "
            f"say --classes {escape_text(join((clean_name(name),)))}"
        )


def _is_scan_like(name: str) -> bool:
    return any(c.isdigit() for c in name) or name.lower() in SPLITS


def _few(names: list[str]) -> str:
    shown = [escape_text(name) for name in names[:_SHOWN]]
    return ", ".join(shown) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")
