"""Write the report's first lines: the question, the answer of the tests, and the claims that they do not support.

Every sentence follows from the numbers of `score --json` and says no more than its test does: a method is shown to beat
chance, a null model or another method if p, corrected after Holm, is at most 1 - level.
"""

from __future__ import annotations

from collections.abc import Iterable

from histoxai.core.digits import signed
from histoxai.report.content import Answer, SectionContent
from histoxai.report.sections.base import ReportInputs, Section, SummaryRow, first_mask
from histoxai.report.wording import count_groups, does_or_do, hyphenated, is_or_are, join_names, measure_in_sentence
from histoxai.score.results import ScoreSummary


def build(inputs: ReportInputs) -> Section[SectionContent]:
    """Build the section that answers whether maps lie on the nuclei of the primary mask."""
    return Section({"answer": write_answer(inputs.summary, inputs.lineage.patches.size)})


def write_answer(summary: ScoreSummary, size: tuple[int, int]) -> Answer:
    """Write question and answer from a summary of the corrected profile; size: height and width of the patches."""
    tests = _MethodTests(summary)
    measure, cancer = measure_in_sentence(summary["statistics"]["primary"]), summary["statistics"]["cancer"]
    question = f"lie where the {hyphenated(tests.mask)} nuclei are?"
    if not tests.methods:
        nothing = "Only null models were explained, which do not depend on the trained network: there is no answer."
        return {"question": f"Do the maps {question}", "answer": [nothing], "unsupported": _unsupported(tests, summary)}
    tumor = f"by their names, {join_names(cancer)} count as tumor" if cancer else "by their names, none has tumor"
    return {
        "question": f"Do the maps of {join_names(tests.methods)} {question} Measured by {measure} on patches "
        f"of {size[1]} × {size[0]} px, {_count(tests, summary)}, over all classes ({tumor}).",
        "answer": [
            _against_chance(tests, measure),
            _against_null_models(tests),
            _among_methods(tests),
            _study_here(summary),
        ],
        "unsupported": _unsupported(tests, summary),
    }


class _MethodTests:
    """The tests on the primary measure and mask.

    rows: the mean row of each method that is no null model; order: those with a value, highest mean first; above,
    below: those shown to differ from chance.
    """

    def __init__(self, summary: ScoreSummary) -> None:
        statistics = summary["statistics"]
        self.alpha, self.level = 1 - statistics["level"], f"{100 * statistics['level']:g} %"
        self.mask = first_mask([row["mask"] for row in summary["rows"]])
        stratum = (self.mask, statistics["primary"], "all", "all")
        rows = {r["method"]: r for r in summary["rows"] if (r["mask"], r["metric"], r["class"], r["case"]) == stratum}
        self.null_models = [name for name in rows if summary["methods"][name]["null"]]
        self.rows = {name: r for name, r in rows.items() if name not in self.null_models}
        self.methods = list(self.rows)
        with_value = [m for m in self.methods if self.rows[m]["mean"] is not None]
        self.order = sorted(with_value, key=lambda m: -(self.rows[m]["mean"] or 0.0))
        self.undefined = [m for m in self.methods if m not in self.order]
        self.above = [m for m in self.order if self._differs(self.rows[m]["above_chance"], 1)]
        self.below = [m for m in self.order if self._differs(self.rows[m]["above_chance"], -1)]
        self.best_null = {r["method"]: r for r in summary["best_null"] if r["mask"] == self.mask}
        self.pairs = [r for r in summary["comparisons"] if r["mask"] == self.mask]

    def _differs(self, row: SummaryRow, sign: int) -> bool:
        difference = row.get("mean", row.get("difference"))
        if row["p_holm"] is None or difference is None:
            return False
        return row["p_holm"] <= self.alpha and sign * difference > 0

    def differing_from_null(self, sign: int) -> list[str]:
        """Methods shown to be better (sign 1) or worse (-1) than the best null model."""
        return [m for m in self.order if m in self.best_null and self._differs(self.best_null[m], sign)]

    def sign_of_difference(self, first: str, other: str) -> int:
        """1 if the first method is shown to be better than the other, -1 if worse, else 0."""
        row = next((r for r in self.pairs if {r["a"], r["b"]} == {first, other}), None)
        if row is None:
            return 0
        sign = 1 if row["a"] == first else -1
        return sign * (int(self._differs(row, 1)) - int(self._differs(row, -1)))


def _count(tests: _MethodTests, summary: ScoreSummary) -> str:
    row = tests.rows[tests.order[0]] if tests.order else None
    if row is None or row["n"] == summary["patches"]:
        return f"{summary['patches']:,} of them from {count_groups(summary['statistics']['groups'])}"
    return f"{row['n']:,} of {summary['patches']:,} with a value, from {count_groups(row['groups'])}"


