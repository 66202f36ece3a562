"""Write the comparison's first lines: the question, a sentence or two for each run, and unsupported claims."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from histoxai.core.digits import decimals_for, signed
from histoxai.report.comparison.pairs import AccuracyDifference, MethodDifference, RunPair
from histoxai.report.content import Answer
from histoxai.report.wording import count_groups, hyphenated, is_or_are, join_names


@dataclass(frozen=True)
class ComparisonQuestion:
    """The run to compare with, the measure as it reads in a sentence, the mask, and the level of the tests."""

    first: str
    measure: str
    mask: str
    level: float


def write_comparison_answer(compared: ComparisonQuestion, pairs: Sequence[RunPair]) -> Answer:
    """Write whether maps of the other runs lie on the nuclei more than those of the first."""
    first, alpha = compared.first, 1 - compared.level
    question = (
        f"Do the maps of {join_names([pair['run'] for pair in pairs])} lie on the {hyphenated(compared.mask)} nuclei "
        f"more than those of {first}, the first? Measured by {compared.measure} on the patches that both have."
    )
    lines, undecided = [], []
    for pair in pairs:
        rows = [r for r in pair["rows"] if r["mask"] == compared.mask and r["difference"] is not None and not r["null"]]
        lines.append(_on_maps(pair, rows, first, alpha))
        if pair["accuracy"] is not None:
            lines.append(_on_classifiers(pair["run"], pair["accuracy"], first, alpha))
        with_p = [r for r in rows if r["p_holm"] is not None]
        undecided += [f"{r['method']} in {pair['run']}" for r in with_p if not _sign(r, alpha)]
    unsupported = [f"That the maps of {join_names(undecided)} differ from those in {first}."] if undecided else []
    return {"question": question, "answer": lines, "unsupported": unsupported}


def _sign(row: MethodDifference, alpha: float) -> int:
    # 1 if a method is shown to be higher than in the first run, -1 if lower, else 0
    if row["p_holm"] is None or row["p_holm"] > alpha or row["difference"] is None:
        return 0
    return 1 if row["difference"] > 0 else -1


def _on_maps(pair: RunPair, rows: Sequence[MethodDifference], first: str, alpha: float) -> str:
    # rows: of the primary mask, with a value, no null models
    run = pair["run"]
    if not pair["patches"]:
        return f"{run} and {first} have no patch in common: their means stand side by side, and nothing is tested."
    if not rows:
        return f"{run} and {first} have {pair['patches']:,} patches in common, and no method with a value on them."
    n, groups = max(r["n"] for r in rows), max(r["groups"] for r in rows)
    count = f"{n:,}" if n == pair["patches"] else f"{n:,} of the {pair['patches']:,}"
    on = f"On {count} patches that both have, with a value, of {count_groups(groups)}"
    if all(r["p_holm"] is None for r in rows):
        return f"{on}, nothing can be claimed of {run} and {first}: tests are withheld ({rows[0]['withheld']})."
    decimals, parts = decimals_for([0.0, *(r["difference"] for r in rows)]), []
    for sign, word in ((1, "higher"), (-1, "lower")):
        differing = [f"{r['method']} ({signed(r['difference'], decimals)})" for r in rows if _sign(r, alpha) == sign]
        if differing:
            parts.append(f"{join_names(differing)} {is_or_are(differing)} {word} in {run} than in {first}")
    if not parts:
        return f"{on}, no method is shown to differ between {run} and {first}."
    return f"{on}, {'; '.join(parts)} (p after Holm at or below {alpha:.2g})."


def _on_classifiers(run: str, test: AccuracyDifference, first: str, alpha: float) -> str:
    shares = (
        f"The classifier of {run} is right on {100 * test['theirs']:.1f} % of the {test['n']:,} patches with one "
        f"class in both, that of {first} on {100 * test['first']:.1f} %"
    )
    if test["p_holm"] is None:
        return f"{shares}; that is not tested ({test['withheld']})."
    if test["p_holm"] > alpha:
        return f"{shares}: no difference is shown (p = {test['p_holm']:.2g} after Holm)."
    return f"{shares}: a difference (p = {test['p_holm']:.2g} after Holm)."
