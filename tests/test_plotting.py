"""Every manifold has a figure, the picture says what the points say, and matplotlib's global state stays as it was."""

from __future__ import annotations

import io
import math
import subprocess
import sys
from functools import cache
from pathlib import Path

import matplotlib
import numpy as np
import pytest
import torch
from torch import Tensor

from manifold_diffusion._errors import ConfigError, DataError, ManifoldError, NumericsError
from manifold_diffusion.manifolds import SO3, Euclidean, Hyperboloid, Manifold, Product, Sphere, Torus
from manifold_diffusion.plotting import (
    Mollweide,
    PoincareDisk,
    Ramachandran,
    RotationMap,
    compare,
    plot,
    plot_training,
    plot_trajectory,
    save_figure,
    views,
)

MANIFOLDS = [
    Sphere(1),
    Sphere(2),
    Sphere(7),
    Torus(1),
    Torus(2),
    Torus(4),
    SO3(),
    Hyperboloid(1),
    Hyperboloid(2),
    Hyperboloid(4),
    Euclidean(1),
    Euclidean(2),
    Euclidean(5),
    Product(SO3(), Euclidean(3)),
    Product(Torus(1), Sphere(2)),
]


def near_origin(manifold: Manifold, n: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    """A cluster about the origin."""
    origin = manifold.origin(dtype).expand(n, *manifold.point_shape)
    return manifold.exp(origin, 0.4 * manifold.random_tangent(origin, generator=torch.Generator().manual_seed(seed)))


def bump(manifold: Manifold):
    """A log density that falls off from the origin."""
    return lambda x: -8 * manifold.dist(manifold.origin(x.dtype).expand_as(x), x).square()


def pixels(figure) -> np.ndarray:
    figure.canvas.draw()
    return np.asarray(figure.canvas.buffer_rgba())[..., :3].astype(float)


def lightness_at(figure, ax, xy: tuple[float, float]) -> float:
    """Mean lightness of a few pixels about a point of the axes."""
    image = pixels(figure)
    u, v = ax.transData.transform(xy)
    row, column = round(image.shape[0] - v), round(u)
    return float(image[row - 2 : row + 3, column - 2 : column + 3].mean())


@cache
def drawn(manifold: Manifold):
    """A figure of everything at once."""
    data, samples = near_origin(manifold, 60), near_origin(manifold, 40, seed=1)
    return compare(manifold, data, samples, bump(manifold), title="Title", resolution=24)


@pytest.mark.parametrize("manifold", MANIFOLDS, ids=str)
def test_every_manifold_is_drawn_and_saved(manifold: Manifold, tmp_path: Path) -> None:
    path, figure = tmp_path / "figure.png", drawn(manifold)
    save_figure(figure, path, dpi=60)
    width, height = figure.get_size_inches() * 60
    image = matplotlib.image.imread(path)
    assert abs(image.shape[1] - width) <= 1
    assert abs(image.shape[0] - height) <= 1
    assert image[..., :3].std() > 0.02
    assert [p.name for p in tmp_path.iterdir()] == ["figure.png"]


@pytest.mark.parametrize("manifold", MANIFOLDS, ids=str)
def test_nothing_is_drawn_outside_the_figure_or_over_another_panel(manifold: Manifold) -> None:
    figure = drawn(manifold)
    renderer = figure.canvas.get_renderer()
    boxes = [ax.get_tightbbox(renderer, for_layout_only=False) for ax in figure.axes]
    title = figure._suptitle.get_window_extent(renderer)
    for box in [*boxes, title]:
        assert box.x0 >= 0 and box.y0 >= 0
        assert box.x1 <= figure.bbox.x1 and box.y1 <= figure.bbox.y1
    for i, a in enumerate(boxes):
        for b in [*boxes[i + 1 :], title]:
            apart = a.x1 <= b.x0 + 1 or b.x1 <= a.x0 + 1 or a.y1 <= b.y0 + 1 or b.y1 <= a.y0 + 1
            assert apart, "two panels overlap"


def test_titles_count_the_points() -> None:
    x = near_origin(Sphere(2), 1234)
    figure = plot(Sphere(2), samples=x[:30], data=x)
    assert [ax.get_title() for ax in figure.axes] == ["data, n = 1,234", "samples, n = 30"]


@pytest.mark.parametrize("manifold", [Sphere(2), Torus(2), Hyperboloid(2), Euclidean(2)], ids=str)
def test_density_is_brighter_where_it_is_higher(manifold: Manifold) -> None:
    x = near_origin(manifold, 400)
    figure = plot(manifold, samples=x, log_prob=bump(manifold), resolution=60)
    ax = figure.axes[1]
    origin = views(manifold)[0].plane(manifold.origin().unsqueeze(0))[0]
    near, between, far = (origin + np.array([0, d]) for d in _steps(manifold))
    assert lightness_at(figure, ax, near) > lightness_at(figure, ax, between) + 20
    assert lightness_at(figure, ax, between) > lightness_at(figure, ax, far) + 5


def _steps(manifold: Manifold) -> tuple[float, float, float]:
    if manifold == Torus(2):
        return 4.0, 45.0, 120.0
    if manifold == Sphere(2):
        return -0.05, -0.6, -1.8
    if manifold == Hyperboloid(2):
        return 0.03, 0.36, 0.9
    return 0.05, 0.7, 1.3


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("manifold", [Sphere(2), Torus(2), Hyperboloid(2), Euclidean(2)], ids=str)
def test_density_grid_is_on_the_manifold_and_in_the_dtype_of_the_points(manifold: Manifold, dtype: torch.dtype) -> None:
    seen = []

    def log_prob(x: Tensor) -> Tensor:
        seen.append(x)
        return bump(manifold)(x)

    plot(manifold, near_origin(manifold, 10, dtype=dtype), log_prob=log_prob, resolution=40, batch_size=300)
    assert len(seen) > 1
    assert max(len(x) for x in seen) == 300
    for x in seen:
        assert x.dtype == dtype
        manifold.check_point(x)


def test_density_pixels_show_the_density_at_their_own_place() -> None:
    """The image inverts the map: where the log density is the longitude, its colours are the map's own longitudes."""
    x = near_origin(Sphere(2), 5)
    figure = plot(Sphere(2), x, log_prob=lambda p: torch.atan2(p[:, 1], p[:, 0]), resolution=120)
    image = figure.axes[1].get_images()[0]
    picture, (left, right, bottom, top) = np.asarray(image.get_array()), image.get_extent()
    u = left + (np.arange(picture.shape[1]) + 0.5) * (right - left) / picture.shape[1]
    v = bottom + (np.arange(picture.shape[0]) + 0.5) * (top - bottom) / picture.shape[0]
    uu, vv = np.meshgrid(u, v)
    inside = (uu / (2 * math.sqrt(2))) ** 2 + (vv / math.sqrt(2)) ** 2 < 0.98
    lon = picture[inside] - math.log(4 * math.pi)
    half_width = np.sqrt(8 * (1 - vv[inside] ** 2 / 2))
    kept = lon > picture[inside].min() - math.log(4 * math.pi) + 0.1
    np.testing.assert_allclose(lon[kept], (math.pi * uu[inside] / half_width)[kept], atol=2e-3)


def test_mollweide_preserves_area() -> None:
    """Uniform points on the sphere are uniform on the ellipse: |(u / 2, v)|^2 / 2 is uniform on [0, 1]."""
    x = Sphere(2).random_uniform(20_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    u, v = Mollweide().plane(x).T
    squared = ((u / 2) ** 2 + v**2) / 2
    for q in (0.1, 0.5, 0.9):
        assert abs((squared < q).mean() - q) < 5 * math.sqrt(q * (1 - q) / len(squared))
    # The plain cylindrical longitude and latitude would fail.
    plain = (torch.atan2(x[:, 1], x[:, 0]) / math.pi).square() + (x[:, 2].asin() / (math.pi / 2)).square()
    assert abs((plain < 0.5).double().mean() - 0.5) > 5 * math.sqrt(0.25 / len(plain))


def test_poincare_disk_keeps_the_distance_to_the_origin() -> None:
    x = near_origin(Hyperboloid(2), 50, dtype=torch.float64)
    radius = np.linalg.norm(PoincareDisk().plane(x), axis=-1)
    np.testing.assert_allclose(2 * np.arctanh(radius), Hyperboloid(2).dist(Hyperboloid(2).origin(torch.float64), x))


def test_rotation_map_separates_direction_and_turn() -> None:
    manifold = SO3()
    identity = manifold.identity(torch.float64)
    turns = torch.linspace(-3, 3, 7, dtype=torch.float64)
    zero = torch.zeros_like(turns)
    about_z = manifold.exp(identity.expand(7, 3, 3), manifold.hat(torch.stack([zero, zero, turns], -1)))
    tilt = manifold.exp(identity, manifold.hat(torch.tensor([0.3, 0.9, 0.0], dtype=torch.float64)))
    view, x = RotationMap(), tilt @ about_z
    np.testing.assert_allclose(view.hue(x), turns.rad2deg(), atol=1e-9)
    np.testing.assert_allclose(view.plane(x), np.tile(view.plane(x[:1]), (7, 1)), atol=1e-9)


def test_ramachandran_axes_are_degrees() -> None:
    figure = plot(Torus(2), near_origin(Torus(2), 5))
    ax = figure.axes[0]
    assert ax.get_xlim() == (-180, 180)
    assert list(ax.get_yticks()) == [-180, -90, 0, 90, 180]
    np.testing.assert_allclose(Ramachandran().plane(torch.tensor([[math.pi / 2, -1.0]])), [[90, -57.29578]], rtol=1e-5)


def test_histogram_areas_are_probabilities() -> None:
    figure = plot(Euclidean(1), data=near_origin(Euclidean(1), 500), samples=near_origin(Euclidean(1), 300, seed=1))
    for steps in figure.axes[0].patches:
        values, edges, _ = steps.get_data()
        assert (values * np.diff(edges)).sum() == pytest.approx(1.0)


def test_reference_law_of_the_rotation_angle_is_normalised() -> None:
    angles = views(SO3())[1]
    w = np.linspace(0, 180, 20_001)
    assert np.trapezoid(angles.reference(w), w) == pytest.approx(1.0, abs=1e-6)


def test_reference_law_of_the_angle_between_points_of_a_sphere_is_normalised() -> None:
    angles = views(Sphere(9))[-1]
    w = np.linspace(0, 180, 20_001)
    assert np.trapezoid(angles.reference(w), w) == pytest.approx(1.0, abs=1e-6)


class Line(Manifold):
    """A user's manifold: the real line."""

    def __init__(self) -> None:
        super().__init__(1, (1,))

    def inner(self, x: Tensor, u: Tensor, v: Tensor) -> Tensor:
        return (u * v).sum(-1)

    def to_tangent(self, x: Tensor, v: Tensor) -> Tensor:
        return v

    def project(self, x: Tensor) -> Tensor:
        return x

    def exp(self, x: Tensor, v: Tensor) -> Tensor:
        return x + v

    def log(self, x: Tensor, y: Tensor) -> Tensor:
        return y - x


class Cylinder(Line):
    """Registers views of its own."""


class Graph(Line):
    """Registers a figure of its own."""


def test_unregistered_manifold_has_a_general_figure() -> None:
    figure = compare(Line(), torch.randn(50, 1), torch.randn(50, 1))
    assert figure.axes[0].get_xlabel() == "$x_1$"


def test_user_registers_views() -> None:
    @views.register
    def _(manifold: Cylinder):
        return [Mollweide(name="mine")]

    x = Sphere(2).random_uniform(4, generator=torch.Generator().manual_seed(0))
    cylinder = Cylinder()
    cylinder.point_shape = (3,)
    assert plot(cylinder, x).axes[0].get_title() == "samples, n = 4  ·  mine"


def test_user_registers_a_figure() -> None:
    @plot.register
    def _(manifold: Graph, samples=None, data=None, log_prob=None, *, title=None, path=None):
        return f"{len(samples)} and {len(data)}"

    assert compare(Graph(), torch.zeros(3, 1), torch.zeros(2, 1)) == "2 and 3"


def test_points_outside_the_frame_are_counted() -> None:
    x = torch.randn(1000, 2, generator=torch.Generator().manual_seed(0))
    x[:3] = 1e4
    ax = plot(Euclidean(2), x).axes[0]
    assert ax.get_xlim()[1] < 10
    assert [t.get_text() for t in ax.texts] == ["3 outside the frame"]


def test_many_views_are_cut_and_the_title_says_so() -> None:
    figure = plot(Torus(12), near_origin(Torus(12), 5), title="Chain")
    assert len(figure.axes) == 6
    assert figure.get_suptitle() == "Chain (first 6 of 11 views)"


def test_flat_density_looks_flat() -> None:
    """Numerical noise of 1e-6 nats must not be stretched over the colour map."""
    noise = torch.Generator().manual_seed(0)
    figure = plot(Sphere(2), log_prob=lambda x: 1e-6 * torch.randn(len(x), generator=noise), resolution=24)
    low, high = figure.axes[0].get_images()[0].get_clim()
    assert high - low >= 0.5


def test_zero_density_is_drawn() -> None:
    figure = plot(Sphere(2), log_prob=lambda x: torch.where(x[:, 2] > 0, 0.0, -math.inf), resolution=40)
    assert lightness_at(figure, figure.axes[0], (0.1, 1)) > lightness_at(figure, figure.axes[0], (0.1, -1)) + 20


def test_colours_ignore_the_tail_of_the_density() -> None:
    def log_prob(x: Tensor) -> Tensor:
        return 3 * x[:, 2] - 1e4 * (x[:, 2] < -0.9)

    low, high = plot(Sphere(2), log_prob=log_prob, resolution=60).axes[0].get_images()[0].get_clim()
    assert high - low < 10


def test_draws_on_given_axes() -> None:
    from matplotlib.figure import Figure

    ax = Figure().add_subplot()
    figure = plot(Sphere(2), near_origin(Sphere(2), 5), ax=ax)
    assert figure is ax.figure
    assert len(ax.collections) == 1


def test_given_axes_must_suit_the_figure() -> None:
    from matplotlib.figure import Figure

    x = near_origin(Sphere(2), 5)
    with pytest.raises(ConfigError, match="one panel, and this figure has 2"):
        plot(Sphere(2), x, x, ax=Figure().add_subplot())
    with pytest.raises(ConfigError, match="needs 'polar'"):
        plot(Torus(1), near_origin(Torus(1), 5), ax=Figure().add_subplot())


def test_bad_points_are_refused() -> None:
    x = near_origin(Sphere(2), 5)
    with pytest.raises(ManifoldError, match="samples has shape"):
        plot(Sphere(2), x[:, :2])
    with pytest.raises(ManifoldError, match="data has 1 of 5 points with NaN"):
        plot(Sphere(2), data=torch.where(torch.arange(15).reshape(5, 3) == 7, math.nan, x))
    with pytest.raises(ManifoldError, match="samples is not on"):
        plot(Sphere(2), 2 * x)
    with pytest.raises(DataError, match="samples is empty"):
        plot(Sphere(2), x[:0])
    with pytest.raises(DataError, match="compare needs samples"):
        compare(Sphere(2), x, None)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="nothing to draw"):
        plot(Sphere(2))
    with pytest.raises(ConfigError, match="expected a Manifold"):
        plot("sphere", x)  # type: ignore[arg-type]


def test_bad_densities_are_refused() -> None:
    x = near_origin(Sphere(2), 5)
    with pytest.raises(NumericsError, match="log_prob is nan at"):
        plot(Sphere(2), x, log_prob=lambda p: p[:, 2].sqrt())
    with pytest.raises(ConfigError, match="one number per point"):
        plot(Sphere(2), x, log_prob=lambda p: p)
    with pytest.raises(ConfigError, match="give samples or data"):
        plot(SO3(), log_prob=lambda p: p[:, 0, 0])
    with pytest.raises(ConfigError, match="give samples or data"):
        plot(Euclidean(2), log_prob=lambda p: p[:, 0])


def test_failed_save_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    figure = plot(Torus(2), near_origin(Torus(2), 5))
    path = tmp_path / "a.png"
    path.write_bytes(b"old")

    def full(file, **_: object) -> None:
        Path(file).write_bytes(b"half a pic")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(figure, "savefig", full)
    with pytest.raises(OSError, match="No space left"):
        save_figure(figure, path)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(("suffix", "magic"), [("png", b"\x89PNG"), ("pdf", b"%PDF"), ("svg", b"<?xml")])
def test_format_follows_the_suffix(suffix: str, magic: bytes, tmp_path: Path) -> None:
    path = tmp_path / f"a.{suffix}"
    plot(Torus(2), near_origin(Torus(2), 5), path=path)
    assert path.read_bytes().startswith(magic)


def test_unknown_format_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="suffix must be one of"):
        plot(Torus(2), near_origin(Torus(2), 5), path=tmp_path / "a.doc")


