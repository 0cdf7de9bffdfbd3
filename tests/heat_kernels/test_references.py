"""Heat kernels against multiprecision series, quadrature and closed forms."""

from __future__ import annotations

import math

import mpmath as mp
import pytest
import torch

from manifold_diffusion.heat_kernels import heat_kernel
from manifold_diffusion.manifolds import SO3, Hyperboloid, Manifold, Sphere

from .points import F64, on_geodesic


def sphere_series(n: int, r: float, tau: float, drop: float) -> tuple[float, float]:
    """Log density and its derivative in r from the Gegenbauer series in multi-precision floats."""
    with mp.workdps(int((drop + 60) / 2.3) + 40 + n // 2):
        t, x = mp.mpf(tau), mp.cos(mp.mpf(r))
        volume = 2 * mp.pi ** (mp.mpf(n + 1) / 2) / mp.gamma(mp.mpf(n + 1) / 2)
        a, b, da, db = mp.mpf(1), x, mp.mpf(0), mp.mpf(1)
        count, total, slope, level = mp.mpf(1), mp.mpf(1), mp.mpf(0), 1
        peak = mp.mpf(1)
        while True:
            count = (
                count * (2 * level + n - 1) * (level + n - 2) / (level * (2 * level + n - 3))
                if level > 1
                else mp.mpf(n + 1)
            )
            w = count * mp.e ** (-level * (level + n - 1) * t / 2)
            total, slope, peak = total + w * b, slope + w * db, max(peak, w)
            if w < mp.e ** (-drop - 50) and w < peak:
                break
            k = level
            a, b, da, db = (
                b,
                ((2 * k + n - 1) * x * b - k * a) / (k + n - 1),
                db,
                ((2 * k + n - 1) * (b + x * db) - k * da) / (k + n - 1),
            )
            level += 1
        return float(mp.log(total / volume)), float(-mp.sin(mp.mpf(r)) * slope / total)


def rotation_series(w: float, tau: float) -> tuple[float, float]:
    """The same for SO(3), from its characters."""
    with mp.workdps(120):
        t, angle = mp.mpf(tau), mp.mpf(w)

        def density(a: mp.mpf) -> mp.mpf:
            levels = int(mp.sqrt(600 / t)) + 10
            total, chi = mp.mpf(0), mp.mpf(0)
            for level in range(levels):
                chi += 1 if level == 0 else 2 * mp.cos(level * a)
                total += (2 * level + 1) * mp.e ** (-level * (level + 1) * t / 2) * chi
            return total / (8 * mp.pi**2)

        h = mp.mpf(10) ** -30
        p = density(angle)
        return float(mp.log(p)), float((density(angle + h) - density(angle - h)) / (2 * h * p))


def hyperbolic_plane(r: float, tau: float) -> float:
    """Log density on H^2 from McKean's integral, by tanh-sinh quadrature."""
    with mp.workdps(30):
        t, r_ = mp.mpf(tau), mp.mpf(r)

        def f(x: mp.mpf) -> mp.mpf:
            s = r_ + x * x
            return (
                s
                * mp.e ** (-(s * s - r_ * r_) / (2 * t))
                / mp.sqrt(2 * mp.sinh((s + r_) / 2) * mp.sinh(x * x / 2))
                * 2
                * x
            )

        scale = mp.sqrt(t / (r_ + mp.sqrt(t)))
        value = mp.quad(f, [0, scale / 2, scale, 2 * scale, 4 * scale, 8 * scale, 16 * scale])
        return float(
            mp.log(mp.sqrt(2) * mp.e ** (-t / 8) * (2 * mp.pi * t) ** mp.mpf(-1.5) * value) - r_ * r_ / (2 * t)
        )


def check_against(M: Manifold, r: float, tau: float, log_p: float, score: float, double: float, single: float) -> None:
    for dtype, tolerance in ((F64, double), (torch.float32, single)):
        x, x0 = on_geodesic(M, [r], dtype)
        K = heat_kernel(M)
        # The reference is at radius r; rounding of the point moves it by eps, which the slope turns into an error of
        # its own.
        blur = 4 * torch.finfo(dtype).eps * (1 + abs(score))
        got = float(K.log_prob(x, x0, tau)[0])
        assert abs(got - log_p) <= tolerance * (1 + abs(log_p)) + blur, (M, r, tau, dtype, got, log_p)
        v = K.score(x, x0, tau)
        radial_score = float(-(M.inner(x, v, M.log(x, x0)) / M.dist(x, x0))[0])
        relative = (
            4
            * torch.finfo(dtype).eps
            * (1 / r + 1 / max(math.pi - r, 1e-3) if not isinstance(M, Hyperboloid) else 1 / r)
        )
        assert abs(radial_score / score - 1) <= tolerance + relative, (M, r, tau, dtype, radial_score, score)


@pytest.mark.parametrize("n", [2, 3, 9, pytest.param(127, marks=pytest.mark.slow)])
def test_sphere_agrees_with_multiprecision_series(n):
    for tau in (
        3e-4,
        0.4 / n,
        2.4 / n if n > 83 else 0.0299,
        2.6 / n if n > 83 else 0.0301,
        0.25 if n < 20 else 5 / n,
        4 / n,
    ):
        centre = math.acos(math.exp(-n * tau / 2))
        for z in (-2.0, 0.0, 3.0, 7.0):
            r = centre + z * math.sqrt(tau) / (1 if n < 20 else 1.4)
            if not 0.05 * math.sqrt(tau) < r < math.pi - 0.01:
                continue
            log_p, score = sphere_series(n, r, tau, min(r * r / (2 * tau) + n, 400.0))
            check_against(Sphere(n), r, tau, log_p, score, 2e-9, 2e-6)


@pytest.mark.slow
def test_sphere_2_at_the_smallest_time():
    for z in (0.3, 1.5, 6.0):
        r, tau = z * 1e-3, 1e-6
        log_p, score = sphere_series(2, r, tau, z * z / 2)
        check_against(Sphere(2), r, tau, log_p, score, 2e-9, 2e-6)


@pytest.mark.slow
@pytest.mark.parametrize("n", [511])
def test_large_sphere_agrees_with_multiprecision_series(n):
    for tau in (1e-4, 2e-3, 0.0048, 0.005, 0.02):
        centre = math.acos(math.exp(-n * tau / 2))
        for z in (-4.0, 0.0, 4.0, 8.0):
            r = centre + z * math.sqrt(tau) / 1.4
            log_p, score = sphere_series(n, r, tau, min(r * r / (2 * tau) + n, 900.0))
            check_against(Sphere(n), r, tau, log_p, score, 2e-7, 2e-6)


def test_rotation_group_agrees_with_multiprecision_characters():
    for tau in (0.02, 0.24, 0.26, 1.0, 4.0):
        for r in (0.05, 0.5, 1.5, 2.5, 3.1):
            if r * r / (2 * tau) < 80:
                check_against(SO3(), r, tau, *rotation_series(r, tau), 5e-9, 5e-6)


def test_sphere_3_is_its_closed_form_at_short_times():
    x, x0 = on_geodesic(Sphere(3), [1e-3, 0.1, 1.0, 2.2])
    r = torch.tensor([1e-3, 0.1, 1.0, 2.2], dtype=F64)
    for tau in (1e-6, 1e-3, 0.02):
        expected = -1.5 * math.log(2 * math.pi * tau) + tau / 2 + (r / r.sin()).log() - r**2 / (2 * tau)
        torch.testing.assert_close(heat_kernel(Sphere(3)).log_prob(x, x0, tau), expected, rtol=1e-9, atol=1e-8)


def test_hyperbolic_3_is_its_closed_form():
    r = torch.tensor([1e-3, 0.1, 1.0, 5.0, 20.0], dtype=F64)
    x, x0 = on_geodesic(Hyperboloid(3), r)
    K = heat_kernel(Hyperboloid(3))
    for tau in (1e-6, 1e-3, 0.3, 10.0, 100.0):
        expected = -1.5 * math.log(2 * math.pi * tau) - tau / 2 + (r / r.sinh()).log() - r**2 / (2 * tau)
        torch.testing.assert_close(K.log_prob(x, x0, tau), expected, rtol=1e-9, atol=1e-8)
        slope = 1 / r - 1 / r.tanh() - r / tau
        torch.testing.assert_close(Hyperboloid(3).norm(x, K.score(x, x0, tau)), -slope, rtol=1e-7, atol=0)


def test_hyperbolic_plane_agrees_with_mckean():
    for tau in (1e-4, 0.05, 1.0, 30.0):
        for r in (0.5 * math.sqrt(tau), 3 * math.sqrt(tau)):
            log_p = hyperbolic_plane(r, tau)
            h = 1e-4 * math.sqrt(tau)
            score = (hyperbolic_plane(r + h, tau) - hyperbolic_plane(r - h, tau)) / (2 * h)
            x, x0 = on_geodesic(Hyperboloid(2), [r])
            K = heat_kernel(Hyperboloid(2))
            assert abs(float(K.log_prob(x, x0, tau)) - log_p) < 1e-8 * (1 + abs(log_p))
            assert abs(float(Hyperboloid(2).norm(x, K.score(x, x0, tau))) / -score - 1) < 1e-6


def test_hyperbolic_5_by_differentiating_dimension_3():
    n, r = 3, mp.mpf("1.3")
    for tau in (0.01, 0.7):
        t = mp.mpf(tau)

        def p3(s, t=t):
            return (2 * mp.pi * t) ** mp.mpf(-1.5) * s / mp.sinh(s) * mp.e ** (-t / 2 - s * s / (2 * t))

        p5 = -(mp.e ** (-n * t / 2)) / (2 * mp.pi * mp.sinh(r)) * mp.diff(p3, r)
        x, x0 = on_geodesic(Hyperboloid(5), [1.3])
        assert abs(float(heat_kernel(Hyperboloid(5)).log_prob(x, x0, tau)) - float(mp.log(p5))) < 1e-8
