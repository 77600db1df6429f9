"""Many robust fits of the step-time model at once: projected Levenberg-Marquardt steps, vectorised over the fits.

    t = ((m^p + (g T)^p)^(1/p)) + b KV + q S + r N + host

Residuals are ln(model / measured), so a step of 5 ms counts as much as one of 5 s; their loss is soft L1, quadratic below `scale`
and linear above it. Parameters m, g, b, q, r are 0 or more; p lies in [1, `KNEE_MAX`] and is sought as 1/p, in which
the height of the knee is nearly linear.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

PARAMETERS = ("weights_s", "token_s", "kv_token_s", "pair_s", "seq_s", "knee")
KNEE_MAX = 12.0
_KNEE = 5                       # its place among the parameters
_LOW = np.array([0, 0, 0, 0, 0, 1 / KNEE_MAX])
_HIGH = np.array([np.inf] * 5 + [1.0])
_TINY = 1e-30
_STEPS = 200                    # of one fit at most; about ten are usual


@dataclass(frozen=True)
class Solution:
    """Fits along the first axis."""

    parameters: Floats          #: (fits, 6), in the order of `PARAMETERS`
    residuals: Floats           #: (fits, rows), ln(model / measured)
    jacobian: Floats            #: (fits, rows, 6), of the residuals; by 1/p in place of p
    loss: Floats                #: (fits,)


def step_s(parameters: Floats, work: Floats) -> Floats:
    """Seconds (fits, rows) of steps of this work (rows, 4: tokens, KV tokens, pairs, requests), host time left out."""
    return _model(_inverse_knee(parameters), work)[0]


def solve(seconds: Floats, work: Floats, start: Floats, free: Bools, scale: float, host_s: float = 0.0) -> Solution:
    """The parameters that fit each row of `seconds` (fits, rows) best, sought from `start` (fits, 6).

    `free` (6,): the others stay as they start. `scale`: the residual where the loss turns from quadratic to linear.
    `host_s`: part of `seconds`, known.
    """
    at = _inverse_knee(start)
    # all parameters in units in which they matter alike
    unit = np.append(1 / _norms(work, seconds), 1.0)
    low, high = _LOW / unit, _HIGH / unit
    at = np.clip(at / unit, low, high)
    damping = np.full(len(at), 1e-3)
    target = np.log(seconds)
    residuals, jacobian, loss = _evaluate(at, unit, work, host_s, target, scale)
    going = np.ones(len(at), dtype=bool)
    for _ in range(_STEPS):
        rows = np.flatnonzero(going)
        r, j = residuals[rows], jacobian[rows]
        weights = 1 / np.sqrt(1 + (r / scale) ** 2)
        weighted = j * weights[..., None]
        gradient = (weighted * r[..., None]).sum(axis=1)
        held = ~free | ((at[rows] <= low) & (gradient > 0)) | ((at[rows] >= high) & (gradient < 0))
        normal = np.matmul(weighted.transpose(0, 2, 1), j)
        normal[held] = 0
        normal.transpose(0, 2, 1)[held] = 0
        gradient[held] = 0
        diagonal = np.einsum("fii->fi", normal)
        diagonal += damping[rows, None] * diagonal + np.where(held, 1.0, 1e-12)
        move = -np.linalg.solve(normal, gradient[..., None])[..., 0]
        new = np.clip(at[rows] + move, low, high)
        new_residuals, new_jacobian, new_loss = _evaluate(new, unit, work, host_s, target[rows], scale)
        better = new_loss <= loss[rows]
        moved = np.abs(new - at[rows]).max(axis=1)
        damping[rows] = np.clip(np.where(better, damping[rows] / 5, damping[rows] * 8), 1e-9, 1e9)
        taken = rows[better]
        at[taken], residuals[taken], jacobian[taken] = new[better], new_residuals[better], new_jacobian[better]
        loss[taken] = new_loss[better]
        going[rows] = (moved > 1e-9 * (1 + np.abs(at[rows]).max(axis=1))) & (damping[rows] < 1e9)
        if not going.any():
            break
    parameters = at * unit
    parameters[:, _KNEE] = 1 / parameters[:, _KNEE]
    return Solution(parameters, residuals, jacobian / unit, loss)


def soft_l1(residuals: Floats, scale: float) -> Floats:
    """Loss of each row: its square below `scale`, linear above."""
    loss: Floats = 2 * scale**2 * (np.sqrt(1 + (residuals / scale) ** 2) - 1)
    return loss


def _evaluate(at: Floats, unit: Floats, work: Floats, host_s: float, target: Floats,
              scale: float) -> tuple[Floats, Floats, Floats]:
    seconds, slopes = _model(at * unit, work)
    seconds += host_s
    residuals = np.log(seconds) - target
    return residuals, slopes / seconds[..., None] * unit, soft_l1(residuals, scale).sum(axis=1)


def _model(at: Floats, work: Floats) -> tuple[Floats, Floats]:
    """Seconds (fits, rows) and their slopes (fits, rows, 6); `at` holds 1/p in place of p."""
    tokens = work[:, 0]
    flat = at[:, _KNEE, None]
    weights, compute = np.log(np.maximum(at[:, 0, None], _TINY)), np.log(np.maximum(at[:, 1, None] * tokens, _TINY))
    joined = np.logaddexp(weights / flat, compute / flat)
    matmul = np.exp(flat * joined)
    share = np.exp(weights / flat - joined)         # of the weights' time in the sum of powers
    slopes = np.empty((*matmul.shape, 6))
    slopes[..., 0] = np.exp((weights - flat * joined) * (1 / flat - 1))
    slopes[..., 1] = np.exp((compute - flat * joined) * (1 / flat - 1)) * tokens
    slopes[..., 2:_KNEE] = work[:, 1:]
    slopes[..., _KNEE] = matmul * (joined - (weights * share + compute * (1 - share)) / flat)
    return matmul + at[:, 2:_KNEE] @ work[:, 1:].T, slopes


def _norms(work: Floats, seconds: Floats) -> Floats:
    """How much a unit of each linear parameter changes relative residuals, at least a little."""
    columns = np.column_stack([np.ones(len(work)), work])
    norms: Floats = np.sqrt(((columns / np.median(seconds, axis=0)[:, None]) ** 2).mean(axis=0))
    return np.where(norms > 0, norms, 1.0)


def _inverse_knee(parameters: Floats) -> Floats:
    at = np.array(parameters, dtype=np.float64, ndmin=2)
    at[:, _KNEE] = 1 / at[:, _KNEE]
    return at
