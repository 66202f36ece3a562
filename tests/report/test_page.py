"""The report's page in a real browser: it opens from disk, its controls do what they say, everybody can read it."""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from histoxai.report.figures.style import OVERLAY_COLOURS
from histoxai.store.shards import Store
from tests.conftest import FAST, Mini, done, patch, shows

playwright = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed (`pip install .[dev]`)")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    names = ("chromium", "chromium-browser", "google-chrome")
    found = os.environ.get("HISTOXAI_TEST_CHROMIUM") or next((p for n in names if (p := shutil.which(n))), None)
    if found is None:
        pytest.skip("no Chromium: install Debian's (`apt-get install chromium`), or name one in HISTOXAI_TEST_CHROMIUM")
    with playwright.sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield opened
        opened.close()


class Page:
    """A report opened from disk, without a network; whatever goes wrong in it is kept in `faults`."""

    def __init__(self, browser: Any, report: Path, width: int = 1440, **options: Any) -> None:
        self.context = browser.new_context(viewport={"width": width, "height": 900}, offline=True, **options)
        self.page = self.context.new_page()
        self.faults: list[str] = []
        self.page.on("console", lambda m: self.faults.append(m.text))
        self.page.on("pageerror", lambda e: self.faults.append(str(e)))
        self.page.on("dialog", lambda d: (self.faults.append(d.message), d.dismiss()))
        self.page.on("request", self._asked)
        self.page.goto((report / "index.html").resolve().as_uri())

    def _asked(self, request: Any) -> None:
        if not request.url.startswith("data:") and not request.url.endswith("/index.html"):
            self.faults.append(f"asked for {request.url}")

    def control(self, group: str, label: str) -> Any:
        """The field or slider that a label names within a group of controls."""
        return self.page.locator(f"#{group} label", has_text=label).locator("select, input").first

    def choose(self, group: str, **chosen: str) -> None:
        """Pick values by the words of their labels."""
        for label, value in chosen.items():
            self.control(group, label).select_option(value)

    def rows(self, place: str) -> list[list[str]]:
        """Texts of the cells of a table's body."""
        return self.page.eval_on_selector_all(
            f"#{place} tbody tr", "rows => rows.map(r => [...r.children].map(c => c.textContent))"
        )

    def settled(self) -> None:
        """Wait until the explorer has painted its patch."""
        self.page.wait_for_function("document.querySelectorAll('#explorer-tiles canvas').length > 1")
        self.page.wait_for_timeout(150)


@pytest.fixture
def opened(browser: Any, mini: Mini) -> Iterator[Page]:
    page = Page(browser, mini.report)
    yield page
    page.context.close()
    assert page.faults == []


def score(mini: Mini, profile: str = "corrected") -> dict[str, Any]:
    command = ["score", mini.maps, "--masks", mini.masks, "-o", mini.scores, "--json", "--profile", profile]
    return json.loads(done(*command))


def test_every_mean_of_the_page_is_that_of_score_and_of_data_zarr(opened: Page, mini: Mini) -> None:
    data = Store(mini.report / "data.zarr")
    keys = ("method", "mask", "class", "case", "metric", "profile")
    stored = {
        row[:6]: row[6:]
        for row in zip(
            *(data.read(f"means_{k}").tolist() for k in (*keys, "mean", "low", "high", "chance", "n", "undefined")),
            strict=True,
        )
    }
    opened.choose("table-filters", Measure="any", Mask="any", Class="any", Case="any")
    for profile in ("corrected", "thesis"):
        opened.choose("table-filters", Profile=profile)
        wanted = [r for r in score(mini, profile)["rows"] if r["class"] != "all" and r["case"] != "all"]
        wanted += [r for r in score(mini, profile)["rows"] if r["class"] == "all" or r["case"] == "all"]
        while opened.page.locator("#table-more").is_visible():
            opened.page.click("#table-more")
        seen = {tuple(r[:5]): r[5:] for r in opened.rows("table-body")}
        assert len(seen) == len(wanted)
        words = opened.page.evaluate("data.metrics")
        for row in wanted:
            place = tuple(row[k] for k in keys[:5])
            texts = seen[(*place[:1], place[1].replace("_", "-"), *place[2:4], words[place[4]])]
            assert shows(texts[0], row["mean"])
            assert shows(texts[2], row["chance"])
            ends = ("–", "–") if row["low"] is None else texts[1].split(" to ")
            assert shows(ends[0], row["low"])
            assert shows(ends[1], row["high"])
            assert texts[4:] == [str(row["n"]), str(row["undefined"])]
            mean, low, high, chance, n, undefined = stored[(*place, profile)]
            for got, want in ((mean, row["mean"]), (chance, row["chance"])):
                assert got == pytest.approx(math.nan if want is None else want, abs=1e-12, nan_ok=True)
            assert (texts[1] == "–") == math.isnan(low)
            assert math.isnan(low) or (shows(ends[0], low) and shows(ends[1], high))
            assert (n, undefined) == (row["n"], row["undefined"])


