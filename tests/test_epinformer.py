"""EPInformer: its size, who attends to whom, which elements it reads and where they lie."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from conftest import write_bigwig
from torch import Tensor, nn

from regmask_sk._batches import Placement, Reading, WindowDataset
from regmask_sk._regions import Regions
from regmask_sk.baselines._elements import ElementFinder, element_finder
from regmask_sk.baselines._epinformer_network import EPInformerModel, StarAttention, star
from regmask_sk.baselines.epinformer import EPInformerRegressor
from regmask_sk.contacts import ContactChannel
from regmask_sk.features import SequenceChannels, SignalChannels, TSSWindows
from regmask_sk.peaks import call_peaks
from regmask_sk.persistence import load_model, save_model
from regmask_sk.windows import Windows

FRAME = 416
SIZES: dict[str, Any] = {"frame_length": FRAME, "n_filters": 8, "d_model": 8, "n_heads": 2}
PAIRS = {"A": "T", "C": "G", "G": "C", "T": "A", "N": "N"}


def n_parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def network(n_layers: int = 3, **sizes: Any) -> EPInformerModel:
    torch.manual_seed(0)
    return EPInformerModel(1, 2, n_layers=n_layers, **{**SIZES, **sizes}).eval()


def gene(n_genes: int = 1, n_elements: int = 4, seed: int = 0) -> dict[str, Tensor]:
    """Random frames and features of some genes, all elements there."""
    rng = np.random.default_rng(seed)
    n_tokens = n_elements + 1
    frames = np.zeros((n_genes, n_tokens, 4, FRAME), np.uint8)
    np.put_along_axis(frames, rng.integers(0, 4, (n_genes, n_tokens, 1, FRAME)), 1, axis=2)
    features = rng.random((n_genes, n_tokens, 3)) * [9_000, 2, 1]
    features[:, 0] = 0
    return {
        "covariates": torch.from_numpy(rng.normal(size=(n_genes, 2)).astype(np.float32)),
        "frames": torch.from_numpy(frames),
        "features": torch.from_numpy(features.astype(np.float32)),
        "present": torch.ones(n_genes, n_tokens, dtype=torch.bool),
    }


def read(model: EPInformerModel, inputs: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    with torch.no_grad():
        return model.attend(**inputs)


# -- the network -------------------------------------------------------------------------


@pytest.mark.parametrize(("features", "expected"), [((), 447_149), ((0, 1, 2), 447_341)])
def test_the_published_network_has_the_published_size(
    features: tuple[int, ...], expected: int
) -> None:
    assert n_parameters(EPInformerModel(1, 9, features=features)) == expected


def test_defaults_of_the_estimator_are_the_published_network() -> None:
    model = EPInformerRegressor()
    model.covariate_mean_, model.activity_scale_ = np.zeros(9), 1.0
    assert n_parameters(model._make_module(1)) == 447_341
    model.set_params(element_features=())
    assert n_parameters(model._make_module(1)) == 447_149


def test_a_frame_passes_the_published_chain_of_convolutions() -> None:
    encoder = network(n_filters=16).encoder
    for values in encoder.state_dict().values():
        if values.dim() == 1:  # normalisations that do something
            nn.init.uniform_(values, 0.5, 1.5)
    weights = encoder.state_dict()

    def step(h: Tensor, name: str, **options: Any) -> Tensor:
        h = F.conv1d(h, weights[f"{name}.0.weight"], weights[f"{name}.0.bias"], **options)
        mean, var, scale, shift = (
            weights[f"{name}.1.{part}"][:, None]
            for part in ("running_mean", "running_var", "weight", "bias")
        )
        return F.elu((h - mean) / (var + 1e-5).sqrt() * scale + shift)

    frames = gene(2, 2)["frames"].flatten(0, 1)
    with torch.no_grad():
        h = F.pad(frames.float(), (3, 4))  # "same", the odd base on the right
        h = F.elu(F.conv1d(h, weights["stem.weight"], weights["stem.bias"]))
        for i in range(4):
            h = step(h, f"tower.{i}.conv", padding=1).unflatten(2, (-1, 2)).amax(dim=3)
            w, b = weights[f"tower.{i}.pointwise.weight"], weights[f"tower.{i}.pointwise.bias"]
            h = h + F.elu(F.conv1d(h, w, b))
        for i, dilation in enumerate((2, 4, 6)):
            h = step(h, f"dilated.{i}", dilation=dilation)
        h = step(h, "narrow")
        assert h.shape == (6, 2, 2)
        torch.testing.assert_close(encoder(frames), h)
    assert encoder.n_positions(2000) == 101


def test_a_layer_is_masked_attention_as_torch_has_it() -> None:
    torch.manual_seed(0)
    layer, theirs = StarAttention(8, 2), nn.MultiheadAttention(8, 2, batch_first=True)
    with torch.no_grad():
        theirs.in_proj_weight.copy_(layer.to_qkv.weight)
        theirs.in_proj_bias.copy_(layer.to_qkv.bias)
        theirs.out_proj.weight.copy_(layer.to_out.weight)
        theirs.out_proj.bias.copy_(layer.to_out.bias)
        h = torch.randn(2, 5, 8)
        present = torch.tensor([[True] * 5, [True, True, True, False, False]])
        hidden = torch.ones(5, 5, dtype=torch.bool)
        hidden[0], hidden[:, 0] = False, False
        hidden.fill_diagonal_(False)
        normal = layer.attention_norm(h)
        added, weight = theirs(normal, normal, normal, key_padding_mask=~present, attn_mask=hidden)
        expected = h + added
        expected = expected + layer.network(expected)
        found, attention = layer(h, star(present))
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(attention, weight)


def test_an_element_reaches_the_promoter_and_no_other_element() -> None:
    model, inputs = network(), gene()
    after: list[Tensor] = []
    model.reader.layers[0].register_forward_hook(lambda *call: after.append(call[2][0]))
    read(model, inputs)
    changed = {**inputs, "frames": inputs["frames"].clone()}
    changed["frames"][0, 2] = changed["frames"][0, 2].flip(1)
    read(model, changed)
    moved = (after[0] != after[1]).any(dim=2)[0]
    assert moved.tolist() == [True, False, True, False, False]


def test_the_promoter_pays_attention_to_what_there_is() -> None:
    inputs = gene(2)
    inputs["present"][1, 3:] = False
    _, attention = read(network(), inputs)
    torch.testing.assert_close(attention.sum(dim=1), torch.ones(2))
    assert (attention[1, 3:] == 0).all()
    assert (attention[inputs["present"]] > 0).all()


def test_neither_order_nor_padding_changes_a_prediction() -> None:
    model, inputs = network(), gene(3)
    predicted, attention = read(model, inputs)
    order = [0, 3, 1, 4, 2]
    turned = {k: v if k == "covariates" else v[:, order] for k, v in inputs.items()}
    again, moved = read(model, turned)
    torch.testing.assert_close(again, predicted, rtol=0, atol=1e-6)
    torch.testing.assert_close(moved, attention[:, order], rtol=0, atol=1e-6)
    # What stands in tokens that there are not is never read.
    padding = gene(3, 6, seed=1)
    padded = {
        k: v if k == "covariates" else torch.cat([v, padding[k]], dim=1) for k, v in inputs.items()
    }
    padded["present"][:, 5:] = False
    again, wider = read(model, padded)
    torch.testing.assert_close(again, predicted, rtol=0, atol=1e-6)
    torch.testing.assert_close(wider[:, :5], attention, rtol=0, atol=1e-6)


def test_a_gene_is_read_to_the_same_bits_in_any_company() -> None:
    model, inputs = network(), gene(15)
    inputs["present"][::2, 2:] = False
    predicted, attention = read(model, inputs)
    for rows in ([3], [14, 0, 3]):
        alone = read(model, {name: value[rows] for name, value in inputs.items()})
        assert torch.equal(alone[0], predicted[rows])
        assert torch.equal(alone[1], attention[rows])


def test_training_and_evaluation_are_one_network_but_for_the_normalisation() -> None:
    model, inputs = network(), gene(2)
    inputs["present"][1, 2:] = False
    expected = read(model, inputs)
    model.train()
    for part in model.modules():
        if isinstance(part, nn.BatchNorm1d):
            part.eval()
    torch.testing.assert_close(read(model, inputs), expected, rtol=1e-5, atol=1e-5)


def test_every_parameter_learns_from_a_batch_even_of_one_promoter() -> None:
    for inputs in (gene(3), gene(1, 1)):
        model = network().train()
        predicted, _ = model.attend(**inputs)
        predicted.square().mean().backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    assert all(p.grad.any() for p in model.encoder.tower.parameters() if p.dim() == 3)
    lone = gene(1, 1)
    lone["present"][:, 1:] = False
    predicted, attention = network().train().attend(**lone)
    assert predicted.isfinite().all()
    assert attention.tolist() == [[1.0, 0.0]]


def test_features_that_do_not_join_are_not_read() -> None:
    inputs = gene()
    other = {**inputs, "features": inputs["features"] * torch.tensor([1.0, 3.0, 3.0])}
    model = network(features=(0,))
    assert torch.equal(read(model, inputs)[0], read(model, other)[0])
    assert not torch.equal(read(network(), inputs)[0], read(network(), other)[0])


# -- which elements, and where --------------------------------------------------------------


def table(chroms: Any, width: int = 9, step: int = 25) -> pd.DataFrame:
    """Regions at regular distances."""
    starts = np.arange(3, 3_000, step)
    return pd.DataFrame(
        {
            "chrom": np.repeat(list(chroms), len(starts)),
            "start": np.tile(starts, len(chroms)),
            "end": np.tile(starts + width + starts % 3, len(chroms)),
        }
    )


def windows_of(
    toy_genome: Any, length: int, *, tracks: tuple[str, ...] = ("counts",), **options: Any
) -> Windows:
    windows = TSSWindows(length, jitter=5).fit_transform(toy_genome.loci)
    windows = SequenceChannels(toy_genome.fasta).fit_transform(windows)
    files = {name: toy_genome.tracks[name] for name in tracks}
    return SignalChannels(files, **options).fit_transform(windows)


def oracle(
    toy_genome: Any, peaks: pd.DataFrame, place: Placement, *, promoter: int, most: int, far: int
) -> list[tuple[float, float, float, np.ndarray]]:
    """Distance, activity, contact and frame of each element, base by base."""
    sequence, length = toy_genome.sequences[place.chrom].upper(), place.end - place.start
    at = [place.end - 1 - j if place.reverse else place.start + j for j in range(length)]

    def letter(position: int) -> str:
        base = sequence[position] if 0 <= position < len(sequence) else "N"
        return PAIRS[base] if place.reverse else base

    def value(track: str, position: int) -> float:
        values = toy_genome.values[track][place.chrom]
        known = 0 <= position < len(values) and not np.isnan(values[position])
        return float(values[position]) if known else 0.0

    found = []
    for _, start, end in peaks[peaks["chrom"] == place.chrom].itertuples(index=False):
        columns = [j for j, position in enumerate(at) if start <= position < end]
        if not columns:
            continue
        distance = abs(np.mean(columns) - length // 2)
        if not promoter / 2 < distance <= far:
            continue
        frame = np.zeros((4, FRAME), np.uint8)
        middle = columns[0] + len(columns) // 2
        for j in columns:
            base, place_in_frame = letter(at[j]), j - middle + FRAME // 2
            if base != "N" and 0 <= place_in_frame < FRAME:
                frame["ACGT".index(base), place_in_frame] = 1
        counts = sum(value("counts", at[j]) for j in columns)
        ratios = sum(value("ratio", at[j]) for j in columns)
        activity = (counts * max(ratios, 0.0)) ** 0.5
        found.append((distance, columns[0], activity, max(ratios / len(columns), 0.0), frame))
    found.sort(key=lambda element: element[:2])
    return [(distance, *rest) for distance, _, *rest in found[:most]]


@pytest.mark.parametrize(("length", "width"), [(301, 9), (300, 10), (1_000, 600)])
def test_elements_are_those_of_a_naive_reading(toy_genome: Any, length: int, width: int) -> None:
    windows = windows_of(toy_genome, length, tracks=("counts", "ratio"), scaling="none")
    peaks = table(toy_genome.sequences, width=width, step=700 if width > 100 else 25)
    limits = {"promoter": 20, "most": 5, "far": 120 if width < 100 else 400}
    finder = element_finder(
        windows, track="counts", activity_tracks=["counts", "ratio"], contact="ratio",
        peaks=Regions.from_table(peaks), peak_scale=1.0, promoter_length=20, max_elements=5,
        max_distance=limits["far"], frame_length=FRAME,
    )  # fmt: skip
    readings: list[Reading] = []

    def spy(reading: Reading) -> dict[str, Any]:
        readings.append(reading)
        return pickle.loads(pickle.dumps(finder))(reading)

    nothing = np.zeros((len(windows), 0), np.float32)
    dataset = WindowDataset(
        windows, nothing, augment=True, complement=windows.complement, extras=spy
    )
    torch.manual_seed(0)
    inputs, _ = dataset.__getitems__(list(range(len(windows))))
    assert readings[0].placements is not None
    directions = {place.reverse for place in readings[0].placements}
    assert directions == {False, True}
    n_elements = 0
    for row, place in enumerate(readings[0].placements):
        expected = oracle(toy_genome, peaks, place, **limits)
        n_elements += len(expected)
        assert inputs["present"][row].tolist() == [i <= len(expected) for i in range(6)]
        for token, (distance, activity, contact, frame) in enumerate(expected, start=1):
            np.testing.assert_allclose(
                inputs["features"][row, token], [distance, activity, contact], rtol=1e-5, atol=1e-6
            )
            np.testing.assert_array_equal(inputs["frames"][row, token], frame)
        promoter = np.zeros((4, FRAME), np.uint8)
        middle = length // 2
        promoter[:, FRAME // 2 - 10 : FRAME // 2 + 10] = readings[0].x[row][
            :4, middle - 10 : middle + 10
        ]
        np.testing.assert_array_equal(inputs["frames"][row, 0], promoter)
        assert not inputs["features"][row, 0].any()
        assert not inputs["frames"][row, len(expected) + 1 :].any()
    assert n_elements > 25


def finder_of(**options: Any) -> ElementFinder:
    settings: dict[str, Any] = {
        "sequence": (0, 1, 2, 3), "track": 4, "activity_tracks": (4,), "contact": None,
        "peaks": None, "raw": {}, "peak_scale": 1.0, "max_elements": 60,
        "max_distance": 100_000, "promoter_length": 100, "frame_length": FRAME,
    }  # fmt: skip
    return ElementFinder(**{**settings, **options})


def bursts(length: int = 6_000) -> np.ndarray:
    """A window with a track of few counts, and of many around two places."""
    rng = np.random.default_rng(0)
    x = np.zeros((5, length), np.float32)
    x[4] = rng.poisson(0.01, length)
    for place in (1_000, 5_200):
        x[4, place : place + 200] += rng.poisson(1.0, 200)
    return x


def test_without_peaks_those_of_the_track_are_called() -> None:
    x = bursts()
    found = finder_of().find(x, None)
    called = call_peaks(x[4]).intervals
    assert len(called) >= 2
    np.testing.assert_array_equal(np.sort(found.columns, axis=0), called)
    assert (np.diff(found.features[:, 0]) >= 0).all()
    np.testing.assert_allclose(
        found.features[:, 1], [x[4, first:last].sum() for first, last in found.columns]
    )
    expected = (np.maximum(found.features[:, 0], 5_000) / 1_000) ** -0.87
    np.testing.assert_allclose(found.features[:, 2], expected)


def test_scales_are_those_of_the_windows(toy_genome: Any) -> None:
    raw = windows_of(toy_genome, 300, scaling="none")
    scaled = windows_of(toy_genome, 300)
    peaks = Regions.from_table(table(toy_genome.sequences))
    settings: dict[str, Any] = {
        "track": None, "activity_tracks": None, "contact": None, "peaks": peaks,
        "peak_scale": 1.0, "max_elements": 9, "max_distance": 200, "promoter_length": 9,
        "frame_length": FRAME,
    }  # fmt: skip
    for row in range(0, 40, 7):
        place = Placement(*raw.interval(row)[:3], bool(raw.reversed[row]))
        expected = element_finder(raw, **settings).find(raw.read(row), place)
        found = element_finder(scaled, **settings).find(scaled.read(row), place)
        np.testing.assert_allclose(found.features, expected.features, rtol=1e-5)


# -- the estimator ---------------------------------------------------------------------------


def small(toy_genome: Any, **options: Any) -> EPInformerRegressor:
    settings: dict[str, Any] = {
        **SIZES, "peaks": table(toy_genome.sequences), "promoter_length": 20, "max_elements": 5,
        "n_layers": 1, "max_epochs": 1, "random_state": 0, "device": "cpu",
    }  # fmt: skip
    return EPInformerRegressor(**{**settings, **options})


@pytest.fixture
def y(toy_genome: Any) -> pd.Series:
    return toy_genome.loci["expression"]


def test_scores_stand_where_the_elements_lie(toy_genome: Any, y: pd.Series, tmp_path: Path) -> None:
    windows = windows_of(toy_genome, 301)
    model = small(toy_genome).fit(windows, y)
    scores, masks = model.element_scores(windows), model.transform(windows)
    assert list(scores.columns) == [
        "gene", "chrom", "start", "end", "distance", "activity", "contact", "attention", "score",
    ]  # fmt: skip
    np.testing.assert_allclose(
        scores["score"], scores["attention"] * scores["activity"] * scores["contact"]
    )
    loci = toy_genome.loci.loc[scores["gene"]]
    assert (scores["chrom"].to_numpy() == loci["chrom"].to_numpy()).all()
    middle = (scores["start"] + scores["end"] - 1).to_numpy() / 2
    np.testing.assert_allclose(scores["distance"], np.abs(middle - loci["tss"].to_numpy()))
    peaks = set(table(toy_genome.sequences).itertuples(index=False, name=None))
    whole = np.abs(middle - loci["tss"].to_numpy()) < 130  # not cut off at the window's end
    assert set(scores[whole][["chrom", "start", "end"]].itertuples(index=False, name=None)) <= peaks
    assert whole.sum() > 100

    expected = np.zeros_like(masks)
    for row, (name, locus) in enumerate(toy_genome.loci.iterrows()):
        own = scores[scores["gene"] == name]
        assert len(own) <= 5
        for element in own.itertuples():
            positions = np.arange(element.start, element.end) - locus.tss
            columns = 150 + (positions if locus.strand == "+" else -positions)
            expected[row, columns] = element.score / own["score"].max()
    np.testing.assert_allclose(masks, expected, rtol=1e-5)
    assert masks.dtype == np.float32
    assert (masks.max(axis=1) == 1).sum() > 30
    # The sum over a base's element is a count: of one track, it is what the file holds.
    first = scores.iloc[0]
    held = toy_genome.values["counts"][first.chrom][first.start : first.end]
    np.testing.assert_allclose(first.activity, np.nansum(held), rtol=1e-5)

    loaded = load_model(save_model(model, tmp_path / "model"))
    np.testing.assert_array_equal(loaded.transform(windows), masks)
    pd.testing.assert_frame_equal(model.element_scores(windows[[7]]).iloc[:, 1:],
                                  scores[scores["gene"] == toy_genome.loci.index[7]]
                                  .reset_index(drop=True).iloc[:, 1:])  # fmt: skip


def test_peaks_are_called_on_the_counts_of_the_file(
    toy_genome: Any, y: pd.Series, tmp_path: Path
) -> None:
    rng = np.random.default_rng(0)
    counts = {}
    for chrom, bases in toy_genome.sequences.items():
        drawn = rng.poisson(0.02, len(bases)).astype(np.float32)
        for place in range(200, len(bases) - 200, 700):
            drawn[place : place + 200] += rng.poisson(1.0, 200)
        counts[chrom] = drawn
    windows = TSSWindows(1_201).fit_transform(toy_genome.loci)
    windows = SequenceChannels(toy_genome.fasta).fit_transform(windows)
    track = SignalChannels({"cuts": write_bigwig(tmp_path / "cuts.bw", counts)})
    windows = track.fit_transform(windows)
    scores = small(toy_genome, peaks=None).fit(windows, y).element_scores(windows)
    assert len(scores) > 20
    for row, (name, locus) in enumerate(toy_genome.loci.iterrows()):
        held = np.zeros(1_201)
        first = locus.tss - 600
        inside = slice(max(first, 0), first + 1_201)
        values = counts[locus.chrom][inside]
        held[inside.start - first :][: len(values)] = values
        called = call_peaks(held).intervals + first
        middle = np.abs(called.sum(axis=1) - 1 - 2 * locus.tss) / 2
        expected = called[middle > 10]
        found = scores[scores["gene"] == name][["start", "end"]].sort_values("start").to_numpy()
        np.testing.assert_array_equal(found, expected, err_msg=f"row {row}")


def test_augmented_training_and_workers(toy_genome: Any, y: pd.Series) -> None:
    windows = windows_of(toy_genome, 200)
    model = small(toy_genome, reverse_complement="augment", n_workers=1).fit(windows, y)
    again = small(toy_genome, reverse_complement="augment").fit(windows, y)
    assert np.isfinite(model.predict(windows)).all()
    assert model.activity_scale_ == again.activity_scale_ > 0


def test_a_bed_file_is_as_good_as_a_table(toy_genome: Any, y: pd.Series, tmp_path: Path) -> None:
    windows = windows_of(toy_genome, 200)
    path = tmp_path / "peaks.narrowPeak"
    bed = table(toy_genome.sequences)
    bed.assign(name=".", score=0, strand=".", signal=1.0, p=1.0, q=1.0, peak=2).to_csv(
        path, sep="\t", header=False, index=False
    )
    of_file = small(toy_genome, peaks=path).fit(windows, y)
    of_table = small(toy_genome).fit(windows, y)
    np.testing.assert_array_equal(of_file.predict(windows), of_table.predict(windows))


def test_a_warm_start_keeps_the_scale_of_its_network(toy_genome: Any, y: pd.Series) -> None:
    windows = windows_of(toy_genome, 200)
    model = small(toy_genome, warm_start=True).fit(windows[:20], y[:20])
    scale = model.activity_scale_
    assert small(toy_genome).fit(windows, y).activity_scale_ != scale
    assert model.fit(windows, y).activity_scale_ == scale
    model.set_params(n_filters=16)
    with pytest.raises(ValueError, match="n_filters"):
        model.fit(windows, y)


def test_windows_without_elements_warn_and_score_nothing(toy_genome: Any, y: pd.Series) -> None:
    windows = windows_of(toy_genome, 200)
    model = small(toy_genome, promoter_length=300)
    with pytest.warns(UserWarning, match=r"none of 40 windows of 200 bp has a candidate"):
        model.fit(windows, y)
    assert np.isfinite(model.predict(windows)).all()
    assert not model.transform(windows).any()
    assert len(model.element_scores(windows)) == 0
    assert "score" in model.element_scores(windows)


def test_arrays_and_missing_channels_are_refused(toy_genome: Any, y: pd.Series) -> None:
    X = np.zeros((40, 5, 64), np.float32)
    for array in (X, X[:, 0]):
        with pytest.raises(ValueError, match="but X is an array"):
            small(toy_genome).fit(array, y)
    plain = TSSWindows(200).fit_transform(toy_genome.loci)
    with pytest.raises(ValueError, match=r"needs the channels A, C, G and T and a track"):
        small(toy_genome).fit(SequenceChannels(toy_genome.fasta).fit_transform(plain), y)
    signal = SignalChannels({"counts": toy_genome.tracks["counts"]})
    with pytest.raises(ValueError, match=r"needs the channels A, C, G and T and a track"):
        small(toy_genome).fit(signal.fit_transform(plain), y)
    both = windows_of(toy_genome, 200, tracks=("counts", "ratio"))
    with pytest.raises(ValueError, match=r"X has \['counts', 'ratio'\]. Name the one"):
        small(toy_genome).fit(both, y)
    model = small(toy_genome, track="counts").fit(both, y)
    with pytest.raises(ValueError, match="but X is an array"):
        model.predict(np.zeros((1, 6, 200), np.float32))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"track": "DNase"}, r"track \['DNase'\] are not among the tracks of X, \['counts'\]"),
        ({"activity_tracks": ["counts", "A"]}, r"activity_tracks \['A'\] are not among"),
        ({"activity_tracks": "counts"}, "expected a sequence of at least one name"),
        ({"activity_tracks": ()}, "expected a sequence of at least one name"),
        ({"contact": "hic"}, r"contact \['hic'\] are not among"),
        ({"element_features": ["activity", "hic"]}, "element_features"),
        ({"element_features": "activity"}, "element_features"),
        ({"reverse_complement": "ph"}, "Set 'augment' or 'none'"),
        ({"frame_length": 400}, "frame_length == 400"),
        ({"promoter_length": 500}, "does not fit into frame_length=416"),
        ({"promoter_length": 0}, "promoter_length == 0"),
        ({"n_layers": 0}, "leaves no attention"),
        ({"n_filters": 20}, "do not go together"),
        ({"d_model": 9}, "do not go together"),
        ({"n_filters": 24, "d_model": 8}, "do not go together"),
        ({"max_elements": 0}, "max_elements == 0"),
        ({"peak_scale": 0.0}, "peak_scale == 0"),
        (
            {"peaks": pd.DataFrame({"chrom": ["I"], "start": [1], "end": [9]})},
            r"peaks shares no chromosome with X: it has \['I'\]",
        ),
    ],
)
def test_errors_name_the_parameter(
    toy_genome: Any, y: pd.Series, options: dict[str, Any], message: str
) -> None:
    windows = windows_of(toy_genome, 200)
    with pytest.raises(ValueError, match=message):
        small(toy_genome, **options).fit(windows, y)


def elements_of(windows: Windows, row: int, **options: Any) -> np.ndarray:
    chrom, start, end, cell_type, *_ = windows.interval(row)
    place = Placement(chrom, start, end, bool(windows.reversed[row]), cell_type)
    settings: dict[str, Any] = {
        "track": "counts", "activity_tracks": None, "contact": None, "peak_scale": 1.0,
        "max_elements": 9, "max_distance": 200, "promoter_length": 9, "frame_length": FRAME,
    }  # fmt: skip
    finder = element_finder(windows, **{**settings, **options})
    return finder.find(windows.read(row), place).features


def test_tracks_scaled_by_cell_type_come_back_to_their_units(toy_genome: Any) -> None:
    loci = toy_genome.loci.assign(cell_type=["a", "b"] * 20)
    windows = SequenceChannels(toy_genome.fasta).fit_transform(TSSWindows(300).fit_transform(loci))
    files = {"counts": {"a": toy_genome.tracks["counts"], "b": toy_genome.tracks["counts"]}}
    scaled = SignalChannels(files).fit_transform(windows)
    raw = SignalChannels(files, scaling="none").fit_transform(windows)
    peaks = Regions.from_table(table(toy_genome.sequences))
    for row in range(6):
        expected = elements_of(raw, row, peaks=peaks)
        np.testing.assert_allclose(elements_of(scaled, row, peaks=peaks), expected, rtol=1e-5)


def test_contact_is_read_in_the_units_of_its_channel(toy_genome: Any) -> None:
    windows = windows_of(toy_genome, 300)
    peaks = Regions.from_table(table(toy_genome.sequences))
    found = {}
    for scaling in ("none", "robust", "log1p"):
        channel = ContactChannel(bin_size=20, scaling=scaling)
        with_contact = channel.fit_transform(windows)
        found[scaling] = elements_of(with_contact, 3, peaks=peaks, contact="contact")
    assert found["none"][:, 2].std() > 0
    for scaling in ("robust", "log1p"):
        np.testing.assert_allclose(found[scaling], found["none"], rtol=1e-4)
