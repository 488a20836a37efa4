"""The report: its numbers against independent ones, its page as a browser reads it."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import html5lib
import numpy as np
import pandas as pd
import pytest
from conftest import ToyGenome
from sklearn.pipeline import Pipeline, make_pipeline

from regmask_sk import (
    BinnedSignalRegressor,
    SequenceChannels,
    TSSWindows,
    Windows,
    load_model,
    read_loci,
    read_motif_table,
    regression_metrics,
    write_report,
)
from regmask_sk.cli import main
from regmask_sk.report import write
from regmask_sk.report._data import Genes, _gene_findings, split_parts, validation_of
from regmask_sk.report._page import picture
from regmask_sk.report._results import _LETTERS, _Locus, history_parts
from regmask_sk.report.elements import element_parts, motifs_in, top_elements
from regmask_sk.report.write import _masks, _rows_of_masks, _shown

NAME = "<b>A&B</b>$x$"
UNIT = 'log2 "TPM" <i>'
TINY = [
    "--length", "256", "--d-model", "8", "--n-layers", "1", "--resolution", "8",
    "--sparsity", "0.3", "--max-epochs", "1", "--device", "cpu",
]  # fmt: skip
BROWSER = shutil.which("chromium") or shutil.which("chromium-browser")


def words(*given: object) -> list[str]:
    return [str(word) for word in given]


@pytest.fixture(scope="module")
def run(toy_genome: ToyGenome, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with genes of awkward names, motifs, and what ``regmask fit`` made of them."""
    folder = tmp_path_factory.mktemp("report")
    loci = toy_genome.loci.rename(index={"gene33": NAME, "gene34": "o'neil"})
    loci.to_csv(folder / "genes.tsv", sep="\t")
    tracks = [f"{name}={path}" for name, path in toy_genome.tracks.items()]
    fit = words(
        "fit", "--loci", folder / "genes.tsv", "--tss-base", 0, "--target", "expression",
        "--fasta", toy_genome.fasta, "--track", *tracks, *TINY, "--covariate", "gc",
        "--validation-fraction", 0.3, "--test-chroms", "chr4", "--out", folder / "run",
    )  # fmt: skip
    assert main(fit) == 0
    start = (loci["tss"] - 60).clip(lower=0)
    hits = loci[["chrom"]].assign(start=start, end=start + 10, motif="<TATA&>")
    hits.to_csv(folder / "motifs.tsv", sep="\t", index=False)
    known = pd.DataFrame({"c": loci["chrom"], "s": loci["tss"] + 20, "e": loci["tss"] + 60})
    known.to_csv(folder / "known.bed", sep="\t", index=False, header=False)
    return folder


def report_words(run: Path, out: Path, *more: object) -> list[str]:
    return words(
        "report", "--model", run / "run", "--loci", run / "genes.tsv", "--out", out,
        "--unit", UNIT, "--threshold", 0.2, "--motifs", run / "motifs.tsv",
        "--known", run / "known.bed", "--genes", f"{NAME},o'neil", *more,
    )  # fmt: skip


@pytest.fixture(scope="module")
def page(run: Path) -> Path:
    out = run / "report.html"
    assert main(report_words(run, out)) == 0
    return out


def tree_of(path: Path) -> Any:
    parser = html5lib.HTMLParser(strict=True, namespaceHTMLElements=False)
    return parser.parse(path.read_text(encoding="utf-8"))


def text_of(element: Any) -> str:
    return " ".join("".join(element.itertext()).split())


def table_of(tree: Any, caption: str) -> pd.DataFrame:
    for table in tree.iter("table"):
        if text_of(table.find("caption")).startswith(caption):
            rows = [[text_of(cell) for cell in row] for row in table.find("tbody")]
            columns = [text_of(cell) for cell in table.find("thead")[0]]
            return pd.DataFrame(rows, columns=columns).set_index(columns[0])
    raise AssertionError(f"no table {caption!r}")


def loaded(run: Path) -> tuple[Any, pd.DataFrame]:
    return load_model(run / "run" / "model"), read_loci(run / "genes.tsv", tss_base=0)