def test_table_sorts_filters_and_sets_profiles_side_by_side(opened: Page, mini: Mini) -> None:
    opened.choose("table-filters", Measure="iou", Class="R1")
    rows = opened.rows("table-body")
    assert [r[0] for r in rows] == ["ig", "nt", "lime", "gradcam"]
    assert {r[2] for r in rows} == {"R1"}
    for _ in range(2):
        opened.page.click("#table-body th button:has-text('mean')")
    values = [float(r[5]) for r in opened.rows("table-body") if r[5] != "–"]
    assert values == sorted(values)
    assert opened.page.get_attribute("#table-body th:has-text('mean')", "aria-sort") == "ascending"
    opened.choose("table-filters", Profile="both")
    by = {
        (p, r["method"]): r
        for p in ("corrected", "thesis")
        for r in score(mini, p)["rows"]
        if (r["metric"], r["mask"], r["class"], r["case"]) == ("iou", "tumor", "R1", "all")
    }
    for row in opened.rows("table-body"):
        assert shows(row[5], by["corrected", row[0]]["mean"])
        assert shows(row[6], by["thesis", row[0]]["mean"])
        pair = [by[p, row[0]]["mean"] for p in ("corrected", "thesis")]
        assert shows(row[7], None if None in pair else pair[1] - pair[0])
    assert "sigmoid" in opened.page.inner_text("#table-why")


def test_slider_moves_means_as_the_stores_curves_have_them(opened: Page, mini: Mini) -> None:
    curves = [r for r in score(mini)["map_thresholds"] if r["mask"] == "non_tumor"]
    opened.choose("cut-controls", Mask="non_tumor")
    for threshold in (0, 17, 100):
        opened.control("cut-controls", "Threshold").fill(str(threshold))
        for row, curve in zip(opened.rows("cut-table"), curves, strict=True):
            assert row[0] == curve["method"]
            assert all(shows(row[n], curve[k][threshold]) for n, k in enumerate(("iou", "precision", "recall"), 1))
    assert opened.page.locator("#cut-chart path.line").count() == 4


def colours(opened: Page, tile: int) -> dict[tuple[int, ...], int]:
    """How many pixels of each colour a canvas has."""
    code = """canvas => {
      const count = {}, d = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
      for (let k = 0; k < d.length; k += 4) { const c = [d[k], d[k+1], d[k+2]]; count[c] = (count[c] || 0) + 1; }
      return count;
    }"""
    found = opened.page.locator("#explorer-tiles canvas").nth(tile).evaluate(code)
    return {tuple(int(v) for v in k.split(",")): n for k, n in found.items()}


def test_explorers_overlay_has_the_pixels_that_were_counted(opened: Page, mini: Mini) -> None:
    scores = Store(mini.scores)
    ids, counts = scores.read("patch_id").tolist(), scores.read("counts")
    opened.settled()
    opened.page.uncheck("#explorer-layers label:has-text('Image') input")
    opened.control("explorer-layers", "Opacity").fill("100")
    for _ in range(3):
        opened.settled()
        title = opened.page.inner_text("#explorer-title")
        row = next(k for k, i in enumerate(ids) if title.startswith(f"{i}: "))
        for palette in ("study", "safe"):
            opened.choose("explorer-layers", Colours=palette)
            opened.settled()
            for method in range(4):
                seen, look = colours(opened, method + 1), OVERLAY_COLOURS[palette]
                tp, fp, fn, _ = counts[row, method, 0]
                assert seen.get(look["map and tumor"], 0) == tp
                assert seen.get(look["tumor"], 0) == fn
                # the rest of the map lies on the non-tumor mask or on neither
                assert seen.get(look["map and non-tumor"], 0) + seen.get(look["map"], 0) == fp
        opened.page.click("#explorer-choice button:has-text('Next')")


