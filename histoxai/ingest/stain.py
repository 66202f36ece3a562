"""Stain normalisation: the colours of one laboratory as another's, by torchstain on the CPU."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module, metadata
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from histoxai.core.errors import InputRefused, UsageError

# A fit needs tissue: pixels with an optical density (base e, against GLASS) of at least DENSE in every channel, as
# Macenko counts them. With a smaller share than MIN_TISSUE the 99th percentile that scales the stains lies in glass.
GLASS, DENSE, MIN_TISSUE = 240, 0.15, 0.05
# Variance of densities along their second direction, which separates two stains; below this there is one colour only.
_ONE_COLOUR = 1e-5


class StainNormaliser:
    """Converts patches to the stains of a reference.

    Sources: macenko: Macenko et al. 2009, ISBI, 1107; reinhard: Reinhard et al. 2001, IEEE Comput Graph Appl 21:34;
    both in torchstain's numpy version.
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
        if not has_tissue(reference) or _run_reproducibly(lambda: fitted.fit(reference)) is None:
            raise InputRefused(
                f"the stain reference has too little tissue, or one colour only, for {method}; choose another"
            )
        return cls(method, fitted)

    @property
    def parameters(self) -> dict[str, Any]:
        """Parameters of the reference for the header: stain vectors (3 x 2) and 99th percentiles, or Lab moments."""
        keys = {"macenko": ("HERef", "maxCRef"), "reinhard": ("target_means", "target_stds")}[self.method]
        names = {"HERef": "stains", "maxCRef": "most", "target_means": "means", "target_stds": "deviations"}
        values = {names[k]: np.asarray(getattr(self._fitted, k), np.float64).tolist() for k in keys}
        return {**values, "torchstain": metadata.version("torchstain")}

    def apply(self, image: np.ndarray) -> np.ndarray:
        """Return a patch (H, W, 3) uint8 with the reference's stains, unchanged where no fit is possible."""
        normalised = self.normalised(image)
        return image if normalised is None else normalised

    def normalised(self, image: np.ndarray) -> np.ndarray | None:
        """Return the patch as `apply` does, but None where no fit is possible: glass, little tissue, or one colour."""
        if not has_tissue(image):
            return None
        if self.method == "macenko":
            return _run_reproducibly(lambda: self._fitted.normalize(image, stains=False)[0])
        return _run_reproducibly(lambda: self._fitted.normalize(image))


def has_tissue(image: np.ndarray) -> bool:
    """Return whether an image (H, W, 3) uint8 has enough tissue, in more than one colour, for a fit."""
    density = -np.log((image.reshape(-1, 3).astype(np.float64) + 1) / GLASS)
    tissue = density[(density >= DENSE).all(axis=1)]
    if len(tissue) < max(3, MIN_TISSUE * len(density)):
        return False
    return bool(np.linalg.eigvalsh(np.cov(tissue.T))[1] > _ONE_COLOUR)


def _run_reproducibly(step: Callable[[], Any]) -> Any:
    """Return the result of `step`, True where it has none, and None where numbers would not be finite."""
    try:
        # one thread, so that sums have the same bits on every machine
        with np.errstate(invalid="raise", divide="raise", over="raise"), threadpool_limits(1, "blas"):
            result = step()
    except (FloatingPointError, np.linalg.LinAlgError, IndexError):
        return None
    return True if result is None else result


def _torchstain(method: str) -> Any:
    names = {"macenko": "NumpyMacenkoNormalizer", "reinhard": "NumpyReinhardNormalizer"}
    if method not in names:
        raise UsageError(f"--stain: '{method}' is not one of {', '.join(names)}")
    try:
        return getattr(import_module("torchstain.numpy.normalizers"), names[method])()
    except ModuleNotFoundError as error:
        raise UsageError(f"--stain {method}: needs torchstain; pip install 'histoxai[stain]'") from error
