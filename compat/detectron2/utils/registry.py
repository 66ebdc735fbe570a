"""Name to object registries (fvcore's)."""

from fvcore.common.registry import Registry as Registry
