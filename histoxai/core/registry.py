"""Names that users type, and the code behind them.

A format, network, method, measure or profile is one file and one line here. Installed packages add methods, measures
and formats through entry points (GROUPS). Modules are imported only when a name is resolved, so that `histoxai --help`
stays quick. Only registered names can be loaded: a run folder or a store from elsewhere cannot name code to run.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, partial
from importlib import import_module
from inspect import isabstract
from typing import TYPE_CHECKING, Any

from histoxai.core.errors import HistoxaiError, UsageError

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

ENTRIES: dict[str, dict[str, str]] = {
    "format": {
        "diagset": "histoxai.ingest.formats.diagset:DiagSetFormat",
        "pannuke": "histoxai.ingest.formats.pannuke:PanNukeFormat",
        "hdf5": "histoxai.ingest.formats.hdf5:Hdf5Format",
        "zarr": "histoxai.ingest.formats.zarrs:ZarrFormat",
        "npy": "histoxai.ingest.formats.npy:NpyFormat",
        "pairs": "histoxai.ingest.formats.pairs:PairsFormat",
        "slide": "histoxai.ingest.formats.slide:SlideFormat",
        "folder": "histoxai.ingest.formats.folder:FolderFormat",
    },
    "classifier": {
        "thesis-cnn": "histoxai.networks.thesis_cnn:ThesisCNN",
        "resnet18": "histoxai.networks.backbones:resnet18",
        "resnet34": "histoxai.networks.backbones:resnet34",
        "resnet50": "histoxai.networks.backbones:resnet50",
        "densenet121": "histoxai.networks.backbones:densenet121",
        "efficientnet-b0": "histoxai.networks.backbones:efficientnet_b0",
        "efficientnet-v2-s": "histoxai.networks.backbones:efficientnet_v2_s",
        "convnext-tiny": "histoxai.networks.backbones:convnext_tiny",
        "vit-s-16": "histoxai.networks.backbones:vit_s_16",
        "vit-b-16": "histoxai.networks.backbones:vit_b_16",
        "swin-t": "histoxai.networks.backbones:swin_t",
    },
    "segmenter": {
        "unet": "histoxai.networks.unet:UNet",
        "thesis-unet-text": "histoxai.networks.unet:TextUNet",
    },
    "method": {
        "ig": "histoxai.explain.methods.ig:IntegratedGradients",
        "nt": "histoxai.explain.methods.nt:NoiseTunnel",
        "lime": "histoxai.explain.methods.lime:Lime",
        "gradcam": "histoxai.explain.methods.gradcam:GradCAM",
        "saliency": "histoxai.explain.methods.saliency:Saliency",
        "ixg": "histoxai.explain.methods.ixg:InputXGradient",
        "guided": "histoxai.explain.methods.guided:GuidedBackprop",
        "smoothgrad": "histoxai.explain.methods.smoothgrad:SmoothGrad",
        "deeplift": "histoxai.explain.methods.deeplift:DeepLift",
        "lrp": "histoxai.explain.methods.lrp:LRP",
        "gradshap": "histoxai.explain.methods.gradshap:GradientSHAP",
        "kernelshap": "histoxai.explain.methods.kernelshap:KernelSHAP",
        "occlusion": "histoxai.explain.methods.occlusion:Occlusion",
        "rise": "histoxai.explain.methods.rise:RISE",
        "gradcampp": "histoxai.explain.methods.gradcampp:GradCAMPlusPlus",
        "hirescam": "histoxai.explain.methods.hirescam:HiResCAM",
        "layercam": "histoxai.explain.methods.layercam:LayerCAM",
        "eigencam": "histoxai.explain.methods.eigencam:EigenCAM",
        "scorecam": "histoxai.explain.methods.scorecam:ScoreCAM",
        "random": "histoxai.explain.methods.random:Random",
        "center": "histoxai.explain.methods.center:Center",
        "edges": "histoxai.explain.methods.edges:Edges",
        "hematoxylin": "histoxai.explain.methods.hematoxylin:Hematoxylin",
    },
    "profile": {
        "corrected": "histoxai.score.profiles.corrected:CorrectedProfile",
        "thesis": "histoxai.score.profiles.thesis:ThesisProfile",
    },
    "measure": {
        "iou": "histoxai.score.measures.counts:IOU",
        "precision": "histoxai.score.measures.counts:PRECISION",
        "recall": "histoxai.score.measures.counts:RECALL",
        "f1": "histoxai.score.measures.counts:F1",
        "spearman": "histoxai.score.measures.correlation:SPEARMAN",
        "phi": "histoxai.score.measures.counts:PHI",
        "pixel_accuracy": "histoxai.score.measures.counts:PIXEL_ACCURACY",
        "auroc": "histoxai.score.measures.ranking:AUROC",
        "average_precision": "histoxai.score.measures.ranking:AVERAGE_PRECISION",
        "mass_accuracy": "histoxai.score.measures.mass:MASS_ACCURACY",
        "rank_accuracy": "histoxai.score.measures.ranking:RANK_ACCURACY",
        "top_k": "histoxai.score.measures.ranking:TOP_K",
        "pointing_game": "histoxai.score.measures.mass:POINTING_GAME",
        "energy_pointing": "histoxai.score.measures.mass:ENERGY_POINTING",
        "iou_area": "histoxai.score.measures.counts:IOU_AREA",
        "precision_area": "histoxai.score.measures.counts:PRECISION_AREA",
        "recall_area": "histoxai.score.measures.counts:RECALL_AREA",
        "f1_area": "histoxai.score.measures.counts:F1_AREA",
        "phi_area": "histoxai.score.measures.counts:PHI_AREA",
        "pixel_accuracy_area": "histoxai.score.measures.counts:PIXEL_ACCURACY_AREA",
        "iou_otsu": "histoxai.score.measures.counts:IOU_OTSU",
        "precision_otsu": "histoxai.score.measures.counts:PRECISION_OTSU",
        "recall_otsu": "histoxai.score.measures.counts:RECALL_OTSU",
        "f1_otsu": "histoxai.score.measures.counts:F1_OTSU",
        "phi_otsu": "histoxai.score.measures.counts:PHI_OTSU",
        "pixel_accuracy_otsu": "histoxai.score.measures.counts:PIXEL_ACCURACY_OTSU",
    },
}

# Functions that make networks of other libraries, by prefix; they take the rest of the name first: timm:resnet26.
LIBRARIES: dict[str, dict[str, str]] = {
    "classifier": {"timm": "histoxai.networks.backbones:timm_model"},
    "segmenter": {"smp": "histoxai.networks.smp:smp_model"},
}

# Version of the recipe of networks whose layers have changed. Recipes of version 1 do not name it, and are still built
# as they were.
RECIPE_VERSIONS = {"thesis-cnn": 2}

# Entry-point groups in which installed packages register names.
GROUPS = {"method": "histoxai.methods", "measure": "histoxai.measures", "format": "histoxai.formats"}
# Classes that a plugin's method is derived from, and that its measure is an instance of.
BASES = {"method": "histoxai.explain.bases.method:Method", "measure": "histoxai.score.measures.base:Measure"}
OWN = "histoxai"


@dataclass(frozen=True)
class Plugin:
    """A name that an installed package registers; package: its name and version."""

    package: str
    entry: EntryPoint


def builtin_names(kind: str) -> list[str]:
    """Return the names of histoxai's own entries, in the order in which they are offered; quick enough for `--help`."""
    return [*ENTRIES[kind], *(f"{library}:NAME" for library in LIBRARIES.get(kind, {}))]