# --- the page ----------------------------------------------------------------------------------


def test_the_page_is_html_that_needs_nothing_else(page: Path) -> None:
    tree = tree_of(page)  # strict: a parse error is an error
    text = page.read_text(encoding="utf-8")
    assert tree.get("lang") == "en"
    assert not list(tree.iter("script"))
    assert not list(tree.iter("link"))
    assert not re.search(r"https?://|url\(|@import", text)
    images = list(tree.iter("img"))
    assert len(images) == 6  # training, accuracy, profile, heat map and two loci
    for image in images:
        assert image.get("src").startswith("data:image/svg+xml;base64,")
        assert len(image.get("alt")) > 20
    identifiers = [element.get("id") for element in tree.iter() if element.get("id")]
    assert len(set(identifiers)) == len(identifiers)
    links = [link.get("href") for link in tree.iter("a")]
    assert len(links) == 8
    assert {link.removeprefix("#") for link in links} <= set(identifiers)
    labels = [e.get("aria-labelledby") for e in tree.iter("section")]
    assert set(labels) <= set(identifiers)


def test_names_of_genes_are_text_and_not_markup(page: Path) -> None:
    tree = tree_of(page)
    assert not list(tree.iter("b"))
    assert not list(tree.iter("i"))
    captions = [text_of(caption) for caption in tree.iter("figcaption")]
    assert any(caption.startswith(NAME) for caption in captions)
    assert any(caption.startswith("o'neil") for caption in captions)
    assert any(NAME in image.get("alt") for image in tree.iter("img"))


@pytest.mark.skipif(BROWSER is None, reason="no chromium; install it to open the page")
def test_a_browser_opens_the_page_without_a_word_in_its_console(page: Path, tmp_path: Path) -> None:
    command = [
        str(BROWSER), "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr",
        f"--user-data-dir={tmp_path / 'profile'}", "--virtual-time-budget=5000",
    ]  # fmt: skip

    def opened(file: Path) -> tuple[str, list[str]]:
        done = subprocess.run(
            [*command, "--dump-dom", file.as_uri()], capture_output=True, text=True, timeout=120
        )
        return done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line]

    # A page that does what the report forbids itself is complained about: the test can fail.
    wrong = tmp_path / "wrong.html"
    text = page.read_text(encoding="utf-8")
    wrong.write_text(text.replace("</body>", "<script>1</script></body>"), encoding="utf-8")
    assert opened(wrong)[1]
    seen, console = opened(page)
    assert console == []
    assert text_of(html5lib.parse(seen, namespaceHTMLElements=False)) == text_of(tree_of(page))


def test_the_same_input_gives_the_same_file(run: Path, page: Path, tmp_path: Path) -> None:
    again = tmp_path / "again.html"
    assert main(report_words(run, again)) == 0

    def without_command(path: Path) -> str:
        return path.read_text(encoding="utf-8").replace(str(path), "FILE")

    assert without_command(again) == without_command(page)


def test_pictures_are_the_same_bytes_and_keep_the_alt_text() -> None:
    def draw(ax: Any) -> None:
        ax.plot([1, 2, 3])

    one, other = (picture(draw, size=(2, 2), alt="a", caption="c") for _ in range(2))
    assert one == other
    assert (one.alt, one.caption) == ("a", "c")


# --- its numbers -------------------------------------------------------------------------------


def test_scores_are_those_of_the_model_and_of_a_ridge(run: Path, page: Path) -> None:
    model, loci = loaded(run)
    test = (loci["chrom"] == "chr4").to_numpy()
    y = loci["expression"].to_numpy()
    windows = model[:-1].transform(loci)
    ridge = BinnedSignalRegressor(bin_size=50, covariates=("gc",)).fit(windows[~test], y[~test])
    expected = {
        "this model": model.predict(loci[test]),
        "mean of the training genes": np.full(test.sum(), y[~test].mean()),
        "ridge on tracks in bins of 50 bp": ridge.predict(windows[test]),
    }
    found = table_of(tree_of(page), "Scores of 10 test genes")
    assert list(found.index) == list(expected)
    for name, predicted in expected.items():
        scores = regression_metrics(y[test], predicted)
        assert float(found.loc[name, "mean squared error"]) == pytest.approx(
            scores["mse"], rel=6e-3
        )
        if name != "mean of the training genes":
            assert float(found.loc[name, "Pearson"]) == pytest.approx(scores["pearson"], rel=6e-3)
    summary = table_of(tree_of(page), "Of test genes")["value"]
    assert summary["share of bases kept"] == f"{model[-1].transform(windows[test]).mean():.1%}"
    assert "Predictions of 10 genes are those that the fit has written" in page.read_text()


