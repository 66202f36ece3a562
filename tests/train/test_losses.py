"""Losses against torch's and scikit-learn's."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.utils.class_weight import compute_class_weight
from torch.nn import functional

from histoxai.train.losses import balanced_weights, classification_loss


def test_smoothed_and_weighted_losses() -> None:
    torch.manual_seed(0)
    logits, labels = torch.randn(7, 3), torch.tensor([0, 0, 0, 0, 1, 1, 2])
    weights = balanced_weights(labels.numpy(), 3)
    theirs = compute_class_weight("balanced", classes=np.arange(3), y=labels.numpy())
    np.testing.assert_allclose(weights, theirs, rtol=1e-6)
    assert balanced_weights(np.array([0, 0, 2]), 3).tolist() == pytest.approx([0.75, 0, 1.5])
    loss = classification_loss(weights)(logits, labels)
    each = functional.cross_entropy(logits, labels, weight=weights, reduction="none")
    assert float(loss) == pytest.approx(float(each.mean()), rel=1e-6)
    # the weights of balanced classes add up to the number of patches: torch's own mean is the same
    assert float(loss) == pytest.approx(float(functional.cross_entropy(logits, labels, weight=weights)), rel=1e-6)
    smooth = classification_loss(None, 0.2)(logits, labels)
    log_p = torch.log_softmax(logits, 1)
    by_hand = -(0.8 * log_p[torch.arange(7), labels] + 0.2 * log_p.mean(1)).mean()
    assert float(smooth) == pytest.approx(float(by_hand), rel=1e-6)