def test_global_state_of_matplotlib_is_untouched() -> None:
    """In a fresh interpreter, as this one may have imported pyplot. (`dict(rcParams)` itself would import it.)"""
    program = """
import sys
import manifold_diffusion.plotting as p
assert "matplotlib" not in sys.modules, "imported eagerly"
import torch, matplotlib
before = matplotlib.rcParams.copy()
from manifold_diffusion.manifolds import SO3, Sphere, Torus
for M in (Sphere(2), Torus(1), SO3()):
    x = M.random_uniform(20, generator=torch.Generator().manual_seed(0))
    p.compare(M, x, x, lambda y: y.reshape(len(y), -1)[:, 0], resolution=16).canvas.draw()
p.plot_training({"loss": [1.0, 0.5]}).canvas.draw()
assert matplotlib.rcParams.copy() == before, "settings changed"
assert "matplotlib.pyplot" not in sys.modules, "pyplot imported"
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_pictures_are_reproducible() -> None:
    def png() -> bytes:
        file = io.BytesIO()
        compare(Sphere(4), near_origin(Sphere(4), 30), near_origin(Sphere(4), 30, seed=1)).savefig(file, format="png")
        return file.getvalue()

    assert png() == png()


def test_training_curves_of_a_csv_file(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    path.write_text("step,train_loss,samples_per_s,val_metric\n1,2.0,,\n2,1.0,100,\n3,,,0.4\n4,0.5,120,0.3\n")
    figure = plot_training(path, title="Run", path=tmp_path / "run.png")
    assert [ax.get_ylabel() for ax in figure.axes] == ["loss", "metric", "throughput [1/s]"]
    np.testing.assert_array_equal(figure.axes[0].lines[0].get_xydata(), [[1, 2], [2, 1], [4, 0.5]])
    assert matplotlib.image.imread(tmp_path / "run.png").size > 0


def test_loss_that_became_nan_is_marked() -> None:
    figure = plot_training({"step": [0, 10, 20, 30], "loss": [1.0, 0.5, math.nan, math.nan]})
    assert "not finite from step 20" in figure.axes[0].texts[0].get_text()


def test_bad_training_logs_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    with pytest.raises(DataError, match="There is no file"):
        plot_training(path)
    path.write_text("step,loss\n1,2.0\n2,two\n")
    with pytest.raises(DataError, match="line 3: column loss is 'two'"):
        plot_training(path)
    path.write_text("step,loss\n")
    with pytest.raises(DataError, match="no row"):
        plot_training(path)
    with pytest.raises(DataError, match=r"no curve to draw.*lr"):
        plot_training({"lr": [1.0]})
    with pytest.raises(DataError, match="3 values, and there are 2 steps"):
        plot_training({"step": [1, 2], "loss": [1.0, 2.0, 3.0]})


def test_trajectory_breaks_at_the_edge_of_the_map() -> None:
    angle = torch.linspace(2.5, 4.0, 16)
    path = torch.stack([angle.cos(), angle.sin(), torch.zeros_like(angle)], -1)
    figure = plot_trajectory(Sphere(2), path.unsqueeze(1))
    segments = figure.axes[0].collections[0].get_segments()
    assert len(segments) == 14
    assert max(np.abs(np.diff(s[:, 0])).max() for s in segments) < 0.5


@pytest.mark.parametrize(
    "manifold", [Torus(3), SO3(), Hyperboloid(2), Euclidean(2), Product(SO3(), Euclidean(3))], ids=str
)
def test_trajectories_are_drawn_on_every_map(manifold: Manifold, tmp_path: Path) -> None:
    x = torch.stack([near_origin(manifold, 4, seed=k) for k in range(6)])
    plot_trajectory(manifold, x, title="Paths", path=tmp_path / "a.png")
    assert (tmp_path / "a.png").stat().st_size > 5000


def test_bad_trajectories_are_refused() -> None:
    with pytest.raises(DataError, match=r"batch shape \(5,\)"):
        plot_trajectory(Sphere(2), near_origin(Sphere(2), 5))
    with pytest.raises(ConfigError, match="charts only"):
        plot_trajectory(Torus(1), torch.zeros(3, 2, 1))
