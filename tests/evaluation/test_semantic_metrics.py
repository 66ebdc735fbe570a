"""Semantic metrics against numbers worked out by hand (to 1e-6)."""

import numpy as np
import pytest

from maft.evaluation.metrics import confusion_matrix, semantic_scores, unique_names

IGNORE = 255


def scores_of(*pairs, num_classes):
    total = sum(
        confusion_matrix(np.array(prediction), np.array(label), num_classes, IGNORE) for prediction, label in pairs
    )
    return semantic_scores(total)


def test_confusion_rows_are_predictions_and_ignored_pixels_are_nowhere():
    prediction = np.array([[0, 1, 2], [2, 2, 0]])
    label = np.array([[0, 1, 1], [2, IGNORE, IGNORE]], dtype=np.uint8)
    assert confusion_matrix(prediction, label, 3, IGNORE).tolist() == [[1, 0, 0], [0, 1, 0], [0, 1, 1]]


def test_metrics_by_hand_with_ignored_pixels_and_one_sided_classes():
    # Class 0: 3 true, 2 hit, 3 predicted -> IoU 2/4. Class 1: 2 true, 1 hit, 1 predicted -> IoU 1/2, ACC 1/2.
    # Class 2: only in the ground truth, 1 pixel. Class 3: only predicted, 2 pixels. Class 4: only on ignored pixels.
    prediction = [[0, 0, 3], [1, 3, 0], [4, 4, 4]]
    label = [[0, 0, 0], [1, 1, 2], [IGNORE, IGNORE, IGNORE]]
    scores = scores_of((prediction, label), num_classes=5)
    assert scores.iou[:3] == pytest.approx([50, 50, 0], abs=1e-6)
    assert np.isnan(scores.iou[3:]).all()
    assert scores.acc[:3] == pytest.approx([200 / 3, 50, 0], abs=1e-6)
    assert np.isnan(scores.acc[3:]).all()
    assert scores.miou_reference == pytest.approx(100 / 4, abs=1e-6)  # classes 0 to 3
    assert scores.miou_present == pytest.approx(100 / 3, abs=1e-6)  # classes 0 to 2
    assert scores.fwiou == pytest.approx(50 * 3 / 6 + 50 * 2 / 6, abs=1e-6)
    assert scores.macc == pytest.approx((200 / 3 + 50) / 3, abs=1e-6)
    assert scores.pacc == pytest.approx(50, abs=1e-6)


def test_both_definitions_agree_where_every_predicted_class_occurs():
    scores = scores_of(([[0, 1], [1, 1]], [[0, 0], [1, 1]]), num_classes=7)
    assert scores.miou_reference == scores.miou_present == pytest.approx((50 + 200 / 3) / 2, abs=1e-6)


def test_an_image_without_annotation_changes_nothing():
    pair = ([[0, 1], [1, 1]], [[0, 0], [1, 1]])
    blank = ([[2, 2], [2, 2]], [[IGNORE] * 2] * 2)
    alone, both = scores_of(pair, num_classes=3), scores_of(pair, blank, num_classes=3)
    assert alone.as_dict(["a", "b", "c"]) == both.as_dict(["a", "b", "c"])


def test_nothing_annotated_is_an_error_not_a_number():
    with pytest.raises(ValueError, match="no pixel"):
        scores_of(([[0]], [[IGNORE]]), num_classes=2)


@pytest.mark.parametrize(("prediction", "label"), [([[3]], [[0]]), ([[0]], [[3]]), ([[-1]], [[0]]), ([[0, 0]], [[0]])])
def test_values_outside_the_vocabulary_and_other_shapes_are_refused(prediction, label):
    with pytest.raises(ValueError):
        confusion_matrix(np.array(prediction), np.array(label), 3, IGNORE)


def test_sixteen_bit_labels_with_their_own_ignore_value():
    label = np.array([[300, 65535], [846, 255]], dtype=np.uint16)
    confusion = confusion_matrix(np.array([[300, 5], [0, 255]]), label, 847, 65535)
    assert confusion.sum() == 3
    assert confusion[300, 300] == confusion[0, 846] == confusion[255, 255] == 1


def test_as_dict_writes_none_for_what_is_undefined_and_keeps_equal_names_apart():
    scores = scores_of(([[0, 1]], [[0, 0]]), num_classes=3)
    written = scores.as_dict(["door", "door", "wall"])
    assert list(written["per_class"]) == ["door", "door (1)", "wall"]
    assert written["per_class"]["door"] == {"IoU": 50.0, "ACC": 50.0, "pixels": 2, "predicted_pixels": 1}
    assert written["per_class"]["wall"]["IoU"] is None
    assert written["classes"] == {"vocabulary": 3, "in_ground_truth": 1, "in_ground_truth_or_prediction": 2}


def test_equal_names_stay_distinct_even_against_a_made_up_one():
    assert len(set(unique_names(["a (1)", "a", "a", "b"]))) == 4
