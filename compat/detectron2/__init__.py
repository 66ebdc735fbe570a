"""The part of detectron2 that OpenSeg-R imports, for machines where the real one cannot be installed.

Import names and behaviour are detectron2's; whatever is not covered here is absent, so that a use of it fails at
once. compat/README.md lists what is covered and the few places where the behaviour differs on purpose.
"""

__version__ = "0.6+openseg_r.subset"
