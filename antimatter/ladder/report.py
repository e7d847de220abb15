"""The report of a ladder, as lines and as files."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from antimatter import files
from antimatter.ladder import advice, plot
from antimatter.ladder.fit import Ladder, data_bytes
from antimatter.ladder.scaling import Interval
from antimatter.planning import plan
from antimatter.planning.gpus import Card
from antimatter.text import count

# Up to here repeated text is nearly as good as new text (Muennighoff et al. 2023)
EPOCHS = 4


def lines(ladder: Ladder, cards: Sequence[Card]) -> list[str]:
    """The report. Most lines have at most 100 characters."""
    return [
        *_table(ladder),
        "",
        *_law(ladder),
        "",
        *_forecast(ladder),
        "",
        *advice.lines(ladder.results, ladder.noise, ladder.target),
        "",
        *plan.table(ladder.target.plan, cards),
    ]


def _table(ladder: Ladder) -> list[str]:
    table = ["rung              N      tokens       FLOPs    rate    loss  fitted  residual"]
    for result in ladder.rungs:
        run, fitted = result.run, ladder.fitted(result.run)
        table.append(
            f"{run.label:<12}{count(run.weights):>7}{count(run.tokens):>12}{run.flops:>12.2e}"
            f"{run.learning_rate:>8.2g}{result.loss:>8.3f}{fitted:>8.3f}"
            f"{100 * (result.loss / fitted - 1):>+9.2f}%"
        )
    table.append(
        "N: weights of matrix products, with the head. Loss: nats per token on the whole validation"
        " split."
    )
    epochs = max(result.run.tokens for result in ladder.rungs) / ladder.base.train_tokens
    if epochs > 1:
        effect = "up to 4 that is nearly as good as new text"
        if epochs > EPOCHS:
            effect = "beyond 4 the law becomes too pessimistic"
        table.append(f"The longest budget reads the corpus {epochs:.1f} times; {effect}.")
    return table


def _law(ladder: Ladder) -> list[str]:
    law, largest = ladder.law, ladder.largest
    E, alpha, beta = (Interval.of(values).text() for values in (law.E, law.alpha, law.beta))
    seen, check = largest.loss, ladder.check.times(ladder.bytes_per_token)
    side = "inside" if check.low <= seen <= check.high else "outside of"
    error = f"{100 * (check.median / seen - 1):+.2f}%, {side} the interval"
    return [
        "fit         L(N, D) = E + A/N^alpha + B/D^beta, nats per byte, D in bytes of text;"
        " median (90% interval)",
        f"            E {E}, alpha {alpha}, beta {beta};"
        f" noise of a run {100 * ladder.noise / seen:.1f}%",
        f"check       {largest.run.label} from the others: {check.text('.3f')}, seen {seen:.3f}:"
        f" {error}",
    ]


def _forecast(ladder: Ladder) -> list[str]:
    target, base, forecast = ladder.target, ladder.base, ladder.forecast
    largest = ladder.largest.run
    factors = [
        target.flops / largest.flops,
        target.weights / largest.weights,
        target.data_bytes / data_bytes(base, largest),
    ]
    flops, weights, data = (f"{float(f'{factor:.3g}'):,g}" for factor in factors)
    best = Interval.of(ladder.law.optimum(float(target.weights) * target.data_bytes))
    lines = [
        f"forecast    {target.name}: N {count(target.weights)}, {count(target.plan.tokens)} tokens"
        f" of {target.bytes_per_token:.2f} bytes, {target.flops:.2e} FLOPs",
        f"            bits per byte {forecast.bits_per_byte.text()}, loss {forecast.loss.text()},"
        f" perplexity {forecast.perplexity.text(',.1f')}",
        f"            {flops} x the FLOPs of the largest rung, {weights} x its N, {data} x its"
        " text",
        f"            least loss for as much: N {count(best.median)}"
        f" ({count(best.low)} to {count(best.high)})",
    ]
    if target.passes is not None and target.passes > 1:
        new = target.data_bytes / target.plan.tokens / target.bytes_per_token
        lines.append(
            f"            {target.passes:.1f} passes over its text, as good as"
            f" {new * target.passes:.1f} times as much new text (Muennighoff et al. 2023)"
        )
    if target.plan.model.vocab_size != base.model.vocab_size:
        lines += [
            "            This is about text like the ladder's own, cut by another tokenizer. For"
            " the run's real text, make its",
            "            shards and run the ladder on them: docs/ladder.md.",
        ]
    return lines


def write(folder: Path, ladder: Ladder) -> None:
    """Writes rungs.csv, ladder.json and ladder.png. The same runs give the same bytes."""
    rows = []
    for result in ladder.results:
        run = result.run
        rows.append(
            {
                "run": run.label,
                "kind": run.kind,
                "layers": run.model.n_layer,
                "width": run.model.n_embd,
                "weights": run.weights,
                "tokens": run.tokens,
                "flops": f"{run.flops:.6g}",
                "batch_size": run.batch_size,
                "steps": run.steps,
                "learning_rate": run.learning_rate,
                "loss": result.loss,
                "bits_per_byte": result.bits_per_byte,
                "fitted": f"{ladder.fitted(run):.6g}" if run.kind == "rung" else "",
            }
        )
    files.write_csv(folder / "rungs.csv", list(rows[0]), [list(row.values()) for row in rows])
    files.write_metrics(folder / "ladder.json", _figures(ladder))
    plot.draw(ladder, folder / "ladder.png")


def _figures(ladder: Ladder) -> dict[str, Any]:
    target, forecast, largest = ladder.target, ladder.forecast, ladder.largest
    names = ("E", "A", "alpha", "B", "beta", "sigma")
    check = ladder.check.times(ladder.bytes_per_token)
    rates = {}
    for best in advice.best_rates(ladder.results, ladder.noise):
        rates[str(best.width)] = None if best.interval is None else asdict(best.interval)
    return {
        "law": {name: asdict(Interval.of(getattr(ladder.law, name))) for name in names},
        "check": {
            "rung": largest.run.label,
            "seen": largest.loss,
            "predicted": asdict(check),
            "error": check.median / largest.loss - 1,
        },
        "forecast": {
            "run": target.name,
            "weights": target.weights,
            "tokens": target.plan.tokens,
            "flops": target.flops,
            "bits_per_byte": asdict(forecast.bits_per_byte),
            "loss": asdict(forecast.loss),
            "perplexity": asdict(forecast.perplexity),
        },
        "best_rate": rates,
    }
