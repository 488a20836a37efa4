"""Sessions and hubs: what the browsers demand of them, and files that are where they say."""

from __future__ import annotations

import re
import shutil
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pyBigWig
import pytest
from conftest import write_bigwig, write_fasta
from hypothesis import given, settings
from hypothesis import strategies as st

from regmask_sk import write_igv_session, write_track_hub
from regmask_sk.browser import _greatest
from regmask_sk.loci import read_regions

BED = "chr1\t10\t30\tgene a\t800\t+\nchr1\t20\t40\tg2\t900\t-\nchr2\t0\t5\tg3\t0\t.\n"


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    folder = tmp_path / "run" / "out"
    folder.mkdir(parents=True)
    ramp = {"chr1": np.linspace(0, 1, 100), "chr2": np.linspace(1, 0, 50)}
    (folder / "elements.bed").write_text(BED)
    return {
        "masks": write_bigwig(folder / "masks.bw", ramp),
        "elements": folder / "elements.bed",
        "atac": write_bigwig(tmp_path / "run" / "atac & more.bw", ramp),
        "fasta": write_fasta(tmp_path / "run" / "genome.fa", {"chr1": "A" * 100, "chr2": "C" * 50}),
    }


def color(text: str) -> list[int]:
    numbers = [int(number) for number in text.split(",")]
    assert len(numbers) == 3
    assert all(0 <= number <= 255 for number in numbers)
    return numbers


# --- IGV ---------------------------------------------------------------------------------------


def session_of(files: dict[str, Path], **more: object) -> ET.Element:
    path = write_igv_session(
        files["masks"].parent / "igv.xml",
        masks=files["masks"],
        elements=files["elements"],
        signals={"ATAC <signal>": files["atac"]},
        **{"genome": files["fasta"], "locus": ("chr1", 10, 60), **more},
    )
    return ET.parse(path).getroot()


def test_a_session_names_files_that_are_there_even_after_a_move(
    files: dict[str, Path], tmp_path: Path
) -> None:
    session_of(files)
    moved = tmp_path / "moved"
    shutil.move(tmp_path / "run", moved)
    session = ET.parse(moved / "out" / "igv.xml").getroot()
    assert session.tag == "Session"
    assert session.get("version") == "8"
    assert session.get("locus") == "chr1:11-60"  # from 1, both ends in it
    names = [resource.get("path") for resource in session.findall("Resources/Resource")]
    assert names == ["masks.bw", "elements.bed", "../atac & more.bw"]
    for name in [*names, session.get("genome")]:
        assert (moved / "out" / name).is_file()
        assert "\\" not in name


def test_tracks_are_of_resources_with_colours_and_scales(files: dict[str, Path]) -> None:
    session = session_of(files)
    resources = {resource.get("path") for resource in session.findall("Resources/Resource")}
    tracks = {track.get("name"): track for track in session.iter("Track")}
    assert set(tracks) == {"mask", "elements", "ATAC <signal>"}
    assert {track.get("id") for track in tracks.values()} == resources
    assert len({tuple(color(track.get("color"))) for track in tracks.values()}) == 3
    scale = tracks["mask"].find("DataRange")
    assert (scale.get("minimum"), scale.get("maximum")) == ("0.0", "1.0")
    assert tracks["mask"].get("autoScale") == "false"
    assert tracks["ATAC <signal>"].get("autoScale") == "true"
    assert tracks["ATAC <signal>"].find("DataRange") is None
    kinds = {name: track.get("clazz").rsplit(".", 1)[-1] for name, track in tracks.items()}
    assert kinds["elements"] == "FeatureTrack"
    assert kinds["mask"] == kinds["ATAC <signal>"] == "DataSourceTrack"
    panels = {p.get("name"): [t.get("name") for t in p] for p in session.findall("Panel")}
    assert panels == {"DataPanel": ["mask", "ATAC <signal>"], "FeaturePanel": ["elements"]}
    # Genes come with a genome that IGV knows, not with a FASTA file.
    assert session.get("hasGeneTrack") == "false"
    known = session_of(files, genome="sacCer3", overwrite=True)
    assert (known.get("genome"), known.get("hasGeneTrack")) == ("sacCer3", "true")


