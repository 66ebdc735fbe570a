"""Text side: reasons -> prompts -> classifier rows, with a bank on disk of every sentence encoded so far.

`prompts`: sentences and how they fold into rows; `encoder`: CLIP's text tower; `bank`: features on disk; `classifier`:
rows per data set and image; `feature_files`: the JSON feature files of OpenSeg-R.
"""

from maft.text.bank import FeatureBank
from maft.text.classifier import Classifier, ClassifierSource
from maft.text.encoder import CLIPTextEncoder, TextEncoder, load_text_encoder
from maft.text.prompts import Prompts, generic_prompts, image_prompts, plain_prompts
from maft.text.templates import TemplateSet, template_set

__all__ = [
    "CLIPTextEncoder",
    "Classifier",
    "ClassifierSource",
    "FeatureBank",
    "Prompts",
    "TemplateSet",
    "TextEncoder",
    "generic_prompts",
    "image_prompts",
    "load_text_encoder",
    "plain_prompts",
    "template_set",
]