def names(kind: str) -> list[str]:
    """Return all names of a kind: histoxai's own, then those of plugins.

    Raises HistoxaiError if a plugin takes a name that is in use.
    """
    return [*builtin_names(kind), *plugins(kind)]


@cache
def plugins(kind: str) -> dict[str, Plugin]:
    """Return the plugins of a kind by name, sorted by package and name; nothing of them is imported.

    Raises HistoxaiError if a plugin takes a name that is in use.
    """
    if kind not in GROUPS:
        return {}
    from importlib.metadata import entry_points  # takes as long as all of `histoxai --help`

    by_name: dict[str, Plugin] = {}
    listed = [Plugin(_package(entry), entry) for entry in entry_points(group=GROUPS[kind])]
    for plugin in sorted(listed, key=lambda p: (p.package, p.entry.name)):
        name = plugin.entry.name
        owner = OWN if name in ENTRIES[kind] else by_name[name].package if name in by_name else None
        if owner is not None:
            raise HistoxaiError(
                f"the package {plugin.package} registers the {kind} '{name}', a name that {owner} has already; "
                f"uninstall {plugin.package}, or have the {kind} renamed in its entry points ({GROUPS[kind]})"
            )
        by_name[name] = plugin
    return by_name


def _package(entry: EntryPoint) -> str:
    return f"{entry.dist.name} {entry.dist.version}" if entry.dist is not None else "unknown package"


