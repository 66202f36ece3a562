"""The report's first lines: the question, the answer the tests give, and what they do not support.

Every sentence follows from the numbers of `score --json` and says no more than its test does: a method is shown to beat
chance, a null model or another method where p, corrected after Holm, is at or below 1 - level.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

_MANY = 4  # names in a row


def answer(summary: dict[str, Any], size: tuple[int, int]) -> dict[str, Any]:
    """`question`, `answer` (three sentences) and `unsupported` (what a reader must not take from it).

    summary: of `score` in the corrected profile. size: height and width of the patches.
    """
    primary = summary["statistics"]["primary"]
    mask = "tumor" if any(r["mask"] == "tumor" for r in summary["rows"]) else summary["rows"][0]["mask"]
    found = _Found(summary, mask, primary)
    words, cancer = words_of(primary), summary["statistics"]["cancer"]
    tumor = f"by their names, {list_of(cancer)} count as tumor" if cancer else "by their names, none has tumor"
    question = (
        f"Do the maps of {list_of(found.real)} lie where the {_mask(mask)} nuclei are? Measured by {words} on patches "
        f"of {size[1]} × {size[0]} px, {_count(found, summary)}, over all classes ({tumor})."
    )
    if not found.real:
        question = f"Do the maps lie where the {_mask(mask)} nuclei are?"
        nothing = "No method was explained but null models, which know nothing of the network: there is no answer."
        return {"question": question, "answer": [nothing], "unsupported": _unsupported(found, summary)}
    return {
        "question": question,
        "answer": [_against_chance(found, words), _against_null(found), _among_methods(found)],
        "unsupported": _unsupported(found, summary),
    }


class _Found:
    """What the tests say of one mask and measure: rows by method, their order, who is above or below chance."""

    def __init__(self, summary: dict[str, Any], mask: str, primary: str) -> None:
        self.alpha = 1 - summary["statistics"]["level"]
        self.mask, self.level = mask, f"{100 * summary['statistics']['level']:g} %"
        everything = {
            r["method"]: r
            for r in summary["rows"]
            if (r["mask"], r["metric"], r["class"], r["case"]) == (mask, primary, "all", "all")
        }
        self.nulls = [name for name in everything if summary["methods"][name]["null"]]
        self.rows = {name: r for name, r in everything.items() if name not in self.nulls}
        self.real = list(self.rows)
        self.order = sorted(
            (m for m in self.real if self.rows[m]["mean"] is not None), key=lambda m: -self.rows[m]["mean"]
        )
        self.undefined = [m for m in self.real if m not in self.order]
        self.above = [m for m in self.order if self._differs(self.rows[m]["above_chance"], 1)]
        self.below = [m for m in self.order if self._differs(self.rows[m]["above_chance"], -1)]
        self.against = {r["method"]: r for r in summary["best_null"] if r["mask"] == mask}
        self.pairs = [r for r in summary["comparisons"] if r["mask"] == mask]

    def _differs(self, row: dict[str, Any], sign: int) -> bool:
        gap = row.get("mean", row.get("difference"))
        return row["p_holm"] is not None and row["p_holm"] <= self.alpha and gap is not None and sign * gap > 0

    def over_null(self, sign: int) -> list[str]:
        return [m for m in self.order if m in self.against and self._differs(self.against[m], sign)]

    def over(self, first: str, other: str) -> int:
        """1 where the first is shown to be better than the other, -1 where worse, else 0."""
        row = next((r for r in self.pairs if {r["a"], r["b"]} == {first, other}), None)
        if row is None:
            return 0
        sign = 1 if row["a"] == first else -1
        return sign * (int(self._differs(row, 1)) - int(self._differs(row, -1)))


def _count(f: _Found, summary: dict[str, Any]) -> str:
    row = f.rows[f.order[0]] if f.order else None
    if row is None or row["n"] == summary["patches"]:
        return f"{summary['patches']:,} of them from {_groups(summary['statistics']['groups'])}"
    return f"{row['n']:,} of {summary['patches']:,} with a value, from {_groups(row['groups'])}"


def _groups(n: int) -> str:
    return f"{n:,} group{'' if n == 1 else 's'}"


def _against_chance(f: _Found, words: str) -> str:
    if not f.order:
        return f"No answer: {words} is undefined for every method (no {_mask(f.mask)} mask, or nothing but it)."
    best = f.order[0]
    row = f.rows[best]
    test = row["above_chance"]["p_holm"]
    reached = f"{words} {row['mean']:.3f}{_interval(row, f.level)}, where chance gives {_number(row['chance'])}"
    lower = f" {list_of(f.below)} {verb(f.below)} shown to be below chance." if f.below else ""
    if best in f.above:
        others = [m for m in f.above if m != best]
        more = f"; {list_of(others)} {'do' if len(others) > 1 else 'does'} so too" if others else ""
        return f"{best} has the highest mean and beats chance ({reached}; {_p(test)}){more}.{lower}"
    if f.above:
        why = "has no test" if test is None else f"is not shown to beat chance ({_p(test)})"
        do = "do" if len(f.above) > 1 else "does"
        return f"{best} has the highest mean ({reached}) but {why}; {list_of(f.above)} {do} beat it.{lower}"
    if all(f.rows[m]["above_chance"]["p_holm"] is None for m in f.order):
        why = next((f.rows[m]["withheld"] for m in f.order if f.rows[m]["withheld"]), "too few groups")
        return f"{best} has the highest mean ({reached}), but nothing can be claimed: tests are withheld ({why})."
    return f"No method is shown to beat chance: the highest mean is that of {best} ({reached}; {_p(test)}).{lower}"


def _against_null(f: _Found) -> str:
    if not f.nulls:
        return (
            "What a map that knows nothing of the network would reach is not known: no null model was explained "
            "(add --method random,center,edges,hematoxylin)."
        )
    row = next(iter(f.against.values()), None)
    if row is None or not any(f.against[m]["difference"] is not None for m in f.against):
        return f"No method can be compared with the null models {list_of(f.nulls)}: there are no patches with both."
    null = f"{row['null']}, the best of the null models explained"
    if all(r["p_holm"] is None for r in f.against.values()):
        return f"Whether any method is better than {null}, is not tested ({_few(f.against.values())})."
    better, worse = f.over_null(1), f.over_null(-1)
    lower = f" {list_of(worse)} {verb(worse)} shown to be worse." if worse else ""
    if not better:
        return f"No method is shown to be better than {null}.{lower}"
    rest = [m for m in f.order if m not in better and m not in worse]
    open_ = f"; {list_of(rest)} {verb(rest)} not shown to be" if rest else ""
    gap = f" ({better[0]} by {f.against[better[0]]['difference']:+.3f})"
    return f"{list_of(better)} {verb(better)} better than {null}{gap}{open_}.{lower}"


def _among_methods(f: _Found) -> str:
    left_out = f" {list_of(f.undefined)} {'have' if len(f.undefined) > 1 else 'has'} no value." if f.undefined else ""
    if len(f.order) < 2:
        return f"There is no second method with a value to compare with.{left_out}"
    first, *others = f.order
    if all(r["p_holm"] is None for r in f.pairs):
        return f"Whether methods differ from each other is not tested ({_few(f.pairs)}).{left_out}"
    found = {other: f.over(first, other) for other in others}
    worse, better = ([m for m in others if found[m] == sign] for sign in (1, -1))
    open_ = [m for m in others if found[m] == 0]
    parts = []
    if worse:
        every = "every other method, " if len(worse) == len(others) and len(worse) > 1 else ""
        parts.append(f"{first} is better than {every}{list_of(worse)}, on the patches where both have a value")
    if better:
        parts.append(f"there {list_of(better)} {verb(better)} better than {first}")
    if open_:
        parts.append(f"between {first} and {list_of(open_)} no difference is shown")
    text = "; ".join(parts)
    return f"{text[0].upper() if text.startswith(('between', 'there')) else text[0]}{text[1:]}.{left_out}"


def _unsupported(f: _Found, summary: dict[str, Any]) -> list[str]:
    lines = []
    rest = [m for m in f.real if m not in f.above]
    if rest and f.above:
        lines.append(
            f"That the maps of {list_of(rest)} lie on the {_mask(f.mask)} mask more than chance would have it."
        )
    for c in summary["conclusions"]:
        if c["answer"] in ("not supported", "contradicted"):
            lines.append(f"The study's conclusion “{c['claim']}”. {c['words']}")
    open_ = [c for c in summary["conclusions"] if c["answer"] == "not testable"]
    if open_:
        count = f"{len(open_)} of the study's {len(summary['conclusions'])} conclusions"
        lines.append(f"{count} cannot be tested on these patches; the table below says why.")
    return lines


def _few(rows: Iterable[Mapping[str, Any]]) -> str:
    # why none of these rows has a p
    return f"too few groups: {max((r['groups'] for r in rows), default=0)}"


def _interval(row: dict[str, Any], level: str) -> str:
    return "" if row["low"] is None else f" ({level} interval {row['low']:.3f} to {row['high']:.3f})"


def _p(p: float | None) -> str:
    return "no test" if p is None else f"p = {p:.2g} after Holm"


def _number(value: float | None) -> str:
    return "no value" if value is None else f"{value:.3f}"


def verb(names: list[str]) -> str:
    return "are" if len(names) > 1 else "is"


def _mask(name: str) -> str:
    return name.replace("_", "-")


def words_of(metric: str) -> str:
    """A measure as it reads in a sentence."""
    return {"auroc": "pixel AUROC", "iou": "IoU"}.get(metric, metric.replace("_", " "))


def list_of(names: list[str]) -> str:
    """A, B and C; of many the first few and how many more."""
    if not names:
        return "none"
    if len(names) > _MANY + 1:
        names = [*names[:_MANY], f"{len(names) - _MANY} more"]
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
