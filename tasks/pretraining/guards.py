"""Guards of a training: divergence ends it, as a result; collapse and leakage give warnings.

All decisions depend on losses and gradient norms that are the same in every rank, and their history is part of the
training state, so an interrupted training decides as an uninterrupted one.
"""

import math
import statistics
import sys
from collections import deque
from collections.abc import Callable
from typing import Any

# A gradient norm this many times its running median is divergence; spikes of ten times are common, and clipped.
GRADIENT_RATIO = 100.0
MEDIAN_STEPS = 200
LEAST_STEPS = 50
# Divergence, too: a held-out loss at this multiple of its best, and this many nats above it.
LOSS_RATIO, LOSS_RISE_NATS = 1.5, 1.0
# Collapse: an effective rank below this share of its highest value.
COLLAPSE_SHARE = 0.25
COLLAPSE_RANKS = ("centred_effective_rank", "effective_rank_per_sample_mean")
# Leakage: no text is that predictable, so the model sees the answers or was trained on the held-out text.
LEAKAGE_SHARE, LEAKAGE_NATS = 0.1, 0.5


class TrainingGuard:
    """Watches one training.

    Attributes:
        warn: receives every warning once.
        best_loss, best_step: of the held-out evaluations so far.
        warnings: kind -> text.
    """

    def __init__(self, unigram_entropy: float, warn: Callable[[str], None] = lambda text: None) -> None:
        self.unigram_entropy, self.warn = unigram_entropy, warn
        self.norms: deque[float] = deque(maxlen=MEDIAN_STEPS)
        self.highest_ranks: dict[str, float] = {}
        self.best_loss = math.inf
        self.best_step = 0
        self.warnings: dict[str, str] = {}

    @property
    def largest_norm(self) -> float:
        """The gradient norm up to which the next step may be taken: finite, whatever the norms were."""
        median = statistics.median(self.norms) if len(self.norms) >= LEAST_STEPS else 0.0
        return GRADIENT_RATIO * median or sys.float_info.max

    def after_gradient(self, loss: float, norm: float) -> str | None:
        """Why a step may not be taken and the training must stop, or None."""
        if not math.isfinite(loss):
            return f"the loss is {loss}"
        if not math.isfinite(norm):
            return f"the gradient norm is {norm}"
        if norm > self.largest_norm:
            median = statistics.median(self.norms)
            return f"the gradient norm {norm:.4g} is {norm / median:.0f} times its running median {median:.4g}"
        self.norms.append(norm)
        return None

    def after_evaluation(self, step: int, loss: float, geometry: dict[str, float]) -> str | None:
        """Why training must stop after this evaluation, or None; notes the best loss and warns."""
        if not math.isfinite(loss):
            return f"the held-out loss is {loss}"
        if loss > LOSS_RATIO * self.best_loss and loss > self.best_loss + LOSS_RISE_NATS:
            return f"the held-out loss rose to {loss:.4f} from its best, {self.best_loss:.4f} at step {self.best_step}"
        if loss < self.best_loss:
            self.best_loss, self.best_step = loss, step
        for name in COLLAPSE_RANKS:
            rank = geometry.get(name)
            if rank is None:
                continue
            highest = self.highest_ranks[name] = max(rank, self.highest_ranks.get(name, 0.0))
            if rank < COLLAPSE_SHARE * highest:
                self._warn("collapse", f"step {step}: {name.replace('_', ' ')} fell to {rank:.2f} from {highest:.2f}")
        if loss < min(LEAKAGE_NATS, LEAKAGE_SHARE * self.unigram_entropy):
            self._warn(
                "too good to be true",
                f"step {step}: held-out loss {loss:.4f} against a unigram entropy of {self.unigram_entropy:.2f}: "
                "does the model see the answers, or the training text hold the held-out one?",
            )
        return None

    def _warn(self, kind: str, text: str) -> None:
        if kind not in self.warnings:
            self.warnings[kind] = f"{kind}: {text}"
            self.warn(self.warnings[kind])

    def state_dict(self) -> dict[str, Any]:
        """The history that later decisions depend on, as JSON."""
        return {
            "norms": list(self.norms),
            "highest_ranks": self.highest_ranks,
            "best_loss": self.best_loss,
            "best_step": self.best_step,
            "warnings": self.warnings,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a history, and warn again of what it warned of."""
        self.norms.extend(state["norms"])
        self.highest_ranks = dict(state["highest_ranks"])
        self.best_loss, self.best_step = float(state["best_loss"]), int(state["best_step"])
        self.warnings = dict(state["warnings"])
        for text in self.warnings.values():  # again, for the command that continues the run
            self.warn(text)
