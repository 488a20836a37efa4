"""GraphReg: its graphs, its target track, its strands, and what it refuses."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import SIZES, ToyGenome, write_bigwig
from cool_files import maps, write_cool
from sklearn.pipeline import Pipeline, make_pipeline

from regmask_sk.baselines._bin_tower import BinLayout
from regmask_sk.baselines._graphreg_model import BinnedTarget, poisson_loss
from regmask_sk.baselines.graphreg import GraphRegRegressor
from regmask_sk.features import SequenceChannels, SignalChannels, TSSWindows
from regmask_sk.persistence import load_model, save_model
from regmask_sk.windows import Windows

TINY: dict[str, Any] = {
    "bin_size": 8, "resolution": 2, "d_model": 8, "n_heads": 2, "n_layers": 1, "max_epochs": 1,
    "random_state": 0, "device": "cpu", "dropout": 0.0,
}  # fmt: skip


@pytest.fixture
def windows(toy_genome: ToyGenome) -> Windows:
    pipe = make_pipeline(
        TSSWindows(64, jitter=2),
        SequenceChannels(toy_genome.fasta),
        SignalChannels({"ratio": toy_genome.tracks["ratio"]}),
    )
    return pipe.fit_transform(toy_genome.loci)


@pytest.fixture
def y(toy_genome: ToyGenome) -> np.ndarray:
    return toy_genome.loci["expression"].to_numpy()


def write_loops(path: Path) -> Path:
    """Loops all along the chromosomes, of 16 to 30 bp."""
    lines = ["#chrom1\tstart1\tend1\tchrom2\tstart2\tend2\tname"]
    for chrom, size in SIZES.items():
        for start in range(0, size - 40, 10):
            lines.append(f"{chrom}\t{start}\t{start + 5}\t{chrom}\t{start + 21}\t{start + 26}\tx")
    path.write_text("\n".join(lines) + "\n")
    return path


def test_it_learns_what_a_window_holds() -> None:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(200, 2, 64)).astype(np.float32)
    y = rng.normal(size=200)
    X[:, 1, 28:36] += y[:, None]
    model = GraphRegRegressor(
        **{**TINY, "max_epochs": 20}, validation_fraction=0.0, ema_decay=0.9, learning_rate=0.02,
    ).fit(X[:150], y[:150])  # fmt: skip
    assert model.score(X[150:], y[150:]) > 0.5


def test_contacts_carry_what_is_far_away() -> None:
    """The signal is beyond what the tower reads; only the graph can bring it to the TSS."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(200, 1, 208)).astype(np.float32)
    y = rng.normal(size=200)
    X[:, 0, :16] += y[:, None]
    settings: dict[str, Any] = {
        **TINY, "bin_size": 16, "resolution": 4, "max_epochs": 15, "validation_fraction": 0.0,
        "ema_decay": 0.9, "learning_rate": 0.02,
    }  # fmt: skip
    near = GraphRegRegressor(**settings, max_distance=0).fit(X[:150], y[:150])
    far = GraphRegRegressor(**settings, max_distance=200).fit(X[:150], y[:150])
    assert near.score(X[150:], y[150:]) < 0.1
    assert far.score(X[150:], y[150:]) > 0.3


@pytest.mark.parametrize("graph", ["distance", "loops", "contacts"])
def test_graphs_from_files(
    toy_genome: ToyGenome, windows: Windows, y: np.ndarray, tmp_path: Path, graph: str
) -> None:
    options: dict[str, Any] = {"max_distance": 16}
    if graph == "loops":
        options = {"loops": write_loops(tmp_path / "loops.bedpe")}
    if graph == "contacts":
        cool = write_cool(tmp_path / "x.cool", SIZES, 8, maps(SIZES, 8))
        options = {"contacts": cool, "balance": False}
    model = GraphRegRegressor(**TINY, reverse_complement="augment", **options).fit(windows, y)
    predicted = model.predict(windows)
    assert np.isfinite(predicted).all()
    np.testing.assert_array_equal(model.predict(windows[[7, 3]]), predicted[[7, 3]])
    apart = GraphRegRegressor(**TINY, reverse_complement="augment", max_distance=0)
    assert not np.array_equal(apart.fit(windows, y).predict(windows), predicted)
    loaded = load_model(save_model(model, tmp_path / "model"))
    np.testing.assert_array_equal(loaded.predict(windows), predicted)


def test_files_are_found_from_anywhere(
    windows: Windows, y: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "elsewhere").mkdir()
    write_loops(tmp_path / "loops.bedpe")
    monkeypatch.chdir(tmp_path)
    model = GraphRegRegressor(**TINY, loops="loops.bedpe").fit(windows, y)
    predicted = model.predict(windows)
    saved = save_model(model, tmp_path / "model")
    monkeypatch.chdir(tmp_path / "elsewhere")
    np.testing.assert_array_equal(load_model(saved).predict(windows), predicted)


