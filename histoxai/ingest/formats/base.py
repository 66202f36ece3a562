"""What every reader gives: an index of all patches, found without reading pixels, and rows on demand."""

from __future__ import annotations

import itertools
import sys
import unicodedata
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from tokenize import TokenError
from typing import Any, Protocol

import numpy as np

from histoxai.core.errors import InputRefused
from histoxai.core.provenance import file_checksum, fingerprint
from histoxai.ingest.file_listing import require_utf8_name
from histoxai.settings import Ingest
from histoxai.store.records import MAX_ROWS

# What a header may claim: more would fill memory before a byte of data is read.
MAX_PIXELS = 100_000_000
MAX_CHECKED = 64 << 20  # bytes that are read for a digest alone


@dataclass
class PatchIndex:
    """All patches of a source, in order.

    label: index into `classes`, -1 none. split: 0 none, 1 train, 2 validation, 3 test. mpp: micrometres
    per pixel or None. size: height, width. files: (path below the root, bytes) of everything read. extra: more arrays
    of a value each (int, float or str), stored beside these: `patient`, `site`, `tissue`; `frame` (name of a coordinate
    system, a slide), `x`, `y` (upper-left corner in it, px) and `extent` (a tile's side in it, px), which tell tiles
    that overlap. facts: what else the store's settings should say. left_out: what `skip_bad` passed over, and why.
    tissue_found: the reader chose patches by their tissue itself. contents: checksums of small files that say what the
    patches are.
    """

    classes: list[str]
    mpp: float | None
    size: tuple[int, int]
    label: list[int] = field(default_factory=list)
    group: list[str] = field(default_factory=list)
    patch_id: list[str] = field(default_factory=list)
    split: list[int] = field(default_factory=list)
    files: list[tuple[str, int]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    has_targets: bool = False
    extra: dict[str, list[Any]] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)
    left_out: list[tuple[str, str]] = field(default_factory=list)
    tissue_found: bool = False
    contents: dict[str, str] = field(default_factory=dict)
    _bytes: int = field(default=0, init=False, repr=False)

    def leave_out(self, what: str, error: InputRefused, settings: Ingest) -> None:
        """Note a file (path below the root) that cannot be used; raises the error unless bad ones are skipped."""
        if not settings.skip_bad:
            raise error
        self.left_out.append((what, str(error)))

    def __len__(self) -> int:
        return len(self.label)

    @property
    def digest(self) -> str:
        """Of names and sizes of all files, of what small ones hold, and of labels, groups, splits and more arrays.

        Images are not read twice for it, but whoever corrects labels or masks has another source, of the same size.
        """
        columns: dict[str, list[Any]] = {"label": self.label, "group": self.group, "split": self.split, **self.extra}
        told = {name: _checksum_of(values) for name, values in columns.items()}
        return fingerprint([sorted(self.files), sorted(self.contents.items()), told])

    def add_contents(self, name: str, path: Path) -> None:
        """Have a file's content count in the digest, as long as that takes no time: 64 MB of all such files."""
        size = path.stat().st_size
        if (taken := self._bytes + size) <= MAX_CHECKED:
            self._bytes = taken
            self.contents[name] = file_checksum(path)


def _checksum_of(values: list[Any]) -> str:
    state = blake2b(digest_size=16)
    for start in range(0, len(values), 1 << 16):  # millions of them never become one text
        state.update("".join(f"{value!r}\n" for value in values[start : start + (1 << 16)]).encode())
    return state.hexdigest()


class PatchSource(Protocol):
    """Patches that are listed in an index and read by row."""

    index: PatchIndex

    def read(self, start: int, stop: int) -> tuple[np.ndarray, np.ndarray | None]:
        """images (n, H, W, 3) uint8 and, where the source has masks, targets (n, 2, H, W) uint8."""
        ...


class SourceFormat(PatchSource, Protocol):
    """One input format.

    `recognises` says in a few words why a folder is of this format, or None. The constructor scans and
    validates (headers only) and raises InputRefused; `read` decodes rows.
    """

    @staticmethod
    def recognises(root: Path) -> str | None: ...

    def __init__(self, root: Path, settings: Ingest) -> None: ...


class RowArray(Protocol):
    """Rows of numbers or text in a file, read in pieces."""

    path: Path
    shape: tuple[int, ...]
    dtype: np.dtype

    def read(self, start: int, stop: int) -> np.ndarray: ...