def test_wrong_sessions(files: dict[str, Path], tmp_path: Path) -> None:
    session = tmp_path / "igv.xml"
    with pytest.raises(ValueError, match="there is nothing to show"):
        write_igv_session(session, genome="hg38")
    with pytest.raises(ValueError, match=r"expected a name that ends in .xml"):
        write_igv_session(tmp_path / "igv.json", genome="hg38", masks=files["masks"])
    with pytest.raises(FileNotFoundError, match=r"atac: .*none.bw does not exist"):
        write_igv_session(session, genome="hg38", signals={"atac": tmp_path / "none.bw"})
    with pytest.raises(FileNotFoundError, match=r"the folder .* does not exist"):
        write_igv_session(tmp_path / "no" / "igv.xml", genome="hg38", masks=files["masks"])
    assert not session.exists()
    write_igv_session(session, genome="hg38", masks=files["masks"])
    with pytest.raises(FileExistsError, match="Pass overwrite=True"):
        write_igv_session(session, genome="hg38", masks=files["masks"])


# --- UCSC --------------------------------------------------------------------------------------


def stanzas_of(path: Path) -> list[dict[str, str]]:
    """Read what UCSC calls a ra file: settings, one a line; blank lines between stanzas."""
    text = path.read_text()
    assert text.endswith("\n")
    stanzas = [
        dict(line.split(" ", 1) for line in block.splitlines())
        for block in re.split(r"\n\s*\n", text.strip())
    ]
    assert all(value.strip() for stanza in stanzas for value in stanza.values())
    return stanzas


def hub_of(files: dict[str, Path], folder: Path, **more: object):
    return write_track_hub(
        folder,
        genome="sacCer3",
        email="me@example.org",
        masks=files["masks"],
        elements=files["elements"],
        signals={"ATAC seq\n(rep. 1)": files["atac"], "2nd": files["atac"], "MASK": files["atac"]},
        **more,
    )


@pytest.mark.parametrize("copy", [True, False])
def test_a_hub_has_what_the_browser_demands(
    files: dict[str, Path], tmp_path: Path, copy: bool
) -> None:
    hub = hub_of(files, tmp_path / "new" / "hub", copy=copy)
    (top,) = stanzas_of(hub.hub)
    assert list(top) == ["hub", "shortLabel", "longLabel", "genomesFile", "email"]
    assert re.fullmatch(r"\w+", top["hub"])
    assert len(top["shortLabel"]) <= 17
    (genome,) = stanzas_of(hub.hub.parent / top["genomesFile"])
    assert genome["genome"] == "sacCer3"
    track_db = hub.hub.parent / genome["trackDb"]
    assert track_db == hub.track_db
    tracks = stanzas_of(track_db)
    assert [track["track"] for track in tracks] == [
        "mask", "elements", "ATAC_seq_rep_1", "track_2nd", "MASK_2",
    ]  # fmt: skip
    for track in tracks:
        assert re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", track["track"])
        assert {"type", "shortLabel", "longLabel", "bigDataUrl"} <= set(track)
        assert len(track["shortLabel"]) <= 17
        assert len(track["longLabel"]) <= 80
        assert track["type"].split()[0] == "bigWig"
        assert track["visibility"] == "full"
        color(track["color"])
        most, default, least = map(int, track["maxHeightPixels"].split(":"))
        assert most >= default >= least
        data = track_db.parent / track["bigDataUrl"]
        assert data in hub.data
        assert data.is_symlink() == (not copy and track["track"] != "elements")
        with pyBigWig.open(str(data)) as file:
            assert file.isBigWig()
            assert dict(file.chroms()) == {"chr1": 100, "chr2": 50}
    scales = {track["track"]: (track["autoScale"], track.get("viewLimits")) for track in tracks}
    assert scales["mask"] == scales["elements"] == ("off", "0:1")
    assert scales["ATAC_seq_rep_1"] == ("on", None)
    assert len({track["color"] for track in tracks}) == 5
    assert (track_db.parent / "elements.bed").read_text() == BED