def test_splits_are_those_of_the_fit(run: Path, page: Path) -> None:
    model, loci = loaded(run)
    test = (loci["chrom"] == "chr4").to_numpy()
    y = loci["expression"].to_numpy()
    valid = validation_of(model[-1], model[:-1].transform(loci), test)
    assert valid.sum() == 10
    assert not (valid & test).any()
    # What the fit has standardised by, which is the mean of the genes that it trained on.
    assert y[~test & ~valid].mean() == pytest.approx(float(model[-1].target_mean_[0]))
    found = table_of(tree_of(page), "Genes by chromosome")
    assert found.loc["all"].tolist() == ["20", "10", "10"]
    assert found.loc["chr4"].tolist() == ["0", "0", "10"]
    named = model[-1].set_params(validation_chroms=["chr2"])
    chosen = validation_of(named, model[:-1].transform(loci), test)
    assert (chosen == (loci["chrom"] == "chr2").to_numpy()).all()


def test_coverage_is_that_of_the_files(run: Path, page: Path, toy_genome: ToyGenome) -> None:
    found = table_of(tree_of(page), "Files, and what they hold in all windows")
    windows = TSSWindows(256).fit_transform(toy_genome.loci)
    for name, values in toy_genome.values.items():
        held = []
        for row in range(len(windows)):
            i = windows.interval(row)
            whole = values[i.chrom]
            at = np.arange(i.start, i.end)
            inside = (at >= 0) & (at < len(whole))
            held.append(np.where(inside, whole[np.clip(at, 0, len(whole) - 1)], np.nan))
        flat = np.concatenate(held)
        finite = flat[np.isfinite(flat)]
        line = found.loc[name]
        assert float(line["bases with a value (%)"]) == pytest.approx(
            100 * len(finite) / len(flat), rel=6e-3
        )
        assert float(line["median"]) == pytest.approx(np.median(finite), rel=6e-3)
        assert float(line["maximum"]) == pytest.approx(finite.max(), rel=6e-3)
    assert "counts has a value for" in page.read_text()


def test_how_to_reproduce_it(run: Path, page: Path) -> None:
    tree = tree_of(page)
    commands = [text_of(code) for code in tree.iter("code")]
    assert commands[0].startswith("regmask fit --loci ")
    assert commands[1].startswith("regmask report --model ")
    facts = table_of(tree, "Seeds and versions")["value"]
    assert facts["random_state of model"] == "0"
    assert facts["numpy of the fit"] == np.__version__
    assert facts["numpy of this report"] == np.__version__
    given = table_of(tree, "Parameters of every step")["value"]
    assert given["model: sparsity"] == "0.3"


# --- what it warns of --------------------------------------------------------------------------


def findings_of(tree: Any) -> list[str]:
    return [text_of(item) for part in tree.iter("ul") if part.get("class") == "checks"
            for item in part]  # fmt: skip


