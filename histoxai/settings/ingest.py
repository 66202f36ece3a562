"""Settings of `ingest`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from histoxai.core import registry
from histoxai.core.errors import UsageError
from histoxai.settings import base
from histoxai.settings.base import INPUT, Checked, option

_TARGETS = "Classes and masks"
_PIXELS = "Pixels and quality"
_MAGNIFICATIONS = (10, 20, 40)  # that are taken for micrometres per pixel by mistake


def _names(name: str, help: str, default_text: str | None = None, unit: str = "NAMES", empty: bool = False) -> base.Any:
    # names with commas between them; `empty`: () by default instead of None
    text = (lambda names: base.join(names) or None) if empty else base.join  # () is no text
    default = () if empty else None
    return option(default, help, _TARGETS, unit, parse=base.names(name), text=text, default_text=default_text)


@dataclass(frozen=True, kw_only=True)
class Ingest(Checked):
    """Settings of `ingest`; a format uses those that apply to it and refuses the others.

    mpp: of slides that at which tiles are cut, elsewhere that of the images. images, masks, labels: folders or endings
    of `pairs`, datasets of `hdf5` and `zarr`, files of `npy`.
    """

    format: str = option("auto", "auto, " + ", ".join(registry.builtin_names("format")) + ".", INPUT, "NAME")
    classes: tuple[str, ...] | None = _names("--classes", "Classes in order: A,N,R1; \\, is a comma in a name.")
    mpp: float | None = option(None, "Micrometres per pixel.", _PIXELS, "UM", gt=0.01, lt=100)
    tumor: tuple[str, ...] | None = _names("--tumor", "Mask types in the tumor plane.", "PanNuke: neoplastic")
    non_tumor: tuple[str, ...] | None = _names(
        "--non-tumor", "Mask types in the non-tumor plane.", "PanNuke: connective"
    )
    shard_size: int = base.shard_size(512)
    size: int | None = option(
        None, "Side of the tiles.", _PIXELS, "PX", default_text="slides: 256; else images as they are", ge=8, le=8192
    )
    overlap: int = option(0, "Overlap of neighbouring tiles.", _PIXELS, "PX", ge=0)
    class_map: tuple[str, ...] = _names("--class-map", "Mask values: 3=epithelial,4=spindle.", unit="PAIRS", empty=True)
    mask_threshold: int | None = option(
        None, "Mask values from this one on are tumor, without --class-map.", _TARGETS, "N", ge=1
    )
    ignore_value: int | None = option(None, "Mask value that counts as background.", _TARGETS, "N", ge=1)
    images: str | None = option(None, "Folder, ending, dataset or file of the images.", INPUT, "NAME")
    masks: str | None = option(None, "Folder or ending (--format pairs), dataset or file of the masks.", INPUT, "NAME")
    labels: str | None = option(None, "Folder, ending, dataset or file of the labels.", INPUT, "NAME")
    magnification: str = option(
        "20x", "DiagSet's folder of which magnification", INPUT, choices=("5x", "10x", "20x", "40x")
    )
    partition: str | None = option(None, "DiagSet's folder of partitions, if several.", INPUT, "NAME")
    annotations: Path | None = option(None, "GeoJSON or mask TIFF of slides, or a folder.", _TARGETS, "PATH")
    cells: str = option("nucleus", "QuPath's cells count by their", _TARGETS, choices=("nucleus", "cell"))
    min_overlap: float = option(0.75, "Share of a tile to be covered by annotation.", _TARGETS, "SHARE", gt=0, le=1)
    min_tissue: float | None = option(None, "Leave out patches with less tissue, 0 to 1.", _PIXELS, "SHARE", ge=0, le=1)
    metadata: Path | None = option(None, "CSV from scan to patient, site, label.", INPUT, "CSV")
    stain: str = option("none", "Normalise stains by", _PIXELS, choices=("none", "macenko", "reinhard"))
    stain_reference: Path | None = option(None, "Image or patch store whose stains to match.", _PIXELS, "PATH")
    skip_bad: bool = option(False, "Leave out unreadable files, and list them.", _PIXELS)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.mpp in _MAGNIFICATIONS:
            raise UsageError(
                f"--mpp {self.mpp:g}: looks like a magnification; give micrometres per pixel: 20x is about 0.5, 10x "
                "about 1, 40x about 0.25"
            )
        if self.size is not None and self.overlap >= self.size:
            raise UsageError(f"--overlap {self.overlap}: must be less than --size, which says how large tiles are")
        if self.mask_threshold is not None and (self.class_map or self.tumor or self.non_tumor):
            raise UsageError(
                f"--mask-threshold {self.mask_threshold}: says which values are tumor; leave it out, or --class-map, "
                "--tumor and --non-tumor"
            )
        if (self.stain == "none") != (self.stain_reference is None):
            raise UsageError("--stain and --stain-reference go together: a method, and the image that it matches")
