"""How often does the stated 90% interval of a forecast contain the truth? On synthetic ladders from
known laws, with a forecast far beyond them.

    python benchmarks/ladder_fit.py [rounds]

Compares the posterior of antimatter/ladder/scaling.py with the usual method: the best law by
approach 3 of Hoffmann et al. 2022 (Huber's loss on log losses with many starts; here for each pair
of exponents of a grid, the linear rest by reweighted least squares), and intervals by a bootstrap
over the rungs.
"""

import argparse

import numpy as np

from antimatter import markdown
from antimatter.ladder import scaling

WEIGHTS, DATA = np.repeat([3.6e5, 9.2e5, 1.7e6], 4), np.tile([3.8e6, 7.6e6, 1.5e7, 3.1e7], 3)
TARGETS = {"10 x": (1.7e7, 3.1e8), "300m": (3.5e8, 3.9e10)}
LAWS = {
    "drawn from the prior": None,
    "Hoffmann": (0.34, 0.28),
    "Besiroglu": (0.35, 0.37),
    "steep": (0.5, 0.5),
    "flat": (0.25, 0.22),
}
HUBER, RESAMPLES = 1e-3, 60


def huber(weights: np.ndarray, data: np.ndarray, losses: np.ndarray) -> tuple[np.ndarray, ...]:
    """The best law of the grid: E, A, alpha, B, beta, with A and B at the middle of the ladder."""
    middle = np.exp(np.log(WEIGHTS).mean()), np.exp(np.log(DATA).mean())
    grid = np.linspace(0.05, 1.2, 24)
    alpha, beta = (exponent.ravel() for exponent in np.meshgrid(grid, grid, indexing="ij"))
    columns = [
        np.ones((len(alpha), len(losses))),
        (weights / middle[0]) ** -alpha[:, None],
        (data / middle[1]) ** -beta[:, None],
    ]
    X = np.stack(columns, axis=-1)  # (G, runs, 3)
    shares = np.ones((len(alpha), len(losses)))
    for _ in range(8):
        weighted = (X * shares[..., None]).transpose(0, 2, 1)
        gram = weighted @ X + 1e-12 * np.eye(3)
        theta = np.linalg.solve(gram, (weighted @ losses)[..., None])[..., 0]
        theta = np.clip(theta, 1e-9, None)  # (G, 3)
        error = np.abs(np.log((X @ theta[..., None])[..., 0]) - np.log(losses))
        shares = np.minimum(1, HUBER / np.maximum(error, 1e-12)) / losses**2
    cost = np.where(error < HUBER, error**2 / 2, HUBER * (error - HUBER / 2)).sum(axis=1)
    best = int(cost.argmin())
    return (
        theta[best, 0],
        theta[best, 1] * middle[0] ** alpha[best],
        alpha[best],
        theta[best, 2] * middle[1] ** beta[best],
        beta[best],
    )


def bootstrap(losses: np.ndarray, random: np.random.Generator) -> dict[str, tuple[float, float]]:
    laws: list[tuple[np.ndarray, ...]] = []
    while len(laws) < RESAMPLES:
        chosen = random.integers(len(losses), size=len(losses))
        if len(set(WEIGHTS[chosen])) > 1 and len(set(DATA[chosen])) > 1:
            laws.append(huber(WEIGHTS[chosen], DATA[chosen], losses[chosen]))
    intervals = {}
    for name, (n, d) in TARGETS.items():
        forecasts = [E + A * n**-alpha + B * d**-beta for E, A, alpha, B, beta in laws]
        low, high = np.quantile(forecasts, (0.05, 0.95))
        intervals[name] = (low, high)
    return intervals


def main(rounds: int) -> None:
    random = np.random.default_rng(11)
    header = ["exponents", "target"]
    header += ["posterior: contains, width", "Huber and bootstrap: contains, width"]
    print("\n".join(markdown.table(header, [])))
    for law, exponents in LAWS.items():
        keys = [(method, name) for method in ("posterior", "bootstrap") for name in TARGETS]
        contained = dict.fromkeys(keys, 0)
        spans: dict[tuple[str, str], list[float]] = {key: [] for key in keys}
        for _ in range(rounds):
            drawn = (
                base * np.exp(scaling.SPREAD * random.standard_normal())
                for base in (scaling.ALPHA, scaling.BETA)
            )
            alpha, beta = exponents or tuple(drawn)
            E, a, b = random.uniform(0.2, 0.7), random.uniform(0.2, 0.6), random.uniform(0.2, 0.6)
            A, B = a * WEIGHTS[0] ** alpha, b * DATA[0] ** beta
            truth = E + A * WEIGHTS**-alpha + B * DATA**-beta
            losses = truth * (1 + 0.005 * random.standard_normal(len(WEIGHTS)))
            posterior = scaling.fit(list(WEIGHTS), list(DATA), list(losses))
            resampled = bootstrap(losses, random)
            for name, (n, d) in TARGETS.items():
                interval, loss = posterior.expected(n, d), E + A * n**-alpha + B * d**-beta
                intervals = {
                    "posterior": (interval.low, interval.high),
                    "bootstrap": resampled[name],
                }
                for method, (low, high) in intervals.items():
                    contained[method, name] += low <= loss <= high
                    spans[method, name].append((high - low) / loss)
        for name in TARGETS:
            cells = []
            for key in (("posterior", name), ("bootstrap", name)):
                cells.append(f"{contained[key] / rounds:.0%}, {np.median(spans[key]):.0%}")
            print(f"| {law} | {name} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("rounds", type=int, nargs="?", default=200)
    main(parser.parse_args().rounds)