@pytest.mark.parametrize("reverse_complement", ["ph", "ps"])
def test_predictions_do_not_change_with_the_strand(
    windows: Windows, y: np.ndarray, reverse_complement: str
) -> None:
    model = GraphRegRegressor(
        **TINY, reverse_complement=reverse_complement, max_distance=8
    ).fit(windows, y)  # fmt: skip
    module = model.net_.ready_module.eval()
    x = torch.from_numpy(windows[:6].to_numpy(max_bytes=10**7))
    complement = list(windows.complement)
    adjacency = torch.rand(6, 9, 9) < 0.4
    adjacency = adjacency | adjacency.transpose(1, 2)
    nothing = torch.zeros(6, 0)
    with torch.no_grad():
        torch.testing.assert_close(
            module(x, nothing, adjacency=adjacency),
            module(x[:, complement].flip(2), nothing, adjacency=adjacency.flip(1, 2)),
            rtol=1e-5,
            atol=1e-5,
        )


def test_a_fitted_model_reads_a_gene_alike_from_both_strands(
    toy_genome: ToyGenome, tmp_path: Path, y: np.ndarray
) -> None:
    """With loops of the genome: the adjacency turns with the window."""
    pipe = Pipeline(
        [
            ("windows", TSSWindows(63)),
            ("sequence", SequenceChannels(toy_genome.fasta)),
            ("model", GraphRegRegressor(
                **{**TINY, "bin_size": 9, "resolution": 3}, reverse_complement="ps",
                loops=write_loops(tmp_path / "loops.bedpe"),
            )),
        ]
    )  # fmt: skip
    loci = toy_genome.loci
    predicted = pipe.fit(loci, y).predict(loci)
    opposite = loci.assign(strand=np.where(loci["strand"] == "+", "-", "+"))
    np.testing.assert_allclose(pipe.predict(opposite), predicted, rtol=1e-5, atol=1e-6)


# -- the target track ------------------------------------------------------------------------


def test_poisson_loss() -> None:
    rates, counts = [0.5, 2.0, 3.0], [0.0, 3.0, 1.5]
    expected = np.mean(
        [math.lgamma(y + 1) + mu - y * math.log(mu) for mu, y in zip(rates, counts, strict=True)]
    )
    found = poisson_loss(torch.tensor(rates).log(), torch.tensor(counts))
    assert found.item() == pytest.approx(expected, rel=1e-6)


def test_the_target_is_summed_over_the_bins_of_the_middle_third() -> None:
    layout = BinLayout(60, 10)  # seven bins, which reach 5 bp beyond either end
    target = BinnedTarget(1, layout, 4, weight=2.0).eval()
    x, h = torch.rand(3, 2, 60), torch.randn(3, 4, 7)
    padded = torch.cat([torch.zeros(3, 5), x[:, 1], torch.zeros(3, 5)], dim=1)
    counts = torch.stack([padded[:, i * 10 : (i + 1) * 10].sum(dim=1) for i in (2, 3, 4)], dim=1)
    with torch.no_grad():
        expected = 2.0 * poisson_loss(target.log_rate(h)[:, 0, 2:5], counts)
        torch.testing.assert_close(target(h, x), expected)
    x[0, 1] = -1.0
    with pytest.raises(ValueError, match=r"target_track has bins whose sum is negative \(-10\)"):
        target(h, x)


@pytest.fixture
def with_cage(toy_genome: ToyGenome) -> Pipeline:
    return Pipeline(
        [
            ("windows", TSSWindows(64, jitter=2)),
            ("sequence", SequenceChannels(toy_genome.fasta)),
            ("cage", SignalChannels({"cage": toy_genome.tracks["counts"]}, scaling="none")),
            ("signal", SignalChannels({"ratio": toy_genome.tracks["ratio"]})),
            ("model", GraphRegRegressor(**TINY, target_track="cage")),
        ]
    )


@pytest.mark.parametrize("reverse_complement", ["none", "augment", "ph", "ps"])
def test_expression_is_never_read(
    with_cage: Pipeline,
    toy_genome: ToyGenome,
    y: np.ndarray,
    tmp_path: Path,
    reverse_complement: str,
) -> None:
    loci = toy_genome.loci
    with_cage.set_params(model__reverse_complement=reverse_complement)
    predicted = with_cage.fit(loci, y).predict(loci)
    other = {chrom: np.full(size, 9.0) for chrom, size in SIZES.items()}
    with_cage.set_params(cage__tracks={"cage": write_bigwig(tmp_path / "other.bw", other)})
    np.testing.assert_array_equal(with_cage.predict(loci), predicted)


