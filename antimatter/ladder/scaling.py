"""Loss as a function of weights and data, L(N, D) = E + A/N^alpha + B/D^beta (Hoffmann et al.
2022), with intervals.

A ladder of a dozen small runs does not determine five numbers: many laws fit it, and far from it
they diverge. So the fit is not a single law but a sample of all laws that agree with the runs, each
in proportion to its probability (a Bayesian posterior), and every prediction is an interval over
the sample.

Shapes: S laws in the sample, G points of the grid of exponents, P products N x D.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from antimatter.errors import UserError

Array = NDArray[np.float64]

# The prior of the exponents: published fits have alpha 0.34 and beta 0.28 (Hoffmann et al. 2022),
# 0.35 and 0.37 (Besiroglu et al. 2024, of the same runs). Log-normal, with 90% within a factor of
# 2.1: alpha in 0.16-0.72, beta in 0.16-0.68.
ALPHA, BETA, SPREAD = 0.345, 0.325, 0.45
# The grid of exponents, as multiples of ALPHA and BETA
GRID = np.exp(SPREAD * np.linspace(-3, 3, 41))
# The prior of the noise: runs differ from the law by about 0.5% of the loss, with the weight of 4
# runs
NOISE, NOISE_RUNS = 0.005, 4.0
DRAWS = 20_000
LEAST = 4  # runs
# Of repeated text: after this many repetitions another one is worth 1/e of new text (R*_D of
# Muennighoff et al. 2023)
REPETITIONS = 15.39


def worth(data: float, unique: float) -> float:
    """The amount of new text that is worth as much as `data`, read from `unique` of it in several
    passes: U + U·R*·(1 - exp(-R/R*)) with R = data / unique - 1 repetitions (Muennighoff et al.
    2023, Scaling Data-Constrained Language Models).
    """
    repetitions = max(0.0, data / unique - 1)
    first = min(data, unique)
    return first + unique * REPETITIONS * -math.expm1(-repetitions / REPETITIONS)


@dataclass(frozen=True)
class Interval:
    """The median, and the 5% and 95% quantiles."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Array) -> "Interval":
        low, median, high = np.quantile(values, (0.05, 0.5, 0.95))
        return cls(float(median), float(low), float(high))

    def times(self, factor: float) -> "Interval":
        return Interval(self.median * factor, self.low * factor, self.high * factor)

    def text(self, form: str = ".2f") -> str:
        """`median (low to high)`, each in the format `form`."""
        return f"{self.median:{form}} ({self.low:{form}} to {self.high:{form}})"


@dataclass(frozen=True, eq=False)
class Law:
    """A sample of laws, each array (S,). The units are those of the arguments of fit()."""

    E: Array  # the loss of an infinite model on infinite text
    A: Array
    alpha: Array
    B: Array
    beta: Array
    sigma: Array  # standard deviation of a run around the law

    def losses(self, weights: float, data: float) -> Array:
        """The mean loss under each law, (S,)."""
        return self.E + self.A * weights**-self.alpha + self.B * data**-self.beta

    def expected(self, weights: float, data: float) -> Interval:
        """The mean loss."""
        return Interval.of(self.losses(weights, data))

    def predict(self, weights: float, data: float, seed: int = 2) -> Interval:
        """The loss of one further run, which includes its noise."""
        noise = np.random.default_rng(seed).standard_normal(len(self.sigma))
        return Interval.of(self.losses(weights, data) + self.sigma * noise)

    def optimum(self, product: ArrayLike) -> Array:
        """The weights N with the least loss for N x data = `product`, a fixed amount of
        computation: (S,), or (P, S) for P products.

        The derivative of A/N^a + B·N^b/product^b is zero at N^(a+b) = (a·A/(b·B))·product^b.
        """
        power = self.alpha + self.beta
        ratio = self.alpha * self.A / (self.beta * self.B)
        return np.asarray(
            (ratio * np.expand_dims(np.asarray(product, dtype=np.float64), -1) ** self.beta)
            ** (1 / power)
        )

    def frontier(self, product: ArrayLike) -> Array:
        """The least mean loss for N x data = `product`: (S,), or (P, S)."""
        weights = self.optimum(product)
        data = np.expand_dims(np.asarray(product, dtype=np.float64), -1) / weights
        return np.asarray(self.E + self.A * weights**-self.alpha + self.B * data**-self.beta)