class NpyFile:
    """Rows of a `.npy` file, read in pieces; the header is checked first and nothing is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with open(path, "rb") as file:
                magic = file.read(6)
            if magic != b"\x93NUMPY":
                raise InputRefused(f"{path}: is not a .npy file; export it with numpy.save")
            view = np.load(path, mmap_mode="r", allow_pickle=False)
        except UnicodeError as error:
            raise InputRefused(f"{path}: has a damaged header; copy it again from the source") from error
        except OSError as error:
            raise InputRefused(f"{path}: cannot be read: {error.strerror or error}") from error
        except (ValueError, OverflowError, SyntaxError, TypeError, MemoryError, RecursionError, TokenError) as error:
            if "llow_pickle" in str(error) or "Python objects" in str(error):
                reason = "holds pickled objects, which are never loaded; save it again as a plain array (astype(str))"
            else:
                reason = f"is truncated or damaged ({str(error)[:80]}); copy it again from the source"
            raise InputRefused(f"{path}: {reason}") from error
        self.shape: tuple[int, ...] = view.shape
        self.dtype: np.dtype = view.dtype
        if view.ndim > 1 and view.flags.f_contiguous and not view.flags.c_contiguous:
            raise InputRefused(f"{path}: is in Fortran order; save numpy.ascontiguousarray(...) of it")
        self._offset: int = view.offset

    @property
    def bytes(self) -> int:
        return self.path.stat().st_size

    def read(self, start: int, stop: int) -> np.ndarray:
        """Rows [start, stop). Plain reads, since pages of a memory map would count as ours."""
        row = self.dtype.itemsize * int(np.prod(self.shape[1:], dtype=np.int64))
        out = np.empty((stop - start, *self.shape[1:]), self.dtype)
        try:
            with open(self.path, "rb", buffering=0) as file:
                file.seek(self._offset + start * row)
                view, done = memoryview(out.data).cast("B"), 0
                while done < len(view):
                    got = file.readinto(view[done:])
                    if not got:
                        raise InputRefused(f"{self.path}: is truncated; copy it again from the source")
                    done += got
        except OSError as error:
            raise InputRefused(f"{self.path}: cannot be read: {error.strerror or error}") from error
        if self.dtype.kind == "U" and self.dtype.itemsize:
            codes = out.view(np.dtype("u4").newbyteorder(self.dtype.byteorder))
            if ((codes > sys.maxunicode) | ((codes >= 0xD800) & (codes < 0xE000))).any():
                raise InputRefused(f"{self.path}: holds text that is not Unicode; copy it again from the source")
        return out


class ConcatenatedRows:
    """Rows of several files as one sequence."""

    def __init__(self, files: Sequence[NpyFile]) -> None:
        self.files = files
        self.ends = np.cumsum([f.shape[0] for f in files]).tolist()

    def read(
        self, start: int, stop: int, convert: Callable[[np.ndarray, Path], np.ndarray] = lambda rows, path: rows
    ) -> np.ndarray:
        """Rows [start, stop) across file borders; convert(rows, path) is applied to each file's rows."""
        pieces = []
        k = bisect_right(self.ends, start)
        while start < stop:
            first = self.ends[k - 1] if k else 0
            end = min(stop, self.ends[k])
            rows = self.files[k].read(start - first, end - first)
            pieces.append(convert(rows, self.files[k].path))
            start, k = end, k + 1
        return pieces[0] if len(pieces) == 1 else np.concatenate(pieces)


def identifier(*parts: str) -> str:
    """A path below the source's root as ids use it: forward slashes, Unicode NFC."""
    return unicodedata.normalize("NFC", "/".join(parts))


def require_folder(root: Path) -> None:
    """Raise InputRefused unless `root` is a folder with something in it."""
    require_source(root)
    if not root.is_dir():
        raise InputRefused(f"{root}: is a file; expected a folder (see `histoxai ingest --help`)")


def require_source(root: Path) -> None:
    """Raise InputRefused unless `root` is a file, or a folder with something in it."""
    require_utf8_name(root)
    if not root.exists():
        raise InputRefused(f"{root}: no such folder or file")
    if root.is_dir() and not any(root.iterdir()):
        raise InputRefused(f"{root}: is empty; there is nothing to ingest")
    if not root.is_dir() and not root.is_file():
        raise InputRefused(f"{root}: is neither a folder nor a file")