def origin(kind: str, name: str) -> str:
    """Return where a registered name comes from: "histoxai", or a plugin's package and version."""
    resolve_name(kind, name)
    plugin = plugins(kind).get(name)
    return OWN if plugin is None else plugin.package


def resolve_name(kind: str, name: str) -> str:
    """Return the "module:object" behind a name; nothing is imported.

    Raises UsageError for an unknown name, listing the known ones, and HistoxaiError if plugins' names collide.
    """
    library, colon, rest = name.partition(":")
    if colon and rest and library in LIBRARIES.get(kind, {}):
        return LIBRARIES[kind][library]
    others = plugins(kind)
    if name in others:
        return others[name].entry.value
    if name not in ENTRIES[kind]:
        raise UsageError(f"unknown {kind} '{name}'; known: {', '.join(names(kind))}")
    return ENTRIES[kind][name]


def resolve(kind: str, name: str) -> Any:
    """Import and return the object behind a name.

    Raises UsageError for an unknown name, listing the known ones, and HistoxaiError for a plugin that cannot be used.
    """
    value = resolve_name(kind, name)
    if name in plugins(kind):
        return _load_plugin(kind, name, plugins(kind)[name])
    resolved = _load(value)
    return resolved if name in ENTRIES[kind] else partial(resolved, name.partition(":")[2])


def _load(value: str) -> Any:
    module, attribute = value.split(":")
    return getattr(import_module(module), attribute)


def _load_plugin(kind: str, name: str, plugin: Plugin) -> Any:
    try:
        loaded = plugin.entry.load()
    except Exception as error:  # a plugin's code may raise anything
        reason = f"{type(error).__name__}: {error}"
    else:
        reason = _unsuitable(kind, loaded)
    if not reason:
        return loaded
    raise HistoxaiError(
        f"the {kind} '{name}' of the package {plugin.package} cannot be used ({plugin.entry.value}: {reason}); "
        f"update or uninstall {plugin.package.split(' ')[0]}"
    )


def _unsuitable(kind: str, loaded: Any) -> str:
    # why an object cannot serve as this kind; empty if it can
    if kind == "format":
        missing = [name for name in ("recognises", "read") if not callable(getattr(loaded, name, None))]
        return f"does not define {', '.join(missing)}" if missing else ""
    base = _load(BASES[kind])
    if kind == "measure":
        return "" if isinstance(loaded, base) else f"no instance of {base.__module__}.{base.__name__}"
    if not (isinstance(loaded, type) and issubclass(loaded, base)):
        return f"not derived from {base.__module__}.{base.__name__}"
    missing = sorted(getattr(loaded, "__abstractmethods__", ())) if isabstract(loaded) else []
    return f"does not define {', '.join(missing)}" if missing else ""
