"""Text side: reasons -> prompts -> classifier rows, with a bank on disk of every sentence encoded so far.

`source`: which reasons an image gets; `prompts` and `rows`: MAFT+'s sentences and how they fold into rows; `encoder`:
CLIP's text tower; `bank`: features on disk; `feature_files`: the JSON feature files of OpenSeg-R.
"""

from maft.text.bank import FeatureBank
from maft.text.encoder import CLIPTextEncoder, TextEncoder, load_text_encoder
from maft.text.prompts import Prompts, generic_prompts, image_prompts, plain_prompts
from maft.text.rows import Classifier, RowFold
from maft.text.settings import ReasonSettings
from maft.text.source import Fold, TextSource
from maft.text.templates import TemplateSet, template_set

__all__ = [
    "CLIPTextEncoder",
    "Classifier",
    "FeatureBank",
    "Fold",
    "Prompts",
    "ReasonSettings",
    "RowFold",
    "TemplateSet",
    "TextEncoder",
    "TextSource",
    "generic_prompts",
    "image_prompts",
    "load_text_encoder",
    "plain_prompts",
    "template_set",
]
