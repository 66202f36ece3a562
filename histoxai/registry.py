"""Names that users type -> the code behind them.

A reader, model, explainer or metric is one file and one line here. Nothing is imported until it is
asked for, so that `histoxai --help` stays quick; only names in this table can be loaded, so a run
folder or a store from elsewhere cannot name code to run.
"""

from __future__ import annotations

from functools import partial
from importlib import import_module
from typing import Any

from histoxai.errors import UsageError

ENTRIES: dict[str, dict[str, str]] = {
    "reader": {
        "diagset": "histoxai.readers.diagset:DiagSetReader",
        "pannuke": "histoxai.readers.pannuke:PanNukeReader",
        "hdf5": "histoxai.readers.hdf5:Hdf5Reader",
        "zarr": "histoxai.readers.zarrs:ZarrReader",
        "npy": "histoxai.readers.npy:NpyReader",
        "pairs": "histoxai.readers.pairs:PairsReader",
        "slide": "histoxai.readers.slide:SlideReader",
        "folder": "histoxai.readers.folder:FolderReader",
    },
    "classifier": {
        "thesis-cnn": "histoxai.models.classifiers:ThesisCNN",
        "resnet18": "histoxai.models.backbones:resnet18",
        "resnet34": "histoxai.models.backbones:resnet34",
        "resnet50": "histoxai.models.backbones:resnet50",
        "densenet121": "histoxai.models.backbones:densenet121",
        "efficientnet-b0": "histoxai.models.backbones:efficientnet_b0",
        "efficientnet-v2-s": "histoxai.models.backbones:efficientnet_v2_s",
        "convnext-tiny": "histoxai.models.backbones:convnext_tiny",
        "vit-s-16": "histoxai.models.backbones:vit_s_16",
        "vit-b-16": "histoxai.models.backbones:vit_b_16",
        "swin-t": "histoxai.models.backbones:swin_t",
    },
    "segmenter": {
        "unet": "histoxai.models.unet:UNet",
    },
    "explainer": {
        "ig": "histoxai.explainers.ig:IntegratedGradients",
        "nt": "histoxai.explainers.nt:NoiseTunnel",
        "lime": "histoxai.explainers.lime:Lime",
        "gradcam": "histoxai.explainers.gradcam:GradCAM",
        "saliency": "histoxai.explainers.saliency:Saliency",
        "ixg": "histoxai.explainers.ixg:InputXGradient",
        "guided": "histoxai.explainers.guided:GuidedBackprop",
        "smoothgrad": "histoxai.explainers.smoothgrad:SmoothGrad",
        "deeplift": "histoxai.explainers.deeplift:DeepLift",
        "lrp": "histoxai.explainers.lrp:LRP",
        "gradshap": "histoxai.explainers.gradshap:GradientSHAP",
        "kernelshap": "histoxai.explainers.kernelshap:KernelSHAP",
        "occlusion": "histoxai.explainers.occlusion:Occlusion",
        "rise": "histoxai.explainers.rise:RISE",
        "gradcampp": "histoxai.explainers.gradcampp:GradCAMPlusPlus",
        "hirescam": "histoxai.explainers.hirescam:HiResCAM",
        "layercam": "histoxai.explainers.layercam:LayerCAM",
        "eigencam": "histoxai.explainers.eigencam:EigenCAM",
        "scorecam": "histoxai.explainers.scorecam:ScoreCAM",
        "random": "histoxai.explainers.random:Random",
        "center": "histoxai.explainers.center:Center",
        "edges": "histoxai.explainers.edges:Edges",
        "hematoxylin": "histoxai.explainers.hematoxylin:Hematoxylin",
    },
    "profile": {
        "corrected": "histoxai.metrics.corrected:CorrectedProfile",
        "thesis": "histoxai.metrics.thesis:ThesisProfile",
    },
}

# Names of other libraries' own registries, behind a prefix; what makes them gets the rest of the name first.
FAMILIES: dict[str, dict[str, str]] = {
    "classifier": {"timm": "histoxai.models.backbones:timm_model"},
    "segmenter": {"smp": "histoxai.models.segmenters:smp_model"},
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
