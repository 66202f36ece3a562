"""Copies of a patch with some of its pixels replaced, as network inputs that fill whole micro-batches."""

from __future__ import annotations

import numpy as np
import torch

from histoxai.explain.bases.packing import PatchInputs
from histoxai.networks.inference import to_device
from histoxai.score.measures.faithfulness import imputed, infill


class ReplacedPixels(PatchInputs):
    """Copies of a patch whose pixels outside `kept` (rows, H, W) bool are replaced by an infill, one for each row."""

    def __init__(self, image: torch.Tensor, target: int, kept: np.ndarray, kind: str, seed: int) -> None:
        super().__init__(len(kept), target)
        self._image, self._kept, self._kind, self._seed = image, kept, kind, seed
        self._kept_there = to_device(kept, image.device)[:, None]
        self._pixels = image.permute(1, 2, 0).cpu().numpy()  # waits: once a test of a map, before its passes
        self._blank = self._on_device(infill(self._pixels, "mean" if kind == "noisy_linear" else kind))
        self._y = torch.empty(self.rows, device=image.device)

    def fill(self, start: int, stop: int, out: torch.Tensor) -> None:
        torch.where(self._kept_there[start:stop], self._image, self._blank, out=out)
        if self._kind != "noisy_linear":
            return
        for row in range(start, stop):
            if self._kept[row].any():  # pixels are imputed from their neighbours, of which an empty copy has none
                filling = self._on_device(imputed(self._pixels, self._kept[row], (self._seed + row) % 2**32))
                torch.where(self._kept_there[row], self._image, filling, out=out[row - start])

    def _on_device(self, image: np.ndarray) -> torch.Tensor:
        return to_device(image.transpose(2, 0, 1).copy(), self._image.device)

    def take(self, start: int, stop: int, found: torch.Tensor) -> None:
        self._y[start:stop] = found

    def summary(self) -> torch.Tensor:
        return self._y