# Settings that mean something to some formats only; a stage takes the others.
FORMAT_SETTINGS = (
    "size",
    "overlap",
    "class_map",
    "images",
    "masks",
    "labels",
    "tumor",
    "non_tumor",
    "partition",
    "magnification",
    "annotations",
    "min_overlap",
)


def require_only_settings(root: Path, settings: Ingest, name: str, *used: str) -> None:
    """Raise InputRefused for a setting that a format has no use for: left out without a word it would mislead."""
    if "size" in used:
        used = (*used, "overlap")
    for field_ in FORMAT_SETTINGS:
        if field_ not in used and getattr(settings, field_) != getattr(Ingest(), field_):
            flag = f"--{field_.replace('_', '-')}"
            raise InputRefused(
                f"{root}: {flag} means nothing to sources of format '{name}'; leave it out, or name another --format"
            )


def require_unique_ids(root: Path, index: PatchIndex) -> None:
    """Raise InputRefused where two patches would have one id, and where there is no patch at all."""
    if not index.label:
        raise InputRefused(f"{root}: nothing that can be used is left; without --skip-bad the first reason is shown")
    if len(set(index.patch_id)) < len(index.patch_id):
        ids = sorted(index.patch_id)
        double = next(a for a, b in itertools.pairwise(ids) if a == b)
        raise InputRefused(f"{root}: two files would both be patch '{double}'; rename one of them")


def require_images(file: RowArray, dtype: str | None = None) -> None:
    """Raise InputRefused unless a file holds (n, H, W, 3) numbers (of `dtype`, where given)."""
    shape = file.shape
    if len(shape) != 4 or shape[-1] != 3:
        remedy = ""
        if len(shape) == 4 and shape[1] == 3:
            remedy = ": channels come first; save numpy.moveaxis(images, 1, -1)"
        elif len(shape) == 4 and shape[-1] == 4:
            remedy = ": RGBA; blend it on white and save the first three channels"
        elif len(shape) == 3 or (len(shape) == 4 and shape[-1] == 1):
            remedy = ": grayscale; H&E needs colour"
        raise InputRefused(f"{file.path}: has shape {shape}; expected (n, height, width, 3){remedy}")
    if dtype is not None and file.dtype != np.dtype(dtype):
        raise InputRefused(f"{file.path}: has dtype {file.dtype}; expected {dtype} (values 0 to 255)")
    if 0 in shape:
        raise InputRefused(f"{file.path}: holds no patch; remove it")
    if shape[0] > MAX_ROWS or shape[1] * shape[2] > MAX_PIXELS:
        raise InputRefused(
            f"{file.path}: claims {shape[0]:,} patches of {shape[2]:,} x {shape[1]:,} px; is it damaged?"
        )
    if file.dtype.kind not in "uif":
        raise InputRefused(f"{file.path}: has dtype {file.dtype}; expected numbers from 0 to 255")


def require_same_size(path: Path, size: tuple[int, int], expected: tuple[int, int] | None, first: Path | None) -> None:
    """Raise InputRefused where a patch's size is not that of the first one."""
    if expected is not None and size != expected:
        h, w = expected
        raise InputRefused(
            f"{path}: patches are {size[1]} x {size[0]} px but {first} has {w} x {h}; all patches of a store "
            "have one size: resize or tile them first (image files are tiled by --size)"
        )


def as_uint8(values: np.ndarray, where: object) -> np.ndarray:
    """Numbers of any dtype that are whole and lie in 0..255, as uint8.

    Raises InputRefused otherwise (values in 0..1, say, would turn black without a word).
    """
    if values.dtype == np.uint8:
        return values
    with np.errstate(invalid="ignore"):
        whole = values.astype(np.uint8)
    if np.array_equal(whole, values):
        return whole
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        raise InputRefused(f"{where}: holds NaN or infinity; replace them or leave those patches out")
    low, high = values.min(), values.max()
    remedy = "scale and round them first"
    if low >= 0 and high <= 1:
        remedy = "multiply them by 255 and round"
    elif low >= 0 and 255 < high < 65536:
        remedy = "they look like 16 bits: divide them by 257 and round"
    raise InputRefused(f"{where}: values from {low:g} to {high:g} are not whole numbers in 0..255; {remedy}")
