"""The section `evaluation` of params.yaml: what its parts read of it, in one."""

from dataclasses import dataclass

from antimatter.evaluation.coherence import CoherenceConfig
from antimatter.evaluation.perplexity import PerplexityConfig


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig(PerplexityConfig, CoherenceConfig):
    def __post_init__(self) -> None:
        PerplexityConfig.__post_init__(self)
        CoherenceConfig.__post_init__(self)
