"""Layer 8: the command line ``manifold-diffusion fit | sample | evaluate | probe | plot | info``.

The conventions are those of LightningCLI: ``--config`` (several files, later ones win), dotted overrides such as
``--trainer.max_steps 500`` or ``--model.network.init_args.width 64`` in the order of the command line,
``--print_config``, ``class_path`` and ``init_args`` for every part, and the resolved configuration saved beside each
run. LightningCLI itself owns the trainer, and here :func:`manifold_diffusion.training.fit` does, so the options are
declared with plain ``jsonargparse``, which checks their types and writes their help from the signature of that
function.

A manifold has a short name (``sphere:2``, ``so3``, ``product:so3,euclidean:3``; see
:func:`~manifold_diffusion.cli.names.parse_manifold`), and a class of this library is named by its last word
(``BrownianMotion``). What the parts share is not repeated: a process gets the manifold of the model, a network and an
objective its process.

Exit codes: 0 success; 1 a computation failed (a loss that is not finite); 2 bad usage, configuration, data or file,
with one line on standard
error; 130 Ctrl-C. ``--debug`` shows the traceback.
"""

from .app import main

__all__ = ["main"]
