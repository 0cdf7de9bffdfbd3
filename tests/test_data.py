"""Data: conversions are right, splits are deterministic and disjoint, and bad input is named with its file and line."""

from __future__ import annotations

import math
import os
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from manifold_diffusion._errors import ConfigError, DataError, ManifoldError
from manifold_diffusion.data import (
    EARTH_FILES,
    PointSet,
    deduplicate,
    latlon_to_points,
    load_airports,
    load_csv,
    load_earth,
    load_npz,
    load_rna,
    point_set,
    points_to_latlon,
    repeated,
    split,
)
from manifold_diffusion.manifolds import SO3, Euclidean, Hyperboloid, Product, Sphere, Torus

SHARED = Path(os.environ.get("MANIFOLD_DIFFUSION_DATA", Path(__file__).parents[2] / "shared" / "data"))


def shared(name: str) -> Path:
    path = SHARED / name
    if not path.exists():
        pytest.skip(f"benchmark file {name} is absent: set MANIFOLD_DIFFUSION_DATA to the folder that has it")
    return path


@pytest.fixture
def write(tmp_path):
    def write(text: str | bytes, name: str = "places.csv") -> Path:
        path = tmp_path / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return write


# ------------------------------------------------------------------ latitude and longitude


def test_latlon_round_trip():
    g = torch.Generator().manual_seed(0)
    latlon = torch.rand(1000, 2, generator=g, dtype=torch.float64) * torch.tensor([179.8, 359.8]) - torch.tensor(
        [89.9, 179.9]
    )
    assert torch.allclose(points_to_latlon(latlon_to_points(latlon)), latlon, atol=1e-11, rtol=0)


def test_latlon_special_places_are_exact():
    x = latlon_to_points(
        torch.tensor([[90.0, 77.0], [-90.0, -3.0], [0.0, 0.0], [0.0, 90.0], [0.0, -180.0], [0.0, 180.0], [0.0, 270.0]])
    )
    expected = torch.tensor([[0, 0, 1], [0, 0, -1], [1, 0, 0], [0, 1, 0], [-1, 0, 0], [-1, 0, 0], [0, -1, 0]]).float()
    assert torch.equal(x, expected)


def test_longitudes_up_to_360_are_wrapped():
    assert torch.allclose(points_to_latlon(latlon_to_points(torch.tensor([12.0, 350.0]))), torch.tensor([12.0, -10.0]))


@pytest.mark.parametrize("bad", [[91.0, 0.0], [0.0, 361.0], [0.0, -181.0], [math.nan, 0.0], [0.0, math.inf]])
def test_latlon_out_of_range(bad):
    with pytest.raises(DataError, match="row 1"):
        latlon_to_points(torch.tensor([[0.0, 0.0], bad]))


# ------------------------------------------------------------------ de-duplication and splits


def test_deduplicate_keeps_first_appearance_and_counts():
    points, counts = deduplicate(
        torch.tensor([[3.0, 0.0], [1.0, 1.0], [3.0, -0.0], [0.0, 2.0], [1.0, 1.0], [3.0, 0.0]])
    )
    assert torch.equal(points, torch.tensor([[3.0, 0.0], [1.0, 1.0], [0.0, 2.0]]))
    assert counts.tolist() == [3, 2, 1]


def test_repeated_finds_places_of_other_points():
    x, others = torch.tensor([[3.0, 0.0], [1.0, 1.0], [3.0, -0.0], [1.0, 1.0]]), torch.tensor([[3.0, 0.0], [2.0, 1.0]])
    assert repeated(x, others).tolist() == [True, False, True, False]
    assert repeated(x[:0], others).shape == (0,) and not repeated(x, others[:0]).any()
    raw, distinct = (split(torch.cat([x, others, torch.rand(60, 2)]).repeat(3, 1), unique=u) for u in (False, True))
    assert repeated(raw.test, raw.train).any() and not repeated(distinct.test, distinct.train).any()


def test_split_is_deterministic_disjoint_and_complete():
    x = Sphere(2).random_uniform(1003, generator=torch.Generator().manual_seed(0))
    x = torch.cat([x, x[:50]])
    a = split(x, seed=3)
    torch.rand(1)  # the global generator moves on and has no say
    b = split(x, seed=3)
    parts = (a.train, a.val, a.test)
    assert all(torch.equal(p, q) for p, q in zip(parts, (b.train, b.val, b.test), strict=True))
    assert [len(p) for p in parts] == [803, 100, 100]
    assert len(deduplicate(torch.cat(parts))[0]) == 1003
    assert a.n_duplicates == 50
    assert not torch.equal(a.train, split(x, seed=4).train)


