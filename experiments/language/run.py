"""Learn the characters of English in windows of 24: a flow to one-hot codes, and its flow map, for text in one step.

python experiments/language/run.py [--smoke] [--steps N] [--map-steps N] [--rule RULE] [--seed S] [--out FOLDER]
"""

import argparse
import time
from pathlib import Path

import torch
from torch import Tensor

from manifold_diffusion import metrics
from manifold_diffusion.data import CharacterCodec, load_python_manual
from manifold_diffusion.models import FlowMapLanguageModel
from manifold_diffusion.networks import TokenTransformer
from manifold_diffusion.processes import TokenPath

LENGTH = 24


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smoke", action="store_true", help="a few windows and steps, to see that everything runs")
    parser.add_argument("--steps", type=int, default=2000, help="optimiser steps of the denoiser")
    parser.add_argument("--map-steps", type=int, default=1000, help="optimiser steps of the flow map")
    parser.add_argument("--rule", default="semigroup", choices=["semigroup", "lagrangian", "eulerian"])
    parser.add_argument("--seed", type=int, default=0, help="of the weights, the training and the samples")
    parser.add_argument("--out", type=Path, default=Path("runs/language"), help="folder for the model")
    args = parser.parse_args()
    start, generator = time.perf_counter(), torch.Generator().manual_seed(args.seed)
    steps, map_steps, n = (4, 4, 50) if args.smoke else (args.steps, args.map_steps, 256)

    # The last tenth of the text is held out; training windows overlap, held-out ones don't.
    codec, text = CharacterCodec(), load_python_manual()
    cut = len(text) * 9 // 10
    train, test = codec.windows(text[:cut], LENGTH, stride=5), codec.windows(text[cut:], LENGTH)
    val, real = test[1::2][: 2 * n], test[0::2][:n]
    judge = metrics.NGramModel(codec.n_tokens, order=5).fit(codec.encode(text[:cut])[None])

    path = TokenPath(codec.n_tokens, LENGTH)
    network = TokenTransformer(path, width=96, depth=3, seed=args.seed)
    model = FlowMapLanguageModel(codec.n_tokens, LENGTH, network, args.rule)
    options = {"batch_size": 64, "seed": args.seed, "val_every": 250, "out_dir": args.out, "overwrite": True}
    model.fit(train, val, denoiser_steps=steps, map_steps=map_steps, **options)
    trained = time.perf_counter() - start

    letters = real.flatten()[torch.randperm(real.numel(), generator=generator)].reshape(real.shape)
    rows: list[tuple[str, Tensor]] = [("held-out text", real), ("its letters, shuffled", letters)]
    for method, evaluations in [("map", 1), ("map", 2), ("map", 4), ("map", 8), ("map", 256), ("ode", 8), ("ode", 256)]:
        few = 8 if args.smoke and evaluations > 8 else len(real)
        sample = model.sample(few, evaluations, method=method, generator=generator)  # pyright: ignore[reportArgumentType]
        rows.append((f"{'flow map' if method == 'map' else 'flow (ODE)'}, {evaluations}", sample))
    noise = path.prior.sample(len(real), generator=generator)
    marginals = model.denoise(noise, 1.0).detach().flatten(0, 1)
    rows.append(("denoiser at t = 1, tokens alone", marginals.multinomial(1, generator=generator).reshape(real.shape)))

    print(f"\n{len(train)} training windows of {LENGTH} characters, {len(real)} samples, seed {args.seed}")
    print(f"{'':32s}{'perplexity':>18s}{'entropy, nats':>16s}{'distinct 4-grams':>18s}  the first one")
    for name, tokens in rows:
        perplexity, entropy = judge.perplexity(tokens), metrics.unigram_entropy(tokens, codec.n_tokens)
        numbers = f"{f'{perplexity:.2f}':>18s}{f'{entropy:.3f}':>16s}{metrics.distinct(tokens, 4):>18.3f}"
        print(f"{name:32s}{numbers}  |{codec.decode(tokens[0])}|")
    model.save_pretrained(args.out / "model", {"alphabet": codec.alphabet, "seed": args.seed})
    seconds = (
        f"training {trained:.0f} s, all {time.perf_counter() - start:.0f} s ({time.process_time():.0f} s of processor)"
    )
    print(f"Model: {args.out / 'model'}   {seconds}")


if __name__ == "__main__":
    main()
