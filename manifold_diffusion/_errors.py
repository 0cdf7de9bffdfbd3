"""Exceptions of the library: each says what was wrong, what was got, what was expected and how to fix it."""

__all__ = [
    "CapabilityError",
    "CheckpointError",
    "ConfigError",
    "DataError",
    "ManifoldDiffusionError",
    "ManifoldError",
    "NumericsError",
]


class ManifoldDiffusionError(Exception):
    """Base class of every error that the library raises on purpose."""


class ManifoldError(ManifoldDiffusionError, ValueError):
    """A point or a tangent vector has the wrong shape or dtype, is not finite, or is off the manifold."""


class CapabilityError(ManifoldDiffusionError, TypeError):
    """A part needs a power (a volume, a spectrum, a heat kernel, ...) that the manifold does not have."""


class ConfigError(ManifoldDiffusionError, ValueError):
    """An argument or a configuration key is unknown, out of range, or can't be combined with the others."""


class DataError(ManifoldDiffusionError, ValueError):
    """A data file or an array can't be used: missing, corrupt, empty, or with bad rows."""


class NumericsError(ManifoldDiffusionError, ArithmeticError):
    """A computation produced a value that is not finite, or could not meet its tolerance."""


class CheckpointError(ManifoldDiffusionError, RuntimeError):
    """A saved model or checkpoint is truncated, altered, or belongs to another model."""
