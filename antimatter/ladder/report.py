"""The ladder for people, as lines, and for programs, as files."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from antimatter import files
from antimatter.ladder import advice, plot
from antimatter.ladder.fit import LN2, Ladder, data_bytes
from antimatter.ladder.scaling import Interval
from antimatter.planning import plan
from antimatter.planning.gpus import Card

EPOCHS = 4  # up to here, text that is read again is nearly as good as new (Muennighoff et al. 2023)


def report(ladder: Ladder, cards: Sequence[Card]) -> list[str]:
    """In lines of about 100 characters."""
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
    lines = ["rung              N      tokens       FLOPs    rate    loss  fitted  residual"]
    for result in ladder.rungs:
        rung, fitted = result.rung, ladder.fitted(result.rung)
        lines.append(
            f"{rung.label:<12}{count(rung.weights):>7}{count(rung.tokens):>12}{rung.flops:>12.2e}{rung.learning_rate:>8.2g}"
            f"{result.loss:>8.3f}{fitted:>8.3f}{100 * (result.loss / fitted - 1):>+9.2f}%"
        )
    lines.append(
        "N: weights of matrix products, with the head. Loss: nats per token on the whole validation split."
    )
    epochs = max(result.rung.tokens for result in ladder.rungs) / ladder.base.train_tokens
    if epochs > 1:
        worse = (
            "beyond 4 the law becomes too pessimistic"
            if epochs > EPOCHS
            else "up to 4 that is nearly as good as new text"
        )
        lines.append(f"The longest budget reads the corpus {epochs:.1f} times; {worse}.")
    return lines


def _law(ladder: Ladder) -> list[str]:
    law, top, ratio = ladder.law, ladder.held_out, ladder.ratio
    E, alpha, beta = (Interval.of(values).text() for values in (law.E, law.alpha, law.beta))
    seen, check = top.loss, ladder.check.times(ratio)
    inside = "inside" if check.low <= seen <= check.high else "outside of"
    error = f"{100 * (check.median / seen - 1):+.2f}%, {inside} the interval"
    return [
        "fit         L(N, D) = E + A/N^alpha + B/D^beta, nats per byte, D in bytes of text; median (90% interval)",
        f"            E {E}, alpha {alpha}, beta {beta}; noise of a run {100 * ladder.noise / seen:.1f}%",
        f"check       {top.rung.label} from the others: {check.text('.3f')}, seen {seen:.3f}: {error}",
    ]


def _forecast(ladder: Ladder) -> list[str]:
    target, base, found, largest = ladder.target, ladder.base, ladder.forecast, ladder.held_out.rung
    loss, perplexity = found.loss(target.bytes_per_token), found.perplexity(target.bytes_per_token)
    best = Interval.of(ladder.law.optimum(float(target.weights) * target.data))
    size = f"N {count(target.weights)}, {count(target.plan.tokens)} tokens of {target.bytes_per_token:.2f} bytes, {target.flops:.2e} FLOPs"
    further = [
        target.flops / largest.flops,
        target.weights / largest.weights,
        target.data / data_bytes(base, largest),
    ]
    far = [f"{float(f'{times:.3g}'):,g}" for times in further]
    lines = [
        f"forecast    {target.name}: {size}",
        f"            bits per byte {found.bits_per_byte().text()}, loss {loss.text()}, perplexity {perplexity.text(',.1f')}",
        f"            {far[0]} x the FLOPs of the largest rung, {far[1]} x its N, {far[2]} x its text",
        f"            least loss for as much: N {count(best.median)} ({count(best.low)} to {count(best.high)})",
    ]
    if target.plan.model.vocab_size != base.model.vocab_size:
        lines += [
            "            This is about text like the ladder's own, cut by another tokenizer. For the run's real text, make its",
            "            shards and run the ladder on them: docs/ladder.md.",
        ]
    return lines


def write(folder: Path, ladder: Ladder) -> None:
    """rungs.csv, ladder.json and ladder.png. The same runs give the same bytes."""
    names = "kind layers width weights tokens flops batch_size steps learning_rate loss bits_per_byte fitted".split()
    rows = []
    for result in ladder.results:
        rung = result.rung
        sizes = (
            rung.kind,
            rung.model.n_layer,
            rung.model.n_embd,
            rung.weights,
            rung.tokens,
            f"{rung.flops:.6g}",
            rung.batch_size,
            rung.steps,
        )
        fitted = f"{ladder.fitted(rung):.6g}" if rung.kind == "rung" else ""
        rows.append(
            (rung.label, *sizes, rung.learning_rate, result.loss, result.bits_per_byte, fitted)
        )
    files.write_csv(folder / "rungs.csv", ("run", *names), rows)
    files.write_metrics(folder / "ladder.json", _figures(ladder))
    points = [
        plot.Point(
            result.rung.model.n_embd,
            result.rung.weights,
            data_bytes(ladder.base, result.rung),
            result.rung.flops,
            result.bits_per_byte,
        )
        for result in ladder.rungs
    ]
    target = plot.Target(ladder.target.name, ladder.target.flops, ladder.forecast.bits_per_byte())
    plot.draw(points, ladder.law, ladder.check.times(1 / LN2), target, folder / "ladder.png")


def _figures(ladder: Ladder) -> dict[str, Any]:
    law, target, found, top = ladder.law, ladder.target, ladder.forecast, ladder.held_out
    check = ladder.check.times(ladder.ratio)
    return {
        "law": {
            name: asdict(Interval.of(getattr(law, name)))
            for name in ("E", "A", "alpha", "B", "beta", "sigma")
        },
        "check": {
            "rung": top.rung.label,
            "seen": top.loss,
            "predicted": asdict(check),
            "error": check.median / top.loss - 1,
        },
        "forecast": {
            "run": target.name,
            "weights": target.weights,
            "tokens": target.plan.tokens,
            "flops": target.flops,
            "bits_per_byte": asdict(found.bits_per_byte()),
            "loss": asdict(found.loss(target.bytes_per_token)),
            "perplexity": asdict(found.perplexity(target.bytes_per_token)),
        },
        "best_rate": {
            str(one.width): None if one.rate is None else asdict(one.rate)
            for one in advice.best_rates(ladder.results, ladder.noise)
        },
    }


def count(value: float) -> str:
    return (
        f"{value / 1e9:.2f} B"
        if value >= 1e9
        else f"{value / 1e6:.2f} M"
        if value < 1e7
        else f"{value / 1e6:.0f} M"
    )
