"""``manifold-diffusion evaluate``: exact test likelihood beside kernel densities, and two-sample tests."""

from __future__ import annotations

import json
import shlex
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .._errors import CapabilityError, ConfigError, DataError
from .._typing import Batch
from .._version import __version__
from ..heat_kernels import heat_kernel
from ..manifolds import Compact, Manifold, cast_points
from .arguments import new_model_parser, parse_for_model
from .files import (
    Data,
    add_data_options,
    check_least,
    check_target,
    draw,
    load_data,
    log_density,
    open_density,
    write_text,
)
from .info import table

if TYPE_CHECKING:
    from ..models import GenerativeModel
    from ..models.learned_kernels import LearnedDensity

__all__ = ["data_options", "run"]

_MAX_SAMPLE = 10_000


def run(argv: Sequence[str]) -> int:
    """Evaluate a model; see ``manifold-diffusion evaluate --help``."""
    parser = new_model_parser(
        "evaluate",
        "[--data FILE] [--out METRICS.json] [options]",
        (
            "Test likelihood (exact) of a saved model beside kernel densities fitted on the same split, and "
            "two-sample tests of its samples."
        ),
    )
    parser.add_argument(
        "--n", type=int, default=5000, help="number of samples, at most, for the two-sample tests; 0 for no tests"
    )
    parser.add_argument("--method", type=str | None, default=None, help="how to sample: ode, sde or map")
    parser.add_argument("--steps", type=int | None, default=None, help="steps of the solver")
    parser.add_argument("--permutations", type=int, default=500, help="of the MMD test")
    parser.add_argument("--baselines", type=bool, default=True, help="fit the kernel densities")
    parser.add_argument(
        "--c2st", type=bool, default=False, help="also run a classifier two-sample test (needs scikit-learn)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of samples, permutations and random parts")
    parser.add_argument("--out", type=str | None, default=None, help="a .json file for the numbers")
    add_data_options(parser, with_defaults=False)
    given = parse_for_model(parser, argv)
    if given is None:
        return 0
    check_least("n", given["n"], 0)
    check_target(given["out"], (".json",))
    model = open_density(given["model"], given["trusted"], given["device"])
    options = data_options(given["data"], model)
    data = load_data(options, model.manifold, getattr(model.network, "cond_dim", 0))
    if not len(data.test.x):
        raise DataError(f"{data.name}: the split has no test points: its fractions are {options.get('fractions')}.")

    # Before the likelihoods: options of the solver that can't be are refused here.
    samples = _samples(model, data.test, given)
    results: dict[str, Any] = {
        "model": given["model"],
        "manifold": repr(model.manifold),
        "data": data.name,
        "points": data.counts,
        "data options": options,
    }
    print(f"{data.name}: {data.counts}\n")
    try:
        heat_kernel(model.manifold)
        has_kernel = True
    except CapabilityError:
        has_kernel = False
        print(f"{model.manifold} has no heat kernel: no kernel densities, and a Gaussian kernel in the tests.\n")
    results["test nll"] = _likelihoods(model, data, given["baselines"] and has_kernel)
    if len(samples):
        results["two-sample tests"] = _two_sample_tests(model.manifold, samples, data, given, has_kernel)
    results |= {
        "seed": given["seed"],
        "command": shlex.join(["manifold-diffusion", "evaluate", *argv]),
        "versions": {"manifold_diffusion": __version__, "torch": torch.__version__},
    }
    if given["out"]:
        write_text(given["out"], json.dumps(results, indent=2) + "\n")
        print(f"\nnumbers saved to {given['out']}")
    return 0


def data_options(given: Mapping[str, Any], model: GenerativeModel | LearnedDensity) -> dict[str, Any]:
    """Options of the data: those given and, unless they name other data, those that the model was trained with."""
    given = {k: v for k, v in given.items() if v is not None}
    saved = model.metadata.get("data options")
    if "path" in given:
        return given if not isinstance(saved, dict) or saved.get("path") != given["path"] else {**saved, **given}
    if not isinstance(saved, dict):
        raise ConfigError("The model does not say which data it was trained on: name them with --data.")
    return {**saved, **given}


