"""Names that users type -> the code behind them.

A reader, model, explainer or metric is one file and one line here. Nothing is imported until it is
asked for, so that `histoxai --help` stays quick; only names in this table can be loaded, so a run
folder or a store from elsewhere cannot name code to run.
"""

from __future__ import annotations

from functools import partial
from importlib import import_module
from typing import Any

from histoxai.core.errors import UsageError

ENTRIES: dict[str, dict[str, str]] = {
    "reader": {
        "diagset": "histoxai.ingest.formats.diagset:DiagSetReader",
        "pannuke": "histoxai.ingest.formats.pannuke:PanNukeReader",
        "hdf5": "histoxai.ingest.formats.hdf5:Hdf5Reader",
        "zarr": "histoxai.ingest.formats.zarrs:ZarrReader",
        "npy": "histoxai.ingest.formats.npy:NpyReader",
        "pairs": "histoxai.ingest.formats.pairs:PairsReader",
        "slide": "histoxai.ingest.formats.slide:SlideReader",
        "folder": "histoxai.ingest.formats.folder:FolderReader",
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
    },
    "explainer": {
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

# Names of other libraries' own registries, behind a prefix; what makes them gets the rest of the name first.
FAMILIES: dict[str, dict[str, str]] = {
    "classifier": {"timm": "histoxai.networks.backbones:timm_model"},
    "segmenter": {"smp": "histoxai.networks.smp:smp_model"},
}


def names(kind: str) -> list[str]:
    """All registered names of a kind, in the order in which they are offered; families by their prefix."""
    return [*ENTRIES[kind], *(f"{family}:NAME" for family in FAMILIES.get(kind, {}))]


def resolve_name(kind: str, name: str) -> str:
    """Where `name` lies, as "module:object"; nothing is imported.

    Raises UsageError for an unknown name, listing the known ones.
    """
    family, given, rest = name.partition(":")
    if given and rest and family in FAMILIES.get(kind, {}):
        return FAMILIES[kind][family]
    if name not in ENTRIES[kind]:
        raise UsageError(f"unknown {kind} '{name}'; known: {', '.join(names(kind))}")
    return ENTRIES[kind][name]


def resolve(kind: str, name: str) -> Any:
    """The object registered as `name`.

    Raises UsageError for an unknown name, listing the known ones.
    """
    module, attribute = resolve_name(kind, name).split(":")
    found = getattr(import_module(module), attribute)
    return found if name in ENTRIES[kind] else partial(found, name.partition(":")[2])