def test_elements_of_a_hub_are_their_scores(files: dict[str, Path], tmp_path: Path) -> None:
    hub = hub_of(files, tmp_path / "hub")
    with pyBigWig.open(str(hub.track_db.parent / "elements.bw")) as file:
        found = file.values("chr1", 0, 100, numpy=True)
        other = file.values("chr2", 0, 50, numpy=True)
    expected = np.full(100, np.nan)
    expected[10:20] = 0.8
    expected[20:40] = 0.9  # the greater one where both are
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    np.testing.assert_array_equal(np.flatnonzero(other == 0), np.arange(5))


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 10), st.integers(0, 5)), max_size=8))
def test_stretches_agree_with_a_base_by_base_oracle(
    tmp_path_factory: pytest.TempPathFactory, drawn: list[tuple[int, int, int]]
) -> None:
    bed = tmp_path_factory.mktemp("bed") / "e.bed"
    bed.write_text("".join(f"c\t{a}\t{a + w}\tx\t{s}\n" for a, w, s in [(0, 1, 0), *drawn]))
    table = read_regions(bed)
    starts, ends, values = _greatest(table, table["score"].astype(float))
    dense = [None] * 41
    for row in table.itertuples():
        for base in range(row.start, row.end):
            dense[base] = max(dense[base] or 0.0, float(row.score))
    found = [None] * 41
    for start, end, value in zip(starts, ends, values, strict=True):
        assert found[start:end] == [None] * (end - start)
        found[start:end] = [value] * (end - start)
    assert found == dense


def test_hubs_are_replaced_only_when_asked(files: dict[str, Path], tmp_path: Path) -> None:
    folder = tmp_path / "hub"
    hub_of(files, folder)
    with pytest.raises(FileExistsError, match="Pass overwrite=True to replace the hub"):
        hub_of(files, folder)
    again = hub_of(files, folder, overwrite=True, label="Other")
    assert "longLabel Other\n" in again.hub.read_text()
    assert not list(folder.rglob(".*"))


WRONG = [
    ({"genome": "hg 38"}, "genome is 'hg 38'; expected letters"),
    ({"name": "1hub"}, "name is '1hub'"),
    ({"email": "me"}, "email is 'me'; expected an address"),
]


@pytest.mark.parametrize(("given_wrong", "message"), WRONG)
def test_wrong_hubs(
    files: dict[str, Path], tmp_path: Path, given_wrong: dict[str, str], message: str
) -> None:
    arguments = {"genome": "hg38", "email": "a@b.org", "masks": files["masks"], **given_wrong}
    with pytest.raises(ValueError, match=message):
        write_track_hub(tmp_path / "hub", **arguments)
    assert not (tmp_path / "hub").exists()


def test_elements_off_the_chromosomes_leave_no_hub(files: dict[str, Path], tmp_path: Path) -> None:
    files["elements"].write_text("chr1\t90\t101\nchr3\t0\t5\n")
    with pytest.raises(ValueError, match=r"2 lie off the chromosomes .* chr1:90-101"):
        hub_of(files, tmp_path / "hub")
    assert not (tmp_path / "hub" / "hub.txt").exists()


@pytest.mark.parametrize("score", [".", "1001", "-1"])
def test_scores_that_are_none(files: dict[str, Path], tmp_path: Path, score: str) -> None:
    files["elements"].write_text(f"chr1\t1\t9\ta\t{score}\t+\n")
    message = rf"1 scores of .* from 0 to 1000, the first '{re.escape(score)}'"
    with pytest.raises(ValueError, match=message):
        hub_of(files, tmp_path / "hub")


def test_elements_without_scores_have_full_height(files: dict[str, Path], tmp_path: Path) -> None:
    files["elements"].write_text("chr1\t1\t9\n")
    hub = hub_of(files, tmp_path / "hub")
    with pyBigWig.open(str(hub.track_db.parent / "elements.bw")) as file:
        assert file.intervals("chr1") == ((1, 9, 1.0),)
