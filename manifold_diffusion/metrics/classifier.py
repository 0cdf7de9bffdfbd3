"""Classifier two-sample test."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .._errors import ConfigError, DataError
from ..manifolds import Manifold

__all__ = ["C2STResult", "c2st"]


@dataclass(frozen=True)
class C2STResult:
    """Result of a classifier two-sample test.

    Attributes:
        accuracy: of the held-out half; 0.5 if the samples can't be told apart.
        standard_error: of the accuracy, binomial.
        p_value: probability of at least this accuracy by guessing, exact.
        n_test: size of the held-out half.
    """

    accuracy: float
    standard_error: float
    p_value: float
    n_test: int

    def __str__(self) -> str:
        return f"C2ST accuracy {self.accuracy:.3f} ± {self.standard_error:.3f}, p = {self.p_value:.3f}"


def c2st(
    x: Tensor,
    y: Tensor,
    manifold: Manifold,
    classifier: Any = "boosting",
    generator: torch.Generator | None = None,
) -> C2STResult:
    """How well a classifier tells two samples apart on points it has not seen.

    The larger sample is cut at random to the size of the smaller; the classifier is trained on half of each and tested
    on the other, so that the number of hits is binomial under the null hypothesis and the p-value exact. It sees the
    embedding of the points.

    Args:
        x: ``(n, *point_shape)``.
        y: ``(m, *point_shape)``.
        manifold: the manifold.
        classifier: ``boosting``, ``mlp``, ``logistic``, or any scikit-learn classifier.
        generator: of the split and of the classifier's seed, on the CPU.

    Raises:
        ConfigError: an unknown classifier, or scikit-learn is missing (``pip install 'manifold-diffusion[metrics]'``).
        DataError: fewer than 20 points in a sample.
        ManifoldError: a point that is not on the manifold.

    References:
        Lopez-Paz, Oquab, *Revisiting classifier two-sample tests*, 2017, arXiv:1610.06545.
    """
    for name, points in (("x", x), ("y", y)):
        manifold.check_point(points, name)
    size = min(len(x), len(y))
    if size < 20:
        raise DataError(f"c2st needs at least 20 points in each sample; got {len(x)} and {len(y)}.")
    parts = []
    for sample in (x, y):
        order = torch.randperm(len(sample), generator=generator)[:size].to(sample.device)
        parts.append(manifold.embed(sample[order]).detach().cpu().double())
    seed = int(torch.randint(2**31 - 1, (), generator=generator))
    model = _classifier(classifier, seed)
    half = size // 2
    features = [torch.cat([part[:half] for part in parts]), torch.cat([part[half:] for part in parts])]
    labels = [torch.arange(2).repeat_interleave(len(f) // 2) for f in features]
    model.fit(features[0].numpy(), labels[0].numpy())
    hits = int((torch.as_tensor(model.predict(features[1].numpy())) == labels[1]).sum())

    from scipy.stats import binomtest

    n_test = len(labels[1])
    accuracy = hits / n_test
    p_value = float(binomtest(hits, n_test, 0.5, alternative="greater").pvalue)
    return C2STResult(accuracy, math.sqrt(accuracy * (1 - accuracy) / n_test), p_value, n_test)


def _classifier(classifier: Any, seed: int) -> Any:
    if hasattr(classifier, "fit") and hasattr(classifier, "predict"):
        return classifier
    try:
        from sklearn.ensemble import HistGradientBoostingClassifier
        from sklearn.linear_model import LogisticRegression
        from sklearn.neural_network import MLPClassifier
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler
    except ImportError as error:
        raise ConfigError("c2st needs scikit-learn. Install it: pip install 'manifold-diffusion[metrics]'.") from error
    if classifier == "boosting":
        return HistGradientBoostingClassifier(max_iter=100, random_state=seed)
    if classifier == "mlp":
        return make_pipeline(
            StandardScaler(), MLPClassifier((128, 128), early_stopping=True, max_iter=200, random_state=seed)
        )
    if classifier == "logistic":
        return make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    raise ConfigError(
        f"classifier must be 'boosting', 'mlp', 'logistic' or a scikit-learn classifier; got {classifier!r}."
    )
