from __future__ import annotations

import pytest

from maft.errors import UserError
from maft.text.templates import TEMPLATE_SETS, TemplateSet, template_set

PUBLISHED = (
    "a photo of a {}.",
    "This is a photo of a {}",
    "There is a {} in the scene",
    "There is the {} in the scene",
    "a photo of a {} in the scene",
    "a photo of a small {}.",
    "a photo of a medium {}.",
    "a photo of a large {}.",
    "This is a photo of a small {}.",
    "This is a photo of a medium {}.",
    "This is a photo of a large {}.",
    "There is a small {} in the scene.",
    "There is a medium {} in the scene.",
    "There is a large {} in the scene.",
)


def test_vild_is_the_published_list_in_its_order() -> None:
    assert template_set("vild").templates == PUBLISHED


def test_hash_depends_on_templates_and_order_not_on_the_name() -> None:
    vild = TEMPLATE_SETS["vild"]
    assert TemplateSet("other", vild.templates).hash == vild.hash
    assert TemplateSet("vild", vild.templates[::-1]).hash != vild.hash
    assert TemplateSet("vild", vild.templates[:-1]).hash != vild.hash


def test_braces_and_percent_signs_of_a_phrase_stay() -> None:
    assert TemplateSet("one", ("a {}.",)).fill("{0} 100% {name}") == ("a {0} 100% {name}.",)


@pytest.mark.parametrize("template", ["no place", "{} and {}", "{0}", "{} }"])
def test_template_without_exactly_one_place_is_refused(template: str) -> None:
    with pytest.raises(ValueError, match="exactly one"):
        TemplateSet("bad", (template,))


def test_unknown_set_is_a_user_error_that_lists_the_known() -> None:
    with pytest.raises(UserError, match="'cifar'.*vild"):
        template_set("cifar")