def test_the_target_track_trains(with_cage: Pipeline, toy_genome: ToyGenome, y: np.ndarray) -> None:
    loci = toy_genome.loci
    without = with_cage.set_params(model__target_weight=0.0).fit(loci, y)[-1].history_
    settings = {"model__target_weight": 10.0, "model__max_epochs": 30, "model__learning_rate": 0.02}
    history = with_cage.set_params(**settings).fit(loci, y)[-1].history_
    assert history["train_loss"].iloc[0] > without["train_loss"].iloc[0] + 1
    assert history["train_loss"].iloc[-1] < history["train_loss"].iloc[0] - 1


def test_what_a_target_track_must_be(
    with_cage: Pipeline, toy_genome: ToyGenome, windows: Windows, y: np.ndarray
) -> None:
    loci = toy_genome.loci
    with pytest.raises(ValueError, match=r"target_track='rna' must be a track of X.*'ratio'"):
        with_cage.set_params(model__target_track="rna").fit(loci, y)
    with pytest.raises(ValueError, match="target_track='A' must be a track"):
        with_cage.set_params(model__target_track="A").fit(loci, y)
    with pytest.raises(ValueError, match="target_track='ratio' is scaled"):
        with_cage.set_params(model__target_track="ratio").fit(loci, y)
    with pytest.raises(ValueError, match="X has no channel names"):
        GraphRegRegressor(**TINY, target_track="cage").fit(np.zeros((40, 2, 64)), y)
    alone = SignalChannels({"cage": toy_genome.tracks["counts"]}, scaling="none")
    with pytest.raises(ValueError, match="beside channels to read"):
        GraphRegRegressor(**TINY, target_track="cage").fit(
            alone.fit_transform(TSSWindows(64).fit_transform(loci)), y
        )
    with_cage.set_params(cage__tracks={"cage": toy_genome.tracks["ratio"]})
    with pytest.raises(ValueError, match="target_track has bins whose sum is negative"):
        with_cage.set_params(model__target_track="cage").fit(loci, y)


# -- what it refuses -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"bin_size": 40}, r"bin_size=40 leaves fewer than 3 bins of a window of 64 bp"),
        ({"resolution": 3}, "resolution=3 does not divide bin_size=8"),
        ({"n_heads": 3}, "n_heads=3 does not divide d_model=8"),
        ({"bin_size": 9, "resolution": 3, "reverse_complement": "ph"}, "Make both even"),
        ({"contacts": "x.cool", "loops": "x.bedpe"}, "Give one of them"),
        ({"max_distance": -1}, "max_distance == -1"),
        ({"enrichment": -1.0}, r"enrichment == -1\.0"),
    ],
)
def test_wrong_parameters(
    windows: Windows, y: np.ndarray, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        GraphRegRegressor(**{**TINY, **options}).fit(windows, y)


def test_arrays_have_no_place_for_a_file(tmp_path: Path) -> None:
    X = np.zeros((12, 1, 64), np.float32)
    loops = write_loops(tmp_path / "loops.bedpe")
    with pytest.raises(ValueError, match=r"loops=.* needs to know where .* set loops=None"):
        GraphRegRegressor(**TINY, loops=loops).fit(X, np.arange(12.0))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("chr1\t1\t2\n", r"line 1: 3 columns; expected at least 6 \(chrom1, start1"),
        ("#x\nchr1 a b chr1 c d\n", r"line 2: \['a', 'b', 'c', 'd'\] are not all integers"),
        ("chr1\t5\t5\tchr1\t1\t2\n", "Expected 0-based half-open"),
        ("chr1\t1\t2\t.\t-1\t-1\n", r"the other at \.:-1--1"),
        ("# nothing\n", "holds no loops"),
        ("1\t1\t2\t1\t4\t5\n", r"share no chromosome with X: they are on '1', X is on 'chr1'"),
    ],
)
def test_what_is_no_file_of_loops(
    windows: Windows, y: np.ndarray, tmp_path: Path, text: str, message: str
) -> None:
    path = tmp_path / "loops.bedpe"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        GraphRegRegressor(**TINY, loops=path).fit(windows, y)


def test_names_of_chromosomes(windows: Windows, y: np.ndarray, tmp_path: Path) -> None:
    path = write_loops(tmp_path / "loops.bedpe")
    expected = GraphRegRegressor(**TINY, loops=path).fit(windows, y).predict(windows)
    path.write_text(path.read_text().replace("chr", ""))
    alias = {f"chr{i}": str(i) for i in range(1, 5)}
    found = GraphRegRegressor(**TINY, loops=path, chrom_alias=alias).fit(windows, y)
    np.testing.assert_array_equal(found.predict(windows), expected)