def _against_chance(tests: _MethodTests, measure: str) -> str:
    if not tests.order:
        mask = hyphenated(tests.mask)
        return f"No answer: {measure} is undefined for every method (no {mask} mask, or nothing but it)."
    best = tests.order[0]
    row = tests.rows[best]
    p = row["above_chance"]["p_holm"]
    reached = f"{measure} {row['mean']:z.3f}{_interval(row, tests.level)}, where chance gives {_number(row['chance'])}"
    below = f" {join_names(tests.below)} {is_or_are(tests.below)} shown to be below chance." if tests.below else ""
    if best in tests.above:
        others = [m for m in tests.above if m != best]
        more = f"; {join_names(others)} {does_or_do(others)} so too" if others else ""
        return f"{best} has the highest mean and beats chance ({reached}; {_p(p)}){more}.{below}"
    if tests.above:
        why = "has no test" if p is None else f"is not shown to beat chance ({_p(p)})"
        above = f"{join_names(tests.above)} {does_or_do(tests.above)} beat it"
        return f"{best} has the highest mean ({reached}) but {why}; {above}.{below}"
    if all(tests.rows[m]["above_chance"]["p_holm"] is None for m in tests.order):
        reasons = (tests.rows[m]["withheld"] for m in tests.order if tests.rows[m]["withheld"])
        reason = next(reasons, "too few groups")
        return f"{best} has the highest mean ({reached}), but nothing can be claimed: tests are withheld ({reason})."
    return f"No method is shown to beat chance: the highest mean is that of {best} ({reached}; {_p(p)}).{below}"


def _against_null_models(tests: _MethodTests) -> str:
    if not tests.null_models:
        return (
            "What a map that does not depend on the trained network would reach is not known: no null model was "
            "explained (add --method random,center,edges,hematoxylin)."
        )
    row = next(iter(tests.best_null.values()), None)
    if row is None or not any(r["difference"] is not None for r in tests.best_null.values()):
        names = join_names(tests.null_models)
        return f"No method can be compared with the null models {names}: there are no patches with both."
    null = f"{row['null']}, the best of the null models explained"
    if all(r["p_holm"] is None for r in tests.best_null.values()):
        return f"Whether any method is better than {null}, is not tested ({_too_few_groups(tests.best_null.values())})."
    better, worse = tests.differing_from_null(1), tests.differing_from_null(-1)
    lower = f" {join_names(worse)} {is_or_are(worse)} shown to be worse." if worse else ""
    if not better:
        return f"No method is shown to be better than {null}.{lower}"
    rest = [m for m in tests.order if m not in better and m not in worse]
    undecided = f"; {join_names(rest)} {is_or_are(rest)} not shown to be" if rest else ""
    difference = f" ({better[0]} by {signed(tests.best_null[better[0]]['difference'])})"
    return f"{join_names(better)} {is_or_are(better)} better than {null}{difference}{undecided}.{lower}"


def _among_methods(tests: _MethodTests) -> str:
    undefined, has = tests.undefined, "have" if len(tests.undefined) > 1 else "has"
    left_out = f" {join_names(undefined)} {has} no value." if undefined else ""
    if len(tests.order) < 2:
        return f"There is no second method with a value to compare with.{left_out}"
    first, *others = tests.order
    if all(r["p_holm"] is None for r in tests.pairs):
        return f"Whether methods differ from each other is not tested ({_too_few_groups(tests.pairs)}).{left_out}"
    signs = {other: tests.sign_of_difference(first, other) for other in others}
    worse, better, undecided = ([m for m in others if signs[m] == sign] for sign in (1, -1, 0))
    parts = []
    if worse:
        every = "every other method, " if len(worse) == len(others) and len(worse) > 1 else ""
        parts.append(f"{first} is better than {every}{join_names(worse)}, on the patches where both have a value")
    if better:
        parts.append(f"there {join_names(better)} {is_or_are(better)} better than {first}")
    if undecided:
        parts.append(f"between {first} and {join_names(undecided)} no difference is shown")
    text = "; ".join(parts)
    # the name of a method keeps its small letter
    return f"{text if worse else text[0].upper() + text[1:]}.{left_out}"


def _study_here(summary: ScoreSummary) -> str:
    # which of the study's conclusions the tests support
    claims = summary["conclusions"]
    held = [c["claim"] for c in claims if c["answer"] == "supported"]
    if not held:
        return f"None of the study's {len(claims)} conclusions is supported on these patches."
    shown = "; ".join(f"“{claim}”" for claim in held)
    return f"{len(held)} of the study's {len(claims)} conclusions {is_or_are(held)} supported here: {shown}."


def _unsupported(tests: _MethodTests, summary: ScoreSummary) -> list[str]:
    lines = []
    rest = [m for m in tests.methods if m not in tests.above]
    if rest and tests.above:
        mask = hyphenated(tests.mask)
        lines.append(f"That the maps of {join_names(rest)} lie on the {mask} mask more than chance would.")
    for c in summary["conclusions"]:
        if c["answer"] in ("not supported", "contradicted"):
            lines.append(f"The study's conclusion “{c['claim']}”. {c['words']}")
    untestable = [c for c in summary["conclusions"] if c["answer"] == "not testable"]
    if untestable:
        count = f"{len(untestable)} of the study's {len(summary['conclusions'])} conclusions"
        lines.append(f"{count} cannot be tested on these patches; the table below says why.")
    return lines


def _too_few_groups(rows: Iterable[SummaryRow]) -> str:
    return f"too few groups: {max((r['groups'] for r in rows), default=0)}"


def _interval(row: SummaryRow, level: str) -> str:
    return "" if row["low"] is None else f" ({level} interval {row['low']:z.3f} to {row['high']:z.3f})"


def _p(p: float | None) -> str:
    return "no test" if p is None else f"p = {p:.2g} after Holm"


def _number(value: float | None) -> str:
    return "no value" if value is None else f"{value:z.3f}"
