"""One frozen dataclass a verb: every option's default (the study's, where it has one), bounds, unit and help."""

# ruff: noqa: F401
from histoxai.settings.augment import Audit, Augment
from histoxai.settings.base import bounded, check_bounds
from histoxai.settings.explain import Explain
from histoxai.settings.ingest import Ingest
from histoxai.settings.masks import Masks
from histoxai.settings.predict import Predict
from histoxai.settings.report import Comparison, Report
from histoxai.settings.score import INFILLS, PROBES, SANITY, Faithfulness, Score, Statistics
from histoxai.settings.train import Augmentation, TrainCls, Training, TrainSeg
from histoxai.settings.work import Work
