"""Stain normalisation: the colours of one laboratory as another's, by torchstain on the CPU."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module, metadata
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from histoxai.core.errors import InputRefused, UsageError

# A fit wants tissue, counted as Macenko does: an optical density (base e, against GLASS) of at least DENSE in every
# channel. With less than MIN_TISSUE of it the 99th percentile that scales the stains lies in bare glass.
GLASS, DENSE, MIN_TISSUE = 240, 0.15, 0.05
# Two stains are told apart by the second direction in which densities vary; below this there is but one colour.
_ONE_COLOUR = 1e-5


class StainNormaliser:
    """Gives patches the stains of a reference.

    Sources: macenko: Macenko et al. 2009, ISBI, 1107; reinhard: Reinhard et al. 2001, IEEE Comput Graph Appl 21:34;
    both as torchstain (numpy) has them.
    """

    def __init__(self, method: str, fitted: Any) -> None:
        self.method, self._fitted = method, fitted

    @classmethod
    def fit(cls, method: str, reference: np.ndarray) -> StainNormaliser:
        """Fit "macenko" or "reinhard" to a reference (H, W, 3) uint8.

        Raises InputRefused where the reference has too little tissue, UsageError for another method or where
        torchstain is not installed.
        """
        fitted = _torchstain(method)
        if not has_tissue(reference) or _exactly(lambda: fitted.fit(reference)) is None:
            raise InputRefused(
                f"the stain reference has too little tissue, or one colour only, for {method}; take another"
            )
        return cls(method, fitted)

    @property
    def parameters(self) -> dict[str, Any]:
        """What the reference gave, for the record: stain vectors (3 x 2) and their 99th percentiles, or Lab moments."""
        keys = {"macenko": ("HERef", "maxCRef"), "reinhard": ("target_means", "target_stds")}[self.method]
        names = {"HERef": "stains", "maxCRef": "most", "target_means": "means", "target_stds": "deviations"}
        found = {names[k]: np.asarray(getattr(self._fitted, k), np.float64).tolist() for k in keys}
        return {**found, "torchstain": metadata.version("torchstain")}

    def apply(self, image: np.ndarray) -> np.ndarray:
        """A patch (H, W, 3) uint8 with the reference's stains; as it was where no fit is possible."""
        made = self.normalised(image)
        return image if made is None else made

    def normalised(self, image: np.ndarray) -> np.ndarray | None:
        """`apply`, but None where no fit is possible: glass, almost no tissue, or one colour only."""
        if not has_tissue(image):
            return None
        if self.method == "macenko":
            return _exactly(lambda: self._fitted.normalize(image, stains=False)[0])
        return _exactly(lambda: self._fitted.normalize(image))


def has_tissue(image: np.ndarray) -> bool:
    """Whether an image (H, W, 3) uint8 has enough tissue, in more than one colour, for a fit."""
    density = -np.log((image.reshape(-1, 3).astype(np.float64) + 1) / GLASS)
    tissue = density[(density >= DENSE).all(axis=1)]
    if len(tissue) < max(3, MIN_TISSUE * len(density)):
        return False
    return bool(np.linalg.eigvalsh(np.cov(tissue.T))[1] > _ONE_COLOUR)


def _exactly(step: Callable[[], Any]) -> Any:
    # the result (True for a fit that gives none); None where numbers would not be finite
    try:
        # one thread: sums are the same bits then, however many the process may use
        with np.errstate(invalid="raise", divide="raise", over="raise"), threadpool_limits(1, "blas"):
            made = step()
    except (FloatingPointError, np.linalg.LinAlgError, IndexError):
        return None
    return True if made is None else made


def _torchstain(method: str) -> Any:
    names = {"macenko": "NumpyMacenkoNormalizer", "reinhard": "NumpyReinhardNormalizer"}
    if method not in names:
        raise UsageError(f"--stain: '{method}' is not one of {', '.join(names)}")
    try:
        return getattr(import_module("torchstain.numpy.normalizers"), names[method])()
    except ModuleNotFoundError as error:
        raise UsageError(f"--stain {method}: needs torchstain; pip install 'histoxai[stain]'") from error
