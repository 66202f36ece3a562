"""Settings of how work is done, and of `ingest`, `augment` and `audit`."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from histoxai.core.errors import UsageError
from histoxai.settings.base import MOST_ROWS_OF_A_SHARD, Checked, bounded


@dataclass(frozen=True)
class Work(Checked):
    """How the work of a sharded command is done; nothing here changes a number.

    `shard`: text of `--shard`. `only`: look or estimate instead of working. `verify`: recompute the checksums of what
    is done. `workers`: processes. `threads`: of each, for the records. `feed`: in a worker, the shards it is handed;
    `rank`: its number. `parity`: patches that are compared with the libraries.
    """

    shard: str | None = None
    one_indexed: bool = False
    only: str | None = bounded(None, choices=("count", "missing", "check", "estimate", "parity", "find-lr"))
    force: bool = False
    verify: bool = False
    workers: int = bounded(1, ge=1)
    threads: int = 0
    feed: Iterable[int] | None = None
    rank: int = 0
    parity: int = bounded(0, ge=0)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.force and self.shard is not None:
            raise UsageError("--force with --shard would throw away the other tasks' work; start over without --shard")


@dataclass(frozen=True)
class Ingest(Checked):
    """What to read and how; a reader takes what means something to its format and refuses what does not.

    `mpp`: micrometres per pixel: of slides what tiles are made at, elsewhere what the images have. `size`, `overlap`:
    side of a tile in px (None: images as they are), and px that neighbours share. `tumor`, `non_tumor`: mask types of
    the two target planes; None for the format's own default. `class_map`: `3=epithelial`, what mask values mean.
    `images`, `masks`, `labels`: names of the parts of a source: folders or endings of `pairs`, datasets of `hdf5` and
    `zarr`, files of `npy`. `magnification`, `partition`: DiagSet's folders. `annotations`: GeoJSON or mask TIFF beside
    slides; `min_overlap`: share of a tile that an annotation has to cover. `min_tissue`: share of tissue below which a
    patch is left out. `metadata`: a CSV with scan, patient, site, label or coordinates. `stain`: normalisation to
    `stain_reference`, an image or a patch store. `skip_bad`: leave out what cannot be read, and list it.
    """

    format: str = "auto"
    classes: tuple[str, ...] | None = None
    mpp: float | None = bounded(None, gt=0.01, lt=100)
    tumor: tuple[str, ...] | None = None
    non_tumor: tuple[str, ...] | None = None
    shard_size: int = bounded(512, ge=1, le=MOST_ROWS_OF_A_SHARD)
    size: int | None = bounded(None, ge=8, le=8192)
    overlap: int = bounded(0, ge=0)
    class_map: tuple[str, ...] = ()
    images: str | None = None
    masks: str | None = None
    labels: str | None = None
    magnification: str = bounded("20x", choices=("5x", "10x", "20x", "40x"))
    partition: str | None = None
    annotations: Path | None = None
    min_overlap: float = bounded(0.75, gt=0, le=1)
    min_tissue: float | None = bounded(None, ge=0, le=1)
    metadata: Path | None = None
    stain: str = bounded("none", choices=("none", "macenko", "reinhard"))
    stain_reference: Path | None = None
    skip_bad: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.size is not None and self.overlap >= self.size:
            raise UsageError(f"--overlap {self.overlap}: must be less than --size, which says how large tiles are")
        if (self.stain == "none") != (self.stain_reference is None):
            raise UsageError("--stain and --stain-reference go together: a method, and the image that it matches")


@dataclass(frozen=True)
class Augment(Checked):
    """`fractions`: train, validation, test; they add up to 1.

    `split_by`: what stays on one side with all its relatives (group: the patient where known, else the scan); patch is
    the study's rule, source keeps the source's own split. `folds`, `fold`: of so many equal parts this one is test, the
    next validation. `hold_out`: sites that are test. `near`: bits in which perceptual hashes of relatives may differ.
    """

    fractions: tuple[float, float, float] = (0.5, 0.2, 0.3)
    split_by: str = bounded("group", choices=("group", "scan", "patient", "site", "patch", "source"))
    seed: int = bounded(0, ge=0)
    shard_size: int = bounded(512, ge=1, le=MOST_ROWS_OF_A_SHARD)
    folds: int | None = bounded(None, ge=3, le=1000)
    fold: int | None = bounded(None, ge=0)
    hold_out: tuple[str, ...] | None = None
    near: int | None = bounded(None, ge=0, le=8)

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.folds is None) != (self.fold is None) or (self.folds and (self.fold or 0) >= self.folds):
            raise UsageError("--folds K --fold I: go together, with I from 0 to K - 1")
        if self.split_by in ("patch", "source") and (self.folds or self.hold_out or self.near is not None):
            raise UsageError(f"--split-by {self.split_by}: goes with none of --folds, --hold-out and --near")
        if self.folds and self.hold_out:
            raise UsageError("--folds and --hold-out: one at a time")
        if (
            len(self.fractions) != 3
            or not all(0 <= f <= 1 for f in self.fractions)
            or abs(sum(self.fractions) - 1) > 1e-6
        ):
            raise UsageError(f"--fractions: {self.fractions} must be three shares that add up to 1")
        if self.fractions[0] == 0:
            raise UsageError("--fractions: the first share, train, cannot be 0")


@dataclass(frozen=True)
class Audit(Checked):
    """`near`: bits in which the perceptual hashes of near duplicates may differ; None: they are not looked for."""

    near: int | None = bounded(None, ge=0, le=8)
