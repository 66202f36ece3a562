"""Find out which of a source's arrays are images, labels, masks and groups, by the settings and by name."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from histoxai.core.errors import InputRefused
from histoxai.ingest.formats.base import identifier
from histoxai.ingest.npy_files import RowArray
from histoxai.ingest.split_words import SPLITS, split_of, split_of_folder
from histoxai.settings import Ingest

IMAGES = ("images", "image", "x", "imgs", "img", "data")
LABELS = ("labels", "label", "y", "targets", "target", "classes")
MASKS = ("masks", "mask", "segmentation")
GROUPS = ("groups", "group", "patient", "patients", "slide", "scan", "wsi")

# Role of an array: the names that it goes by, and a test of whether an array can have it.
_ROLES: dict[str, tuple[tuple[str, ...], Callable[[RowArray], bool]]] = {
    "labels": (LABELS, lambda a: len(a.shape) >= 1 and a.dtype.kind in "biufUSOT"),
    "masks": (MASKS, lambda a: len(a.shape) >= 3),
    "groups": (GROUPS, lambda a: len(a.shape) == 1),
}


@dataclass
class ArrayGroup:
    """Arrays that belong together, row by row.

    stem: start of the patches' ids. split: 0 none, 1 train, 2 validation, 3 test. group: that of all rows, where
    `groups` is None. is_file: that group is a whole file or store.
    """

    stem: str
    images: RowArray
    labels: RowArray | None = None
    masks: RowArray | None = None
    groups: RowArray | None = None
    split: int = 0
    group: str | None = None
    is_file: bool = False

    @property
    def arrays(self) -> list[RowArray]:
        """Images, labels, masks and groups, as far as there are any."""
        return [a for a in (self.images, self.labels, self.masks, self.groups) if a is not None]


@dataclass(frozen=True)
class RoleFinder:
    """Assigns roles to the arrays of one file, folder or store.

    arrays: by their path in `where`. Each folder (a group of HDF5 or Zarr) that has images gives one `ArrayGroup`. Only
    arrays of one folder go together: those of two folders may have as many rows and nothing else in common. Where all
    images lie in one folder, another array may lie elsewhere if it is the only one of its name.
    """

    arrays: Mapping[str, RowArray]
    settings: Ingest
    where: Path

    def find(self, stem: str, split: int) -> list[ArrayGroup]:
        """Return a group of arrays for each folder with images.

        Each of several folders is a group of patches, and names its split unless `split` does. Raises InputRefused
        where images or the arrays beside them are ambiguous, or a name in the settings does not exist.
        """
        images = self.images()
        single = len(images) == 1
        roles = {"" if single else _folder(name): self._beside(name, single) for name in images}
        if not single:
            self._require_beside_images(roles)
        return [_array_group(folder, arrays, stem, split, single) for folder, arrays in roles.items()]

    def images(self) -> list[str]:
        """Return the names of the arrays of images, one in each folder; raises InputRefused where that is ambiguous."""
        arrays = self.arrays
        if (name := self.settings.images) is not None:
            if not (names := [name] if name in arrays else [k for k in arrays if _last(k) == name]):
                raise self._missing("images", name)
            return names
        by_folder: dict[str, str] = {}
        for word in IMAGES:
            for name, a in arrays.items():
                if _last(name).lower() == word and len(a.shape) == 4 and a.shape[-1] == 3:
                    by_folder.setdefault(_folder(name), name)
        names = list(by_folder.values()) or [
            k for k, a in arrays.items() if len(a.shape) == 4 and a.dtype.kind in "uif"
        ]
        if not by_folder and len(names) != 1:
            raise InputRefused(
                f"{self.where}: cannot tell which array holds the images; name it with --images: {self._listing()}"
            )
        return sorted(names)

    def _beside(self, images: str, single: bool) -> dict[str, RowArray]:
        """Return the arrays by role that go with one array of images; `single`: there are no other images."""
        arrays, folder = self.arrays, _folder(images)
        roles = {"images": arrays[images]}
        n = arrays[images].shape[0] if arrays[images].shape else 0
        for role, (words, fits) in _ROLES.items():
            given = getattr(self.settings, role, None)
            if given is not None:
                paths = [*([given] if single else []), f"{folder}/{given}" if folder else given]
                if not (names := [k for k in paths if k in arrays]):
                    raise self._missing(role, given)
                roles[role] = arrays[names[0]]
                continue
            fitting = [
                k
                for k, a in arrays.items()
                if k != images and fits(a) and (role != "groups" or a.shape == (n,)) and not self._is_position(k)
            ]
            same_folder = [k for k in fitting if _folder(k) == folder]
            name = self._by_name(same_folder, words, role) or (self._by_name(fitting, words, role) if single else None)
            if name is not None:
                roles[role] = arrays[name]
        return roles

    def _is_position(self, name: str) -> bool:
        """Return whether `y` lies beside an `x` of its own shape: where tiles lie, and no labels."""
        folder, shape = _folder(name), self.arrays[name].shape
        return _last(name).lower() == "y" and any(
            _last(k).lower() == "x" and _folder(k) == folder and a.shape == shape for k, a in self.arrays.items()
        )

    def _by_name(self, names: list[str], words: tuple[str, ...], role: str) -> str | None:
        for word in words:
            hits = [k for k in names if _last(k).lower() == word]
            if len(hits) > 1:
                raise InputRefused(
                    f"{self.where}: cannot tell which of {', '.join(hits)} holds the {role}; keep it beside the images"
                    + ("" if role == "groups" else f", or name it with --{role}")
                )
            if hits:
                return hits[0]
        return None

    def _require_beside_images(self, roles: Mapping[str, Mapping[str, RowArray]]) -> None:
        """Raise InputRefused for labels, masks or groups that lie in a folder without images."""
        for role, (words, fits) in _ROLES.items():
            if any(role in arrays for arrays in roles.values()):
                continue
            for name, array in self.arrays.items():
                has_role = _last(name).lower() in words and fits(array) and not self._is_position(name)
                if has_role and _folder(name) not in roles:
                    raise InputRefused(
                        f"{self.where}: '{name}' lies beside no images, which are in "
                        f"{', '.join(f or '/' for f in roles)}; keep {role} beside the images that they belong to, or "
                        "name one array with --images"
                    )

    def _missing(self, role: str, name: str) -> InputRefused:
        return InputRefused(f"{self.where}: has no array '{name}' for --{role}; it has: {self._listing()}")

    def _listing(self) -> str:
        return ", ".join(f"{n} {a.shape} {a.dtype}" for n, a in self.arrays.items()) or "none"


def _array_group(folder: str, roles: Mapping[str, RowArray], stem: str, split: int, single: bool) -> ArrayGroup:
    words = [w for w in folder.split("/") if w]
    own_split = next((code for w in words if (code := split_of(w))), 0)
    scan = [w for w in words if w.lower() not in SPLITS]
    group = identifier(stem, *scan) if scan and not single else None
    return ArrayGroup(
        identifier(stem, *words),
        roles["images"],
        roles.get("labels"),
        roles.get("masks"),
        roles.get("groups"),
        split or own_split,
        group,
    )


def group_by_file(files: Mapping[str, list[ArrayGroup]]) -> None:
    """Make each of several files or stores the group of its patches, where no array or folder in it names groups.

    files: by their path in the source without the ending. A file is a part of a data set, and no scan, where it is
    named after a split, holds several splits, or has the name of another file but for folders of splits.
    """
    keys = {stem: tuple(part for part in stem.split("/")[:-1] if not split_of_folder(part)) for stem in files}
    names = {stem: (*folders, stem.rpartition("/")[2]) for stem, folders in keys.items()}
    counts = Counter(names.values())
    for stem, groups in files.items():
        is_part = split_of(names[stem][-1]) or counts[names[stem]] > 1 or len({g.split for g in groups}) > 1
        if len(files) > 1 and not is_part:
            for group in groups:
                if group.group is None and group.groups is None:
                    group.group, group.is_file = identifier(stem.removesuffix("_x")), True


def _folder(name: str) -> str:
    return name.rpartition("/")[0]


def _last(name: str) -> str:
    return name.rpartition("/")[2]