def test_split_leaves_the_global_seed_alone():
    before = torch.get_rng_state()
    split(torch.arange(20.0)[:, None])
    assert torch.equal(before, torch.get_rng_state())


def test_split_without_deduplication_and_partial_fractions():
    s = split(torch.zeros(10, 1), (0.5, 0.2, 0.0), unique=False)
    assert (len(s.train), len(s.val), len(s.test)) == (5, 2, 0)


@pytest.mark.parametrize(
    "fractions", [(0.8, 0.1), (0.8, 0.2, 0.2), (-0.1, 0.5, 0.5), (0.0, 0.0, 0.0), (math.nan, 0.1, 0.1)]
)
def test_split_rejects_fractions(fractions):
    with pytest.raises(ConfigError, match="fractions"):
        split(torch.arange(20.0)[:, None], fractions)


def test_split_rejects_too_few_points():
    with pytest.raises(DataError, match="'val'"):
        split(torch.arange(5.0)[:, None])


def test_point_set_checks_its_points():
    with pytest.raises(ManifoldError, match="not on Sphere"):
        PointSet(Sphere(2), torch.ones(4, 3))
    with pytest.raises(DataError, match="no points"):
        PointSet(Sphere(2), torch.zeros(0, 3))
    with pytest.raises(DataError, match="shape"):
        PointSet(Sphere(2), torch.eye(3)[None])


# ------------------------------------------------------------------ airports


def test_airports():
    airports = load_airports()
    assert airports.manifold == Sphere(2) and airports.points.dtype == torch.float32
    assert len(airports) > 28_000 and len(airports.deduplicated()) == len(airports)
    everything = load_airports(torch.float64, deduplicate=False)
    assert everything.points.dtype == torch.float64
    assert len(everything) == len(airports) + airports.n_duplicates
    assert torch.equal(load_airports().points, airports.points)


# ------------------------------------------------------------------ CSV


@pytest.mark.parametrize(
    "header",
    [
        "lat,lon",
        "Latitude,Longitude",
        "LATITUDE,LONGITUDE",
        "lat,long",
        "lat,lng",
        "latitude (deg),longitude (deg)",
        "lat_deg,lon_deg",
    ],
)
def test_latlon_columns_are_found_by_name(write, header):
    assert torch.allclose(
        load_csv(write(f"{header}\n90,0\n0,90\n"), Sphere(2)).points, torch.tensor([[0.0, 0, 1], [0, 1, 0]])
    )


def test_csv_skips_comments_blank_lines_and_other_columns(write):
    text = "# cited source\r\nname;Longitude;when;Latitude\r\n\r\nA;0;1999;90\r\n# note\r\nB;90;2001;0\r\n"
    places = load_csv(write(b"\xef\xbb\xbf" + text.encode()), Sphere(2), dtype=torch.float64)
    assert torch.equal(places.points, torch.tensor([[0.0, 0, 1], [0, 1, 0]], dtype=torch.float64))
    assert places.source == "cited source; note"
    assert places.name == "places"


def test_csv_columns_by_index_and_name(write):
    path = write("7,45,90\n8,0,0\n")
    assert torch.equal(
        load_csv(path, Sphere(2), columns=(1, 2)).points, latlon_to_points(torch.tensor([[45.0, 90], [0, 0]]))
    )
    named = write("A,B\n1,2\n3,4\n", "n.csv")
    assert load_csv(named, Euclidean(2), columns=("b", "a")).points.tolist() == [[2, 1], [4, 3]]


def test_csv_angles_in_degrees_and_radians(write):
    path = write("id\tG\t180\t-90\nid\tA\t-180.0\t350\n", "angles.tsv")
    expected = torch.tensor([[math.pi, -math.pi / 2], [math.pi, -math.pi / 18]])
    torus = load_csv(path, Torus(2), coordinates="degrees")
    distance = Torus(2).dist(torus.points, expected)
    assert float(distance.max()) < 1e-6
    path = write("3.0 -3.5\n1.0 2.0\n", "radians.txt")
    assert torch.allclose(load_csv(path, Torus(2)).points, torch.tensor([[3.0, 2 * math.pi - 3.5], [1.0, 2.0]]))