def fit(
    weights: Sequence[float], data: Sequence[float], losses: Sequence[float], seed: int = 1
) -> Law:
    """The laws that agree with these runs. The same numbers give the same sample.

    For given exponents the law is linear in E, A and B, so their posterior has a closed form
    (Gelman et al., Bayesian Data Analysis, 14.2), and only the exponents need a grid. The prior of
    E and of the two terms at the middle of the ladder is flat from 0 up.

    Raises:
        UserError: fewer than four runs, or all of one size or one budget; a loss that does not
            fall.
    """
    N, D, y = (np.asarray(values, dtype=np.float64) for values in (weights, data, losses))
    if len(y) < LEAST or len(set(N)) < 2 or len(set(D)) < 2:
        raise UserError(
            f"a scaling law needs at least {LEAST} rungs, of 2 sizes and 2 budgets or more; there"
            f" are {len(y)}, of {len(set(N))} sizes and {len(set(D))} budgets:"
            " run `antimatter ladder`"
        )
    random = np.random.default_rng(seed)
    middle_n, middle_d = np.exp(np.log(N).mean()), np.exp(np.log(D).mean())
    grids = np.meshgrid(ALPHA * GRID, BETA * GRID, indexing="ij")
    alpha, beta = (exponent.ravel() for exponent in grids)  # (G,) each
    prior = np.log(GRID) / SPREAD
    log_prior = -0.5 * (prior[:, None] ** 2 + prior[None, :] ** 2).ravel()
    columns = [
        np.ones((len(alpha), len(y))),
        (N / middle_n) ** -alpha[:, None],
        (D / middle_d) ** -beta[:, None],
    ]
    X = np.stack(columns, axis=-1)  # (G, runs, 3)
    gram = X.transpose(0, 2, 1) @ X  # (G, 3, 3)
    inverse = np.linalg.inv(gram)
    centre = (inverse @ (X.transpose(0, 2, 1) @ y)[..., None])[..., 0]  # (G, 3), least squares
    residuals = ((y - (X @ centre[..., None])[..., 0]) ** 2).sum(axis=1)
    scale = residuals + NOISE_RUNS * (NOISE * y.mean()) ** 2
    freedom = NOISE_RUNS + len(y) - 3
    log_posterior = log_prior - 0.5 * np.linalg.slogdet(gram)[1] - 0.5 * freedom * np.log(scale)
    share = np.exp(log_posterior - log_posterior.max())
    # Negative E, A and B are impossible and dropped below, so more are drawn than are needed
    drawn = random.choice(len(alpha), size=8 * DRAWS, p=share / share.sum())
    sigma = np.sqrt(scale[drawn] / random.chisquare(freedom, len(drawn)))
    root = np.linalg.cholesky(inverse)[drawn]
    noise = (root @ random.standard_normal((len(drawn), 3, 1)))[..., 0]
    theta = centre[drawn] + sigma[:, None] * noise
    valid = np.flatnonzero((theta >= 0).all(axis=1))[:DRAWS]
    if len(valid) < DRAWS / 100:
        raise UserError(
            "no scaling law fits these rungs: their loss does not fall with size and with text."
            " Compare their losses with `dvc exp show`: one of the runs may have gone wrong"
        )
    E, a, b = theta[valid].T
    alpha, beta = alpha[drawn[valid]], beta[drawn[valid]]
    return Law(E, a * middle_n**alpha, alpha, b * middle_d**beta, beta, sigma[valid])
