"""The report's first lines: the question, the answer the tests give, and what they do not support.

Every sentence follows from the numbers of `score --json` and says no more than its test does: a method beats chance, or
another method, where Holm's correction over all that was tested leaves p at or below 1 - level.
"""

from __future__ import annotations

from typing import Any

_MANY = 4  # names in a row


def answer(summary: dict[str, Any], size: tuple[int, int]) -> dict[str, Any]:
    """`question`, `answer` (three sentences) and `unsupported` (what a reader must not take from it).

    summary: of `score` in the corrected profile. size: height and width of the patches.
    """
    alpha = 1 - summary["statistics"]["level"]
    primary = summary["statistics"]["primary"]
    mask = "tumor" if any(r["mask"] == "tumor" for r in summary["rows"]) else summary["rows"][0]["mask"]
    found = _Found(summary, mask, primary, alpha)
    words, cancer = words_of(primary), summary["statistics"]["cancer"]
    question = (
        f"Do the maps of {_list(found.real)} lie where the {_mask(mask)} nuclei are, on "
        f"{summary['patches']:,} patches of {size[1]} × {size[0]} px from {summary['statistics']['groups']:,} groups? "
        f"Measured by {words}, over all classes ({_list(cancer)} count as tumor)."
    )
    return {
        "question": question,
        "answer": [_against_chance(found, words), _against_null(found), _among_methods(found)],
        "unsupported": _unsupported(found, summary),
    }


class _Found:
    """What the tests say of one mask and measure: rows by method, the best one, who beats chance."""

    def __init__(self, summary: dict[str, Any], mask: str, primary: str, alpha: float) -> None:
        chosen = [
            r
            for r in summary["rows"]
            if (r["mask"], r["metric"], r["class"], r["case"]) == (mask, primary, "all", "all")
        ]
        null = {name for name, m in summary["methods"].items() if m["null"]}
        self.mask, self.alpha, self.level = mask, alpha, f"{100 * (1 - alpha):g} %"
        self.rows = {r["method"]: r for r in chosen if r["method"] not in null}
        self.real = list(self.rows)
        defined = [m for m in self.real if self.rows[m]["mean"] is not None]
        self.order = sorted(defined, key=lambda m: -self.rows[m]["mean"])
        self.best = self.order[0] if self.order else None
        self.above = [m for m in self.order if self._is_above(self.rows[m])]
        self.withheld = next((r["withheld"] for r in self.rows.values() if r["withheld"]), None)
        self.null = [r for r in summary["best_null"] if r["mask"] == mask]
        self.pairs = [r for r in summary["comparisons"] if r["mask"] == mask]

    def _is_above(self, row: dict[str, Any]) -> bool:
        p, gap = row["above_chance"]["p_holm"], row["above_chance"]["mean"]
        return p is not None and p <= self.alpha and gap is not None and gap > 0


def _against_chance(f: _Found, words: str) -> str:
    if f.best is None:
        return f"No answer: {words} is undefined for every method, since no patch has a {_mask(f.mask)} mask to find."
    row = f.rows[f.best]
    reached = f"{words} {row['mean']:.3f}{_interval(row, f.level)}, where chance gives {_number(row['chance'])}"
    if row["low"] is None:
        return (
            f"{f.best} has the highest mean ({reached}), but nothing can be claimed: intervals and tests are withheld "
            f"({row['withheld'] or 'too few groups'})."
        )
    if f.best in f.above:
        others = [m for m in f.above if m != f.best]
        more = f"; so do {_list(others)}" if len(others) > 1 else f"; so does {others[0]}" if others else ""
        return f"{f.best} finds the {_mask(f.mask)} mask best and beats chance ({reached}; {_p(row)}){more}."
    if f.above:
        return (
            f"{f.best} has the highest mean ({reached}) but is not shown to beat chance ({_p(row)}); "
            f"{_list(f.above)} {'do' if len(f.above) > 1 else 'does'}."
        )
    return f"No method beats chance: the highest mean is that of {f.best} ({reached}; {_p(row)})."


def _against_null(f: _Found) -> str:
    if not f.null:
        return (
            "What a map that knows nothing of the network would reach is not known: no null model was explained "
            "(add --method random,center,edges,hematoxylin)."
        )
    null = f.null[0]["null"]
    better = [m for m in f.order if any(r["method"] == m and _better(r, f.alpha) for r in f.null)]
    if not better:
        return f"No method is shown to be better than {null}, the best map that knows nothing of the network."
    row = next(r for r in f.null if r["method"] == better[0])
    others = [r["method"] for r in f.null if r["method"] not in better]
    rest = f"; {_list(others)} {'are' if len(others) > 1 else 'is'} not shown to be" if others else ""
    gap = f" ({better[0]} by {row['difference']:+.3f})" if row["difference"] is not None else ""
    known = f"{null}, the best map that knows nothing of the network"
    return f"{_list(better)} {_verb(better)} better than {known}{gap}{rest}."


def _among_methods(f: _Found) -> str:
    if len(f.order) < 2:
        return "There is no second method to compare with."
    first = f.order[0]
    worse: list[str] = []
    open_: list[str] = []
    for other in f.order[1:]:
        row = next((r for r in f.pairs if {r["a"], r["b"]} == {first, other}), None)
        if row is None or row["p_holm"] is None:
            open_.append(other)
            continue
        gap = row["difference"] if row["a"] == first else -row["difference"]
        (worse if row["p_holm"] <= f.alpha and gap > 0 else open_).append(other)
    if worse and open_:
        return f"{first} is better than {_list(worse)}; between it and {_list(open_)} no difference is shown."
    if worse:
        return f"{first} is better than every other method: {_list(worse)}."
    return f"Between {first} and {_list(open_)} no difference is shown."


def _unsupported(f: _Found, summary: dict[str, Any]) -> list[str]:
    lines = []
    below = [m for m in f.real if m not in f.above]
    if below and f.above:
        lines.append(f"That the maps of {_list(below)} lie on the {_mask(f.mask)} mask more than chance would have it.")
    for c in summary["conclusions"]:
        if c["answer"] in ("not supported", "contradicted"):
            lines.append(f"The study's conclusion “{c['claim']}”. {c['words']}")
    open_ = [c for c in summary["conclusions"] if c["answer"] == "not testable"]
    if open_:
        count = f"{len(open_)} of the study's {len(summary['conclusions'])} conclusions"
        lines.append(f"{count} cannot be tested on these patches; the table below says why.")
    return lines


def _better(row: dict[str, Any], alpha: float) -> bool:
    p, gap = row["p_holm"], row["difference"]
    return p is not None and p <= alpha and gap is not None and gap > 0


def _interval(row: dict[str, Any], level: str) -> str:
    return "" if row["low"] is None else f" ({level} interval {row['low']:.3f} to {row['high']:.3f})"


def _p(row: dict[str, Any]) -> str:
    p = row["above_chance"]["p_holm"]
    return "no test" if p is None else f"p = {p:.2g} after Holm"


def _number(value: float | None) -> str:
    return "no value" if value is None else f"{value:.3f}"


def _verb(names: list[str]) -> str:
    return "are" if len(names) > 1 else "is"


def _mask(name: str) -> str:
    return name.replace("_", "-")


def words_of(metric: str) -> str:
    """A measure as it reads in a sentence."""
    return {"auroc": "pixel AUROC", "iou": "IoU"}.get(metric, metric.replace("_", " "))


def _list(names: list[str]) -> str:
    """A, B and C; of many the first few and how many more."""
    if not names:
        return "none"
    if len(names) > _MANY + 1:
        names = [*names[:_MANY], f"{len(names) - _MANY} more"]
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
