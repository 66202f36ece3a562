"""One frozen dataclass per stage: defaults (the study's, where it has one), bounds, units."""

from histoxai.settings.base import bounded, check_bounds
from histoxai.settings.data import Audit, Augment, Ingest, Work
from histoxai.settings.maps import Explain, Masks, Predict
from histoxai.settings.results import INFILLS, PROBES, SANITY, Comparison, Faithfulness, Report, Score, Statistics
from histoxai.settings.training import Augmentation, TrainCls, Training, TrainSeg

__all__ = [
    "INFILLS",
    "PROBES",
    "SANITY",
    "Audit",
    "Augment",
    "Augmentation",
    "Comparison",
    "Explain",
    "Faithfulness",
    "Ingest",
    "Masks",
    "Predict",
    "Report",
    "Score",
    "Statistics",
    "TrainCls",
    "TrainSeg",
    "Training",
    "Work",
    "bounded",
    "check_bounds",
]