def _likelihoods(model: GenerativeModel | LearnedDensity, data: Data, baselines: bool) -> dict[str, Any]:
    """Print and return the negative log-likelihood of the test points under the model and under kernel densities."""
    from ..metrics import AdaptiveKernelDensity, Estimate, KernelDensity, KernelMixture, nll

    like = model.like
    cond = None if data.test.cond is None else data.test.cond.to(like)
    start = time.perf_counter()
    own = log_density(model, cast_points(model.manifold, data.test.x, like), cond).cpu()
    seconds = time.perf_counter() - start
    log_probs: dict[str, Tensor] = {"model (exact)": own}
    if baselines:
        train, val, test = data.train.x, data.val.x, data.test.x
        if not len(train) or not len(val):
            raise DataError(
                f"{data.name}: kernel densities need training and validation points. Leave them out: --baselines false."
            )
        log_probs["KDE, one bandwidth"] = KernelDensity.fit(model.manifold, train, val).log_prob(test)
        log_probs["KDE, mixture"] = KernelMixture.fit(model.manifold, train, val).log_prob(test)
        log_probs["KDE, adaptive"] = AdaptiveKernelDensity.fit(model.manifold, train, val).log_prob(test)
    rows, out = [], {}
    for name, log_prob in log_probs.items():
        estimate, gap = nll(log_prob), Estimate.mean(own.double() - log_prob.double())
        out[name] = {"value": estimate.value, "standard_error": estimate.standard_error}
        if name.startswith("KDE"):
            out[name] |= {"minus model": gap.value, "minus model standard_error": gap.standard_error}
        rows.append((name, str(estimate), str(gap) if name.startswith("KDE") else ""))
    if isinstance(model.manifold, Compact):
        uniform = model.manifold.log_volume
        out["uniform"] = {"value": uniform, "standard_error": 0.0}
        rows.append(("uniform", f"{uniform:.3f}", ""))
    print(table(("density", "test NLL (nats)", "minus the model's"), rows))
    print(f"\n{len(own):,} test points; exact likelihood took {seconds:.1f} s")
    return out


def _samples(model: GenerativeModel | LearnedDensity, test: Batch, given: Mapping[str, Any]) -> Tensor:
    """Samples for the two-sample tests, with the conditions of test points if there are some."""
    n = min(given["n"], _MAX_SAMPLE)
    cond = None if test.cond is None else test.cond[:n].to(model.like)
    noise = torch.Generator(given["device"]).manual_seed(given["seed"])
    samples = draw(model, n if cond is None else len(cond), noise, cond, steps=given["steps"], method=given["method"])
    return samples.cpu().to(test.x)


def _two_sample_tests(
    manifold: Manifold, samples: Tensor, data: Data, given: Mapping[str, Any], has_kernel: bool
) -> dict[str, Any]:
    """Print and return the tests of samples against test points."""
    from ..metrics import ChordalGaussian, HeatGram, c2st, mmd2_unbiased, mmd_permutation_test, real_vs_real_floor

    generator = torch.Generator().manual_seed(given["seed"])
    test, n = data.test.x[:_MAX_SAMPLE], len(samples)
    gram, kernel = (HeatGram(manifold), "heat") if has_kernel else (ChordalGaussian(manifold), "chordal Gaussian")
    permuted = mmd_permutation_test(samples, test, gram, given["permutations"], generator)
    by = f" ({given['method']})" if given["method"] else ""
    print(f"\n{n:,} samples{by} against {len(test):,} test points, {kernel} kernel")
    print(f"unbiased {permuted}")
    out: dict[str, Any] = {
        "samples": n,
        "kernel": kernel,
        "mmd2": permuted.mmd2,
        "p_value": permuted.p_value,
        "permuted mean": permuted.null_mean,
        "permuted std": permuted.null_std,
        "permutations": permuted.n_permutations,
    }
    everything = torch.cat([data.train.x, data.val.x, data.test.x])
    m = min(len(test), len(everything) // 2)
    size = min(n, len(everything) - m)
    if m >= 2 and size >= 2:
        floor = real_vs_real_floor(
            everything, size, m, statistic=lambda a, b: mmd2_unbiased(a, b, gram), n_repeats=10, generator=generator
        )
        print(f"floor {floor}, {size:,} against {m:,} points")
        out["real vs real"] = {"mean": floor.mean, "std": floor.std, "sizes": [size, m]}
    if given["c2st"]:
        classified = c2st(samples, test, manifold, generator=generator)
        print(classified)
        out["c2st"] = {
            "accuracy": classified.accuracy,
            "standard_error": classified.standard_error,
            "p_value": classified.p_value,
        }
    return out
