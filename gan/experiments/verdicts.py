"""What a comparison may say, and when: differences on the measure's own scale, looks at fixed numbers of seeds.

The rules are fixed in the experiment's file before anything is read:
- on a log scale the difference of a pair of runs is log(arm/base), so that means are ratios;
- a run that diverged is worse than any that did not: its difference is infinite. Where one of the pairs has such a
  run, the test is the signed-rank test, which takes it as the largest; otherwise it is Student's. Under no effect the
  sign of every difference is a coin's, whether a pair diverged or not, so that either test holds its level;
- at each look, p is adjusted over all pairs of arms (Holm 1979) and held against what this look may spend.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.stats import rankdata

from gan.experiments.statistics import (
    Estimate,
    equivalence_test,
    estimate,
    holm,
    pairs_needed,
    signed_rank_test,
    spent_levels,
    t_test,
)

ArmPair = tuple[str, str]  # base, arm
Values = Mapping[int, float | None]  # by seed; None where the run diverged
Answer = Literal["better", "worse", "equivalent", "undecided"]


@dataclass(frozen=True)
class Rule:
    """How a measure is compared.

    `margin` is what counts as no difference: a ratio of 1 + margin on a log scale, a share of the base's mean on a
    linear one. `looks` are numbers of seeds, ascending, at which a verdict may be read.
    """

    log: bool
    lower_is_better: bool
    margin: float
    looks: tuple[int, ...]


@dataclass(frozen=True)
class Contrast:
    """Differences of an arm from its base at one look, seed by seed, on the rule's scale; positive is higher.

    `interval` is of the finite ones, by itself 95 %; `left_out` are seeds that it lacks because a run diverged.
    """

    differences: tuple[float, ...]
    interval: Estimate | None
    left_out: tuple[int, ...]
    margin: float
    test: Literal["t", "signed rank"]
    p: float
    equivalence_p: float


@dataclass(frozen=True)
class Verdict:
    """What may be said of a pair of arms.

    `contrast` is of the last look that has been reached; `answer` is of `look`, counted from 0, the first at which
    the pair was decided, or else the last. `p` and `equivalence_p` are of `look`, adjusted for all pairs of arms;
    `level` is what that look may spend. `within` is whether the difference is shown to be less than the margin.
    """

    answer: Answer
    within: bool
    look: int
    level: float
    p: float
    equivalence_p: float
    contrast: Contrast

    @property
    def needed(self) -> int | None:
        """How many seeds would decide one pair by itself, read once; see `pairs_needed`."""
        interval = self.contrast.interval
        return None if interval is None else pairs_needed(interval.deviation, self.contrast.margin)


def contrast(rule: Rule, base: Values, arm: Values, seeds: Sequence[int]) -> Contrast:
    """The differences of `arm` from `base` over `seeds`, and what they test to."""
    worst = math.inf if rule.lower_is_better else -math.inf
    differences, finite, left_out = [], [], []
    for seed in seeds:
        first, second = base[seed], arm[seed]
        if first is None or second is None:
            left_out.append(seed)
            both = first is None and second is None
            differences.append(0.0 if both else worst if second is None else -worst)
        else:
            finite.append(math.log(second / first) if rule.log else second - first)
            differences.append(finite[-1])
    margin = _margin(rule, [value for seed in seeds if (value := base[seed]) is not None])
    return Contrast(
        differences=tuple(differences),
        interval=estimate(finite) if finite else None,
        left_out=tuple(left_out),
        margin=margin,
        test="signed rank" if left_out else "t",
        p=signed_rank_test(differences) if left_out else t_test(finite),
        equivalence_p=1.0 if left_out else equivalence_test(finite, margin),
    )


def _margin(rule: Rule, base: Sequence[float]) -> float:
    if rule.log:
        return math.log1p(rule.margin)
    return rule.margin * abs(sum(base) / len(base)) if base else math.nan


def judge(rule: Rule, pairs: Mapping[ArmPair, tuple[Values, Values]], seeds: Sequence[int]) -> dict[ArmPair, Verdict]:
    """The verdict on every pair of arms at the last look that has been reached; empty before the first.

    Args:
        rule: how they are compared.
        pairs: the base's and the arm's values by seed; at least those of the reached looks.
        seeds: those that are there for all arms, in the order of the plan and from its first on.
    """
    reached = [look for look in rule.looks if look <= len(seeds)]
    verdicts: dict[ArmPair, Verdict] = {}
    for number, (count, level) in enumerate(zip(reached, spent_levels(rule.looks), strict=False)):
        found = {both: contrast(rule, *values, seeds[:count]) for both, values in pairs.items()}
        p_values = holm([one.p for one in found.values()])
        equivalence = holm([one.equivalence_p for one in found.values()])
        for (both, one), p, equal in zip(found.items(), p_values, equivalence, strict=True):
            before = verdicts.get(both)
            if before is not None and before.answer != "undecided":
                verdicts[both] = Verdict(**{**vars(before), "contrast": one})
                continue
            answer = _answer(rule, one, p <= level, equal <= level)
            verdicts[both] = Verdict(answer, equal <= level, number, level, p, equal, one)
    return verdicts


def _answer(rule: Rule, found: Contrast, differs: bool, equal: bool) -> Answer:
    if differs:
        return "better" if _is_lower(found) == rule.lower_is_better else "worse"
    return "equivalent" if equal else "undecided"


def _is_lower(found: Contrast) -> bool:
    """Which way the differences went, by the statistic of the test that found them."""
    if found.test == "t":
        assert found.interval is not None
        return found.interval.mean < 0
    moved = [one for one in found.differences if one]
    return sum(math.copysign(rank, one) for rank, one in zip(rankdata(np.abs(moved)), moved, strict=True)) < 0