def test_csv_degrees_taken_for_radians_is_an_error(write):
    with pytest.raises(DataError, match=r"line 2.*coordinates='degrees'"):
        load_csv(write("1,2\n170,2\n"), Torus(2))


@pytest.mark.parametrize(
    "manifold", [Sphere(4), SO3(), Hyperboloid(3), Product(Sphere(2), Euclidean(1)), Torus(3)], ids=repr
)
def test_csv_ambient_coordinates_of_any_manifold(write, manifold):
    g = torch.Generator().manual_seed(0)
    origin = manifold.origin(dtype=torch.float64).expand(20, *manifold.point_shape)
    x = manifold.exp(origin, manifold.random_tangent(origin, g))
    rows = "\n".join(",".join(f"{v:.9f}" for v in row) for row in x.reshape(20, -1).tolist())
    loaded = load_csv(write(rows), manifold, dtype=torch.float64)
    assert float(manifold.dist(loaded.points, x).max()) < 1e-7
    manifold.check_point(load_csv(write(rows), manifold).points)


BAD_ROWS = {
    "latitude is missing": "Latitude,Longitude\n1,2\n,3\n",
    "longitude is missing": "lat,longitude\n1,2\n3\n",
    "'abc', not a number": "lat,lon\n1,2\nabc,3\n",
    "latitude 91 is outside": "lat,lon\n1,2\n91,3\n",
    "longitude 361 is outside": "lat,lon\n1,2\n4,361\n",
    "not all finite": "lat,lon\n1,2\nnan,3\n",
}


@pytest.mark.parametrize("words", BAD_ROWS, ids=str)
def test_bad_rows_are_named_with_file_and_line(write, words):
    # One comment and one blank line come first: the number is of the line in the file, not of the row.
    path = write("# comment\n\n" + BAD_ROWS[words])
    with pytest.raises(DataError, match=f"places.csv, line 5: .*{words}".replace("latitude is", "(?i:latitude) is")):
        load_csv(path, Sphere(2))


def test_all_bad_rows_are_counted(write):
    rows = ["lat,lon"] + ["95,0" if i % 3 == 0 else "5,0" for i in range(30)]
    with pytest.raises(DataError, match=r"line 2: .*10 bad rows: line 2, line 5, line 8, line 11, line 14, \.\.\."):
        load_csv(write("\n".join(rows)), Sphere(2))


def test_csv_off_manifold_row(write):
    with pytest.raises(DataError, match=r"line 2: the point is not on Sphere\(2\).*Project first"):
        load_csv(write("1,0,0\n1,1,0\n"), Sphere(2))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "empty"),
        (b"# only a comment\n\n", "empty"),
        (b"lat,lon\n", "no rows"),
        (b"lat,lon\n1,\x002\n", "line 2: a NUL byte"),
        (b"\x1f\x8b\x08\xff\xfe", "not a text file"),
        (b"north,east\n1,2\n", "2 columns hold numbers"),
        (b"lat,latitude_error,lon,lon_error\n1,x,2,x\n", None),
    ],
)
def test_csv_unusable_files(write, content, words):
    if words is None:
        assert len(load_csv(write(content), Sphere(2))) == 1
        return
    with pytest.raises(DataError, match=words):
        load_csv(write(content), Sphere(2))


def test_csv_ambiguous_or_absent_columns(write):
    with pytest.raises(DataError, match=r"several columns .*latitude_a, latitude_b"):
        load_csv(write("latitude_a,latitude_b,lon\n1,2,3\n"), Sphere(2))
    with pytest.raises(DataError, match="no column 'z'; the header is x, y"):
        load_csv(write("x,y\n1,2\n"), Euclidean(1), columns=["z"])
    with pytest.raises(ConfigError, match="indices from 0 to 1"):
        load_csv(write("x,y\n1,2\n"), Euclidean(1), columns=[2])
    with pytest.raises(DataError, match="columns called latitude and longitude"):
        load_csv(write("1,2\n"), Sphere(2), coordinates="latlon")


def test_coordinates_that_do_not_belong_to_the_manifold(write):
    path = write("lat,lon\n1,2\n")
    with pytest.raises(ConfigError, match=r"belongs to Sphere\(2\)"):
        load_csv(path, Torus(2), coordinates="latlon")
    with pytest.raises(ConfigError, match=r"belongs to Torus\(n\)"):
        load_csv(path, Sphere(1), coordinates="degrees")


