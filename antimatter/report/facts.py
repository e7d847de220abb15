"""The model card in a few lines, for a page that shows the model to visitors."""

from antimatter.report.card import RunRecord

# Of plots/answers/shares.csv: how often an answer is right
MEASURES = (
    *("who it is", "the persona", "next turn among four", "next turn of a dialogue between people"),
    *("words of the documentation (F1)", "words of what was never asked about (F1)"),
    "an answer copied from a text",
)


def facts(run: RunRecord) -> dict[str, str]:
    """What the recorded run knows and a GGUF file does not say.

    Raises:
        UserError: a metric is missing, or is not the one that dvc.lock records.
    """
    checkpoints = run.summary("checkpoints")
    sources = [row["source"] for row in run.csv("plots/raw/sources.csv")]
    trained = f"{checkpoints['tokens']:,} tokens of text from {_listed(sources)}"
    if run.params("gguf")["model"] != "tuned":
        return {"Parameters": f"{checkpoints['parameters']:,}", "Trained on": trained}
    conversations = run.summary("conversations")["train"]["tokens"]
    shares = {row["measure"]: float(row["tuned"]) for row in run.csv("plots/answers/shares.csv")}
    right = [f"{name} {shares[name]:.0%}" for name in MEASURES if name in shares]
    return {
        "Parameters": f"{checkpoints['parameters']:,}",
        "Trained on": f"{trained}; then {conversations:,} tokens of conversations",
        "Measured on conversations that it has not seen": "; ".join(right),
    }


def _listed(names: list[str], most: int = 8) -> str:
    shown = names[:most]
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(shown) + more