def test_changed_predictions_and_a_model_without_test_are_warned_of(
    run: Path, tmp_path: Path
) -> None:
    changed = tmp_path / "run"
    shutil.copytree(run / "run", changed)
    table = pd.read_csv(changed / "predictions.tsv", sep="\t")
    table.loc[0, "predicted"] += 0.5
    table.to_csv(changed / "predictions.tsv", sep="\t", index=False)
    out = tmp_path / "report.html"
    base = words("report", "--model", changed, "--loci", run / "genes.tsv", "--out", out, "--force")
    assert main([*base, "--no-baselines", "--test-chroms", "chr3,chr4"]) == 0
    warned = [text for text in findings_of(tree_of(out)) if text.startswith("warning")]
    assert any("not those that the fit has written: 10 genes" in text for text in warned)
    assert any("the greatest difference 0.5" in text for text in warned)
    assert len(table_of(tree_of(out), "Scores of 20 test genes")) == 1

    described = json.loads((changed / "model" / "model.json").read_text())
    described["notes"] = {"target": "expression"}
    (changed / "model" / "model.json").write_text(json.dumps(described))
    assert main([*base, "--no-baselines"]) == 0
    assert any("No genes were held out" in text for text in findings_of(tree_of(out)))
    assert "Scores of 40 training genes" in out.read_text()


def genes_of(loci: pd.DataFrame, y: Any, test: Any = None) -> Genes:
    none = np.zeros(len(loci), dtype=bool)
    windows = Windows(loci, length=100)
    return Genes(loci, np.asarray(y, float), windows, none if test is None else test, none)


def table(n: int = 6, step: int = 1_000) -> pd.DataFrame:
    return pd.DataFrame(
        {"chrom": "chr1", "tss": np.arange(n) * step + 500, "strand": "+"},
        index=[f"g{i}" for i in range(n)],
    )


def test_genes_are_checked() -> None:
    def told(loci: pd.DataFrame, y: Any) -> str:
        return " ".join(f"{f.level}: {f.text}" for f in _gene_findings(genes_of(loci, y), "level"))

    plain = told(table(), range(6))
    assert "6 genes, chromosomes: 1," in plain
    assert "warning" not in plain
    assert "5 genes have the chromosome, TSS and strand of another" in told(table(step=0), range(6))
    assert "warning: 1 names of genes occur more than once" in told(
        table().rename(index={"g1": "g0"}), range(6)
    )
    assert "warning: level is the same for all genes" in told(table(), np.full(6, 0.1))
    assert "level is 0 for 33% of the genes" in told(table(), [0, 0, 1, 2, 3, 4])
    many = table(200)
    assert "warning: level has a long tail" in told(many, np.exp(np.linspace(0, 9, 200) ** 1.5))
    assert "long tail" not in told(many, np.linspace(0, 9, 200))


def test_overlapping_windows_are_warned_of() -> None:
    test = np.array([True, True, False, False, False, False])
    (_, apart), _ = split_parts(genes_of(table(), range(6), test), "by hand")
    assert [finding.level for finding in apart] == ["good", "note"]
    (_, near), _ = split_parts(genes_of(table(step=60), range(6), test), "by hand")
    assert near[0].level == "warning"
    assert near[0].text.startswith("1 of 4 windows of training genes overlap")


def test_a_history_need_not_be_there() -> None:
    ((kind, text),) = history_parts(None)
    assert kind == "text"
    assert "no history" in text
    only = pd.DataFrame({"epoch": [1], "train_loss": [0.5]})
    shown = dict(history_parts(only))["table"]
    assert shown.rows == [["training", "1", "n/a", "0.500", "n/a", "n/a"]]


# --- elements ----------------------------------------------------------------------------------


class Linear:
    """Predicts the weighted sum of what a mask keeps."""

    promoter_columns_ = slice(95, 105)
    weights = np.arange(200.0)

    def predict_masked(self, X: Windows, masks: np.ndarray) -> np.ndarray:
        assert len(X) == len(masks)
        return masks @ self.weights


class Sized:
    """A source without channels that knows how long the chromosome is."""

    channel_names = ()
    readers = (SimpleNamespace(chrom_sizes={"chr1": 10_000}),)


