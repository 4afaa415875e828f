"""MAUVE: how near the distribution of written texts is to that of human ones.

Pillutla et al., NeurIPS 2021 and JMLR 2023: features of all texts are clustered, and the two
histograms compared along the divergence frontier. Features here are a GPT-2's own final hidden
states, so values are to be compared with each other, not with those of another feature model.
"""

import warnings

import numpy as np
import numpy.typing as npt

from gpt2lab.evaluation.scores import Sums

# The paper's and its authors' program's: clusters per text, variance kept, points, c of the curve.
_TEXTS_A_CLUSTER, _VARIANCE, _POINTS, _SCALE = 10, 0.9, 25, 5.0
_RESTARTS, _STEPS = 5, 500

Features = npt.NDArray[np.float32]


def mauve(sums_RK: Sums) -> Sums:
    """Area under the frontier of two histograms, one after the other [..., 2k]; 1 is the same."""
    k = sums_RK.shape[-1] // 2
    p, q = sums_RK[..., :k], sums_RK[..., k:]
    p, q = p / p.sum(-1, keepdims=True), q / q.sum(-1, keepdims=True)
    x, y = [np.ones(p.shape[:-1])], [np.zeros(p.shape[:-1])]
    for weight in np.linspace(1e-6, 1 - 1e-6, _POINTS):
        r = weight * p + (1 - weight) * q
        x.append(np.exp(-_SCALE * _divergence(q, r)))
        y.append(np.exp(-_SCALE * _divergence(p, r)))
    x.append(np.zeros(p.shape[:-1]))
    y.append(np.ones(p.shape[:-1]))
    return -np.trapezoid(np.stack(y), np.stack(x), axis=0)


def _divergence(p: Sums, r: Sums) -> Sums:
    """KL(p || r), nats, where r is nowhere 0 that p is not."""
    there = p > 0
    share = np.divide(p, r, out=np.ones_like(p), where=there)
    return (p * np.log(share)).sum(-1)


def histograms(p_ND: Features, q_ND: Features, seed: int = 0) -> Sums:
    """Sums [N, 2k] of which `mauve` is: of each pair of texts, the cluster of one and the other."""
    from sklearn.cluster import KMeans
    from sklearn.decomposition import PCA
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.preprocessing import normalize

    n = len(p_ND)
    both = normalize(np.concatenate([q_ND, p_ND]).astype(np.float64))
    reduced = PCA(random_state=seed).fit(both)
    kept = int((reduced.explained_variance_ratio_.cumsum() < _VARIANCE).sum()) + 1
    k = max(2, round(n / _TEXTS_A_CLUSTER))
    clusters = KMeans(k, n_init=_RESTARTS, max_iter=_STEPS, random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # fewer different texts than clusters
        labels = clusters.fit_predict(reduced.transform(both)[:, :kept])
    eye = np.eye(k)
    return np.concatenate([eye[labels[n:]], eye[labels[:n]]], axis=1)
