"""Where config, detectron2 and networks meet."""

from maft.meta_arch.maft_plus import MAFT_Plus, MAFT_Plus_Reason, build_network

__all__ = ["MAFT_Plus", "MAFT_Plus_Reason", "build_network"]
