"""Where config, detectron2 and networks meet."""

from maft.meta_arch.maft_plus import MAFT_Plus, MAFT_Plus_Reason, build_network, text_parts
from maft.meta_arch.sed import SED, SED_Reason

__all__ = ["SED", "MAFT_Plus", "MAFT_Plus_Reason", "SED_Reason", "build_network", "text_parts"]