def test_missing_file_and_folder(tmp_path):
    with pytest.raises(DataError, match=r"absent\.csv: can't be read"):
        load_csv(tmp_path / "absent.csv", Sphere(2))
    with pytest.raises(DataError, match="can't be read"):
        load_csv(tmp_path, Sphere(2))


def test_csv_of_100_000_rows_is_fast(write):
    path = write("lat,lon\n" + "\n".join(f"{i % 90}.25,{i % 180}.5" for i in range(100_000)))
    start = time.process_time()
    assert len(load_csv(path, Sphere(2))) == 100_000
    assert time.process_time() - start < 5


# ------------------------------------------------------------------ arrays and NPZ


def test_point_set_from_arrays_and_lists():
    assert torch.equal(point_set(np.eye(3), Sphere(2)).points, torch.eye(3))
    assert point_set([[90.0, 0.0]], Sphere(2), "latlon", dtype=torch.float64).points.tolist() == [[0, 0, 1]]
    with pytest.raises(DataError, match="row 2: coordinates"):
        point_set(torch.tensor([[1.0, 0], [0, 1], [math.nan, 0]]), Sphere(1))
    with pytest.raises(DataError, match="numbers"):
        point_set([["a", "b"]], Sphere(1))
    with pytest.raises(DataError, match="no rows"):
        point_set(torch.zeros(0, 3), Sphere(2))


def test_duplicates_are_counted_and_dropped_on_request():
    x = torch.eye(3)[[0, 1, 0, 2, 0]]
    assert point_set(x, Sphere(2)).n_duplicates == 2
    distinct = point_set(x, Sphere(2), deduplicate=True)
    assert (len(distinct), distinct.n_duplicates) == (3, 2)


def test_npz_and_npy(tmp_path):
    x = SO3().random_uniform(5, generator=torch.Generator().manual_seed(0)).double()
    x = SO3().project(x)
    np.savez(tmp_path / "a.npz", x=x.numpy(), other=np.zeros(3))
    np.save(tmp_path / "a.npy", x.numpy())
    for name in ("a.npz", "a.npy"):
        loaded = load_npz(tmp_path / name, SO3(), dtype=torch.float64)
        assert torch.allclose(loaded.points, x, atol=1e-12)
    np.savez(tmp_path / "b.npz", a=np.eye(3), b=np.eye(3))
    assert len(load_npz(tmp_path / "b.npz", Sphere(2), key="b")) == 3
    with pytest.raises(DataError, match="not clear; the file has 'a', 'b'"):
        load_npz(tmp_path / "b.npz", Sphere(2))
    with pytest.raises(DataError, match="no array 'c'"):
        load_npz(tmp_path / "b.npz", Sphere(2), key="c")


def test_npz_bad_files(tmp_path):
    path = tmp_path / "a.npz"
    np.savez(path, x=np.eye(3))
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(DataError, match=r"a\.npz"):
        load_npz(path, Sphere(2))
    np.savez(path, x=np.array([{"never": "unpickled"}], dtype=object))
    with pytest.raises(DataError, match="plain numbers"):
        load_npz(path, Sphere(2))
    np.savez(path, x=np.array([[1.0, 0, 0], [0, np.nan, 0]]))
    with pytest.raises(DataError, match=r"a\.npz, row 1"):
        load_npz(path, Sphere(2))
    with pytest.raises(DataError, match="can't be read"):
        load_npz(tmp_path / "absent.npz", Sphere(2))


# ------------------------------------------------------------------ benchmark files


def test_unknown_earth_data_are_named(tmp_path):
    with pytest.raises(DataError, match="volcano, quakes, flood; got 'fires'"):
        load_earth("fires", tmp_path)
    with pytest.raises(DataError, match=r"flood\.csv: can't be read"):
        load_earth("flood", tmp_path)


@pytest.mark.parametrize(
    ("name", "rows", "distinct"), [("volcano", 827, 267), ("quakes", 6120, 5447), ("flood", 4875, 4861)]
)
def test_earth_files(name, rows, distinct):
    events = load_earth(name, shared(f"earth/{EARTH_FILES[name]}").parent)
    assert len(events) == rows and events.n_duplicates == rows - distinct
    assert len(events.deduplicated()) == distinct


def test_rna_torsions():
    torsions = load_rna(shared("torsions/rna.tsv"))
    assert len(torsions) == 9478 and torsions.n_duplicates == 0
    assert torch.allclose(torsions.points[0, 0], torch.tensor(math.radians(-69.168933)))