def test_the_studys_colours_lie_on_the_unchanged_patch(opened: Page) -> None:
    """Below an overlay that is seen through, the patch keeps its colours under the study's, and is grey under ours."""
    opened.settled()
    opened.control("explorer-layers", "Opacity").fill("0")
    opened.choose("explorer-layers", Colours="study")
    opened.settled()
    patch_tile = colours(opened, 0)
    assert any(max(c) - min(c) > 30 for c in patch_tile)  # pink tissue
    assert colours(opened, 1) == patch_tile
    opened.choose("explorer-layers", Colours="safe")
    opened.settled()
    assert colours(opened, 0) == patch_tile
    assert all(max(c) - min(c) <= 1 for c in colours(opened, 1))


def test_explorers_layers_and_threshold(opened: Page) -> None:
    opened.settled()
    states = [colours(opened, 1)]
    for layer in ("Map", "Signed evidence", "Masks", "Overlay"):
        opened.page.locator("#explorer-layers label", has_text=layer).locator("input[type=checkbox]").click()
        opened.settled()
        states.append(colours(opened, 1))
    opened.control("explorer-layers", "Opacity").fill("20")
    opened.settled()
    states.append(colours(opened, 1))
    assert all(a != b for a, b in pairwise(states))
    opened.page.locator("#explorer-layers label", has_text="Overlay").locator("input[type=checkbox]").click()
    opened.control("explorer-layers", "Map threshold").fill("62")
    assert "Threshold: 0.62" in opened.page.inner_text("#cut-controls")  # one threshold for the page
    assert "map > 0.62" in opened.page.inner_text("#explorer-keys")


def test_explorer_orders_patches(opened: Page, mini: Mini) -> None:
    data = Store(mini.scores)
    ids, label = data.read("patch_id"), data.read("label")
    iou = data.read("values")[:, :, 0, 0, data.header["axes"]["metric"].index("iou")]
    opened.choose("explorer-filters", Class="R1", By="iou", Order="best", Method="gradcam")
    texts = opened.page.locator("#explorer-choice option").all_inner_texts()
    order = [t.split(". ", 1)[1] for t in texts]
    mine = [k for k in range(len(ids)) if label[k] == 2]
    assert sorted(order) == sorted(ids[mine].tolist())
    known = {str(ids[k]): iou[k, 3] for k in mine if np.isfinite(iou[k, 3])}
    got = [round(known[i], 3) for i in order if i in known]
    assert got == sorted(got, reverse=True)
    opened.choose("explorer-filters", Order="apart", Method="all")
    order = [t.split(". ", 1)[1] for t in opened.page.locator("#explorer-choice option").all_inner_texts()]
    span = {str(ids[k]): np.ptp([round(v, 3) for v in iou[k] if np.isfinite(v)] or [0.0]) for k in mine}
    got = [span[i] for i in order]
    np.testing.assert_allclose(got, sorted(got, reverse=True), atol=1e-9)


def test_marks_open_their_patches(opened: Page) -> None:
    canvas = opened.page.locator("#points-canvas")
    canvas.focus()
    for _ in range(3):
        canvas.press("ArrowRight")
    said = opened.page.inner_text("#points-said").rsplit(": ", 1)[0]
    canvas.press("Enter")
    assert opened.page.inner_text("#explorer-title").startswith(f"{said}: ")
    # and with the mouse, where the lit mark is drawn
    canvas.scroll_into_view_if_needed()
    place = opened.page.evaluate(
        """() => {
          const c = document.getElementById("points-canvas");
          const d = c.getContext("2d").getImageData(0, 0, c.width, c.height).data;
          let found = null;
          for (let k = 0; k < d.length; k += 4) if (d[k] === 0 && d[k+1] === 158 && d[k+2] === 115) found = k / 4;
          return found && [found % c.width, Math.floor(found / c.width)];
        }"""
    )
    if place is None:  # no patch is right and sure
        pytest.fail("no mark has the colour of case 1")
    canvas.click(position={"x": place[0], "y": place[1]})
    said = opened.page.inner_text("#points-said").rsplit(": ", 1)[0]
    assert said
    assert opened.page.inner_text("#explorer-title").startswith(f"{said}: ")