def test_effects_of_elements_by_hand() -> None:
    loci = pd.DataFrame(
        {"chrom": "chr1", "tss": [1_000, 5_000], "strand": ["+", "-"]}, index=["a", "b"]
    )
    windows = Windows(loci, length=200, sources=(Sized(),))
    none = np.zeros(2, dtype=bool)
    genes = Genes(loci, np.zeros(2), windows, none, none)
    masks = np.zeros((2, 200), np.float32)
    masks[:, 95:105] = 1.0
    masks[0, 10:30] = 0.5  # upstream of the gene on the plus strand
    masks[1, 150:180] = 0.75  # downstream of that on the minus strand
    calling = {"threshold": 0.4, "min_width": 5, "merge_gap": 0}
    found = top_elements(genes, Linear(), np.arange(2), masks, calling=calling)
    assert found["gene"].tolist() == ["b", "a"]  # the promoters are none
    assert found["mask"].tolist() == [0.75, 0.5]
    assert found["effect"].tolist() == pytest.approx(
        [0.75 * sum(range(150, 180)), 0.5 * sum(range(10, 30))]
    )
    assert found["distance"].tolist() == [64, -81]
    # Column 100 is the TSS: on the minus strand column j is position tss + 100 - j.
    assert found[["start", "end"]].to_numpy().tolist() == [[4_921, 4_951], [910, 930]]
    shown = dict(element_parts(found, None, n_shown=1, calling=calling))["table"]
    assert shown.rows == [["b", "chr1:4,921-4,951", "30", "+64", "0.750", "3,701"]]
    unscored = top_elements(genes, object(), np.arange(2), masks, calling=calling)
    assert unscored["effect"].isna().all()
    assert len(unscored) == 4  # nothing says where the promoter is
    empty = top_elements(genes, Linear(), np.arange(2), masks * 0, calling=calling)
    assert "No element was called" in element_parts(empty, None, n_shown=1, calling=calling)[1][1]


def test_motifs_are_sorted_and_cut() -> None:
    hits = pd.DataFrame(
        {
            "chrom": ["I"] * 6 + ["II"],
            "start": [10, 20, 20, 30, 40, 95, 10],
            "end": [20, 30, 30, 40, 50, 105, 20],
            "motif": list("AABCDEF"),
            "p_value": [0.5, 0.01, 0.2, 0.3, 0.4, 0.0, 0.0],
        }
    )
    elements = pd.DataFrame({"chrom": ["I", "II", "III"], "start": [10, 0, 0], "end": [100] * 3})
    assert motifs_in(hits, elements) == ["A, B, C, D", "F", "none"]
    more = pd.concat([hits, hits.iloc[:1].assign(motif="G", p_value=0.9)])
    assert motifs_in(more, elements)[0] == "A, B, C, D and 1 more"


def test_tables_of_motifs_are_checked(tmp_path: Path) -> None:
    path = tmp_path / "motifs.tsv"
    path.write_text("chrom\tstart\tend\tname\nI\t1\t2\tx\n")
    with pytest.raises(ValueError, match="lacks the column 'motif'"):
        read_motif_table(path)
    path.write_text("chrom\tstart\tend\tmotif\nI\t5\t2\tx\n")
    with pytest.raises(ValueError, match="end < start"):
        read_motif_table(path)


# --- what is refused ---------------------------------------------------------------------------


def test_what_does_not_fit_is_refused(run: Path, tmp_path: Path) -> None:
    model, loci = loaded(run)
    out = tmp_path / "x.html"
    y = loci["expression"].to_numpy()
    with pytest.raises(TypeError, match="model is a RegMaskRegressor; expected a fitted Pipeline"):
        write_report(out, model[-1], loci, y)
    with pytest.raises(ValueError, match=r"y has shape \(39,\)"):
        write_report(out, model, loci, y[1:])
    with pytest.raises(ValueError, match="test_chroms has all chromosomes"):
        write_report(out, model, loci, y, test_chroms=["chr1", "chr2", "chr3", "chr4"])
    with pytest.raises(
        ValueError, match=r"show names \['gene00'\], which the model was trained on"
    ):
        write_report(out, model, loci, y, test_chroms=["chr4"], show=["gene00"], baselines=False)
    assert not out.exists()


