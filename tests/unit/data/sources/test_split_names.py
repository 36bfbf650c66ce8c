"""Names of splits, as people's downloads have them; and words that only contain one."""

import pytest

from finetune.data.sources.split_names import role_of, roles_of, settled
from finetune.errors import FinetuneError


@pytest.mark.parametrize(
    ("role", "names"),
    [
        (
            "train",
            "train training Train TRAIN training_set trainingSet train-images seg_train train2017 images_train trn",
        ),
        ("test", "test testing Test PrivateTest test_set seg_test Test-Images tst test_data testset img_test"),
        ("validation", "val valid PublicTest validation validation_set val2017 Valid images-val"),
        ("evaluation", "eval evaluation dev dev_set holdout"),
        ("unlabelled", "seg_pred prediction unlabeled unlabelled_images"),
        (None, "trains tester setter contest invalid develop_film latest cat strain steam_train data images 1 set"),
    ],
)
def test_names_of_splits(role, names):
    assert {name: role_of(name) for name in names.split()} == dict.fromkeys(names.split(), role)


def test_what_all_names_begin_with_does_not_count():
    assert roles_of(["asl_alphabet_train", "asl_alphabet_test"]) == {
        "asl_alphabet_train": "train",
        "asl_alphabet_test": "test",
    }
    assert roles_of(["steam_train", "steam_train "]) == {"steam_train": None, "steam_train ": None}
    assert roles_of(["steam_train"]) == {"steam_train": None}
    assert roles_of(["bullet_train", "plane"]) == {"bullet_train": None, "plane": None}


def test_dev_and_eval_are_the_test_set_where_nothing_else_is():
    found, remarks = settled(roles_of(["train", "val", "dev"]), "here")
    assert found == {"train": "train", "validation": "val", "test": "dev"}
    assert remarks == ("'dev' is taken for the test images",)
    found, _ = settled(roles_of(["Training", "dev", "testing"]), "here")
    assert found == {"train": "Training", "validation": "dev", "test": "testing"}
    found, _ = settled(roles_of(["train", "dev", "eval", "pred"]), "here")
    assert found == {"train": "train", "validation": "dev", "test": "eval"}
    for names in (["test", "testing"], ["train", "val", "test", "eval"]):
        with pytest.raises(FinetuneError, match=r"here holds .*, which mean the same: keep one of them"):
            settled(roles_of(names), "here")