def test_theme_switch(opened: Page) -> None:
    paper = "getComputedStyle(document.body).backgroundColor"
    assert opened.page.evaluate(paper) == "rgb(255, 255, 255)"
    opened.page.click("#theme")
    assert opened.page.evaluate(paper) == "rgb(20, 27, 34)"
    opened.page.reload()  # it is remembered
    assert opened.page.evaluate(paper) == "rgb(20, 27, 34)"
    opened.page.click("#theme")
    assert opened.page.evaluate(paper) == "rgb(255, 255, 255)"


def test_without_scripts_and_in_print_figures_stand_in(browser: Any, mini: Mini) -> None:
    page = Page(browser, mini.report, java_script_enabled=False)
    assert page.page.locator(".live:visible").count() == 0
    assert page.page.locator("#theme:visible").count() == 0
    assert page.page.locator("img:visible").count() == page.page.locator("img").count() > 20
    page.context.close()
    page = Page(browser, mini.report)
    assert page.page.locator("figure.twin:visible").count() == 0
    page.page.emulate_media(media="print")
    assert page.page.locator(".live:visible").count() == 0
    assert page.page.locator("figure.twin:visible").count() == page.page.locator("figure.twin").count() == 2
    page.context.close()
    assert page.faults == []


@pytest.mark.parametrize(("width", "scheme"), [(1440, "light"), (1440, "dark"), (390, "light")])
def test_everybody_can_read_it(browser: Any, mini: Mini, width: int, scheme: str) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe is not installed").Axe
    page = Page(browser, mini.report, width, color_scheme=scheme)
    page.settled()
    found = axe().run(page.page).response["violations"]
    serious = [(v["id"], v["nodes"][0]["html"][:200]) for v in found if v["impact"] in ("serious", "critical")]
    assert serious == []
    assert page.page.evaluate("document.documentElement.scrollWidth") == width
    page.context.close()
    assert page.faults == []


HOSTILE = ("<img src=x onerror=alert(1)>", '"quoted" & $x_1$ {{7*7}}', "سرطان‮" + "long" * 40)


def test_hostile_names_show_as_text(browser: Any, mini: Mini, tmp_path: Path) -> None:
    for scan in range(4):
        for label, name in enumerate(HOSTILE):
            folder = tmp_path / "d" / name / f"scan{scan}"
            folder.mkdir(parents=True)
            rng = np.random.default_rng([scan, label])
            for k in range(3):
                Image.fromarray(patch(rng, label)[0]).save(folder / f"{k}'$`.png")
    done("ingest", tmp_path / "d", "-o", tmp_path / "p", "--classes", ",".join(HOSTILE), "--mpp", 0.25)
    done("augment", tmp_path / "p", "-o", tmp_path / "b")
    done("train-cls", tmp_path / "b", "-o", tmp_path / "cls", "--epochs", 1, "--batch-size", 4)
    done("masks", tmp_path / "b", "--model", mini.seg, "-o", tmp_path / "masks")
    explain = ["explain", tmp_path / "b", "--model", tmp_path / "cls", "-o", tmp_path / "maps", *FAST[:2]]
    done(*explain, "--method", "ig")
    done("score", tmp_path / "maps", "--masks", tmp_path / "masks", "-o", tmp_path / "s")
    title = "</script><script>alert(2)</script>"
    done("report", tmp_path / "s", "-o", tmp_path / "r", "--title", title, "--export", tmp_path / "paper")
    page = Page(browser, tmp_path / "r", 390)
    page.settled()
    assert page.page.inner_text("h1") == title
    assert page.page.locator("script").count() == 2
    assert page.page.locator("img[onerror], img[src=x]").count() == 0
    cells = page.page.locator("#table-filters option").all_inner_texts()
    assert all(name in cells for name in HOSTILE)
    names = page.page.locator("th[scope=row]").all_text_contents()
    assert all(name in names for name in HOSTILE)
    assert page.page.evaluate("document.documentElement.scrollWidth") == 390
    page.context.close()
    assert page.faults == []