def test_the_command_checks_its_words(
    run: Path, page: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def last_of(*more: object, out: Path = tmp_path / "r.html") -> str:
        base = words("report", "--model", run / "run", "--loci", run / "genes.tsv", "--out", out)
        assert main([*base, *words(*more)]) == 1
        return capsys.readouterr().err.splitlines()[-1]

    assert "exists; pass --force" in last_of(out=page)
    assert "--test-chroms: the loci have no chromosome ['chrZ']" in last_of("--test-chroms", "chrZ")
    assert "lacks the column 'motif'" in last_of("--motifs", run / "known.bed")
    assert "0 rows have the name 'nobody'" in last_of("--genes", "nobody", "--no-baselines")


def test_without_matplotlib_the_error_says_how_to_install_it(
    run: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r'regmask report needs matplotlib.*"regmask_sk\[plot\]"'):
        write_report(tmp_path / "x.html", Pipeline([("a", None)]), pd.DataFrame(), [])


@pytest.mark.parametrize("strand", ["+", "-"])
def test_the_most_open_element_outside_of_the_promoter_is_drawn_as_letters(
    toy_genome: ToyGenome, strand: str
) -> None:
    loci = toy_genome.loci.iloc[[0]].assign(tss=1_000, strand=strand)
    steps = make_pipeline(TSSWindows(512), SequenceChannels(toy_genome.fasta))
    windows = steps.fit_transform(loci)
    genes = Genes(loci, np.zeros(1), windows, np.array([True]), np.array([False]))
    mask = np.zeros(512)
    mask[20:60], mask[246:266], mask[400:440] = 0.7, 1.0, 0.9

    class Masks:
        promoter_columns_ = slice(240, 270)

        def transform(self, X: Any, return_std: bool = False) -> Any:
            return (mask[None], np.full((1, 512), 0.05)) if return_std else mask[None]

    calling = {"threshold": 0.5, "min_width": 20, "merge_gap": 50}
    locus = _Locus(genes, Masks(), 0, mask, {}, calling)
    assert locus.options["std"].max() == 0.05
    assert "one standard deviation" in locus.whole().caption
    [picture_] = locus.strongest()
    start = 1_000 + (400 - 256) if strand == "+" else 1_000 - (400 - 256) - 39
    assert f"chr1:{start + 1:,}-{start + 40:,}" in picture_.caption
    assert _LETTERS <= 160  # at which the sequence is drawn
    mask[:240] = mask[270:] = 0.0
    assert _Locus(genes, Masks(), 0, mask, {}, calling).strongest() == []


# --- which masks are shown ---------------------------------------------------------------------


def test_masks_of_some_genes_and_of_those_that_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    loci, test = table(50), np.arange(50) >= 10
    genes = genes_of(loci, np.arange(50.0), test)
    assert _rows_of_masks(genes, [], 0).tolist() == list(range(10, 50))
    monkeypatch.setattr(write, "_MOST_GENES", 5)
    drawn = _rows_of_masks(genes, [], 0)
    assert len(drawn) == 5
    assert drawn.min() >= 10
    assert not np.array_equal(drawn, _rows_of_masks(genes, [], 1))
    with_named = _rows_of_masks(genes, ["g11", "g49", "g3"], 0)
    assert {11, 49} <= set(with_named.tolist())
    assert 3 not in with_named
    assert _shown(genes, with_named, ["g49"]) == [len(with_named) - 1]
    # The highest, the middle and the lowest value, without a name.
    assert _shown(genes, np.array([20, 40, 30]), []) == [1, 2, 0]
    assert _shown(genes, np.array([20]), []) == [0]
    monkeypatch.setattr(write, "_MOST_BASES", 250)  # of windows of 100 bp
    assert len(_rows_of_masks(genes, [], 0)) == 2


def test_what_is_no_mask_is_not_shown_as_one() -> None:
    windows = Windows(table(3), length=100)

    def found(made: Any) -> Any:
        return _masks(SimpleNamespace(transform=lambda X: made), windows)

    assert found(np.ones((3, 100))) is not None
    assert found(np.ones((3, 5))) is None  # a score for each of five elements
    assert found(np.full((3, 100), 2.0)) is None
    assert _masks(object(), windows) is None
