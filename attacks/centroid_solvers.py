"""One rival against all own centroids of a sample: the linear programme (linf) and the quadratic one (l2).

HiGHS and Clarabel solve them; a status of theirs proves nothing here, their multipliers do, through
`centroid_bounds.weighted_bound`. Own centroids enter as they are violated: few of them bind.
"""

from collections.abc import Callable
from dataclasses import dataclass

import clarabel
import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.optimize import linprog

Array = NDArray[np.float64]

_FIRST = 8
"""Own centroids in the first problem: those that lead the rival by most at the start."""
_ADDED = 8
_VIOLATION = 1e-9


@dataclass(frozen=True)
class Problem:
    """`gap` (m, d) and `constant` (m,): the rival's lead over own centroid i at z is gap_i . z + constant_i.

    `x`, `lower` and `upper` (d,): the sample and the box of allowed pixels.
    """

    gap: Array
    constant: Array
    x: Array
    lower: Array
    upper: Array


@dataclass(frozen=True)
class Solution:
    """A point `z` (d,), the rival's smallest lead there, and a weight of each own centroid (m,).

    `multiplier` prices the l2 ball. z is None where the solver found none.
    """

    z: Array | None
    lead: float
    weights: Array
    multiplier: float = 0.0


def furthest(problem: Problem) -> Solution:
    """The point of the box where the rival's smallest lead is largest (linear programme)."""
    return _with_few(problem, lambda rows: _linear(problem, rows))


def nearest(problem: Problem, lead: float) -> Solution:
    """The point of the box nearest to x in l2 where the rival leads all own centroids by `lead` (quadratic).

    Without such a point the weights are zero.
    """
    return _with_few(problem, lambda rows: _quadratic(problem, rows, lead), lead)


_Solve = Callable[[NDArray[np.int64]], tuple[Array | None, Array, float]]
"""Own centroids to a point, their weights, and the price of the ball."""


def _with_few(problem: Problem, solve: _Solve, wanted: float = np.inf) -> Solution:
    start = problem.gap @ problem.x + problem.constant
    rows = np.argsort(start, kind="stable")[:_FIRST]
    while True:
        z, few, multiplier = solve(rows)
        weights = np.zeros(len(start))
        weights[rows] = few
        if z is None:
            return Solution(None, -np.inf, weights, multiplier)
        leads = problem.gap @ z + problem.constant
        violated = np.setdiff1d(np.nonzero(leads < min(wanted, leads[rows].min()) - _VIOLATION)[0], rows)
        if not len(violated):
            return Solution(z, float(leads.min()), weights, multiplier)
        rows = np.concatenate([rows, violated[np.argsort(leads[violated], kind="stable")[:_ADDED]]])


def _linear(problem: Problem, rows: NDArray[np.int64]) -> tuple[Array | None, Array, float]:
    d = len(problem.x)
    cost = np.zeros(d + 1)
    cost[-1] = -1.0
    left = np.hstack([-problem.gap[rows], np.ones((len(rows), 1))])
    bounds = np.vstack([np.column_stack([problem.lower, problem.upper]), [-np.inf, np.inf]])
    result = linprog(cost, A_ub=left, b_ub=problem.constant[rows], bounds=bounds, method="highs")
    if result.x is None:
        return None, np.zeros(len(rows)), 0.0
    return np.clip(result.x[:d], problem.lower, problem.upper), np.maximum(-result.ineqlin.marginals, 0.0), 0.0


def _quadratic(problem: Problem, rows: NDArray[np.int64], lead: float) -> tuple[Array | None, Array, float]:
    d = len(problem.x)
    identity = sparse.identity(d, format="csc")
    matrix = sparse.vstack([sparse.csc_matrix(-problem.gap[rows]), identity, -identity], format="csc")
    right = np.concatenate([problem.constant[rows] - lead, problem.upper, -problem.lower])
    settings = clarabel.DefaultSettings()
    settings.verbose = False
    settings.tol_gap_abs = settings.tol_gap_rel = settings.tol_feas = 1e-10
    cones = [clarabel.NonnegativeConeT(len(right))]
    solver = clarabel.DefaultSolver(2.0 * identity, -2.0 * problem.x, matrix, right, cones, settings)
    result = solver.solve()
    duals = np.maximum(np.asarray(result.z)[: len(rows)], 0.0)
    total = duals.sum()
    if "Solved" not in str(result.status):  # infeasible: the duals are a ray, and no ball is needed
        return None, duals, 0.0
    z = np.clip(np.asarray(result.x), problem.lower, problem.upper)
    return z, duals, 1.0 / total if total > 0 else 0.0
