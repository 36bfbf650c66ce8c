"""Flags of slim's scripts, and the command they become. No TensorFlow is loaded."""

import json
import shlex
from typing import Any

import pytest
from click.testing import CliRunner

from finetune.cli import main
from finetune.config import from_mapping


def migrated(*flags: str) -> dict[str, Any]:
    result = CliRunner().invoke(main, ["migrate", "--json", *flags])
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)  # type: ignore[no-any-return]


def settings(command: list[str]) -> dict[str, Any]:
    """The options of a command, lists where one is repeated."""
    found: dict[str, Any] = {}
    for option, value in zip(command[2::2], command[3::2], strict=True):
        name = option.removeprefix("--").replace("-", "_")
        found[name] = [*found.get(name, []), value] if name == "freeze" else value
    return found


def test_slims_defaults_are_spelled_out() -> None:
    found = settings(migrated("train_image_classifier.py", "--dataset_dir=/data/flowers")["command"])
    assert found == {
        "backbone": "slim/inception_v3",
        "batch_size": "32",
        "learning_rate": "0.01",
        "l2": "0.00004",
        "data": "/data/flowers",
        "image_size": "299",
        "optimizer": "rmsprop",
        "schedule": "exponential",
    }
    numbers = {name: float(found[name]) for name in ("learning_rate", "l2")}
    sizes = {name: int(found[name]) for name in ("batch_size", "image_size")}
    assert from_mapping({**found, **numbers, **sizes}, where="the command").optimizer == "rmsprop"


def test_the_example_of_slims_page_on_fine_tuning() -> None:
    flags = (
        "--train_dir=/tmp/flowers-models/inception_v3 --dataset_dir=/tmp/flowers --dataset_name=flowers "
        "--dataset_split_name=train --model_name=inception_v3 --checkpoint_path=/tmp/inception_v3.ckpt "
        "--checkpoint_exclude_scopes=InceptionV3/Logits,InceptionV3/AuxLogits "
        "--trainable_scopes=InceptionV3/Logits,InceptionV3/AuxLogits --max_number_of_steps 1000 "
        "--learning_rate_decay_type=fixed --nosync_replicas --log_every_n_steps=100"
    )
    answer = migrated("python", "train_image_classifier.py", *shlex.split(flags))
    found = settings(answer["command"])
    assert found["freeze"] == ["*"]  # the head is new, and always trains
    assert (found["schedule"], found["checkpoint"]) == ("constant", "/tmp/inception_v3.ckpt")
    assert found["epochs"] == "10"  # 1000 steps of 32 among 3,320 images
    assert any("moving statistics stay" in note for note in answer["notes"])
    assert any("checkpoint_exclude_scopes: not needed" in note for note in answer["notes"])


def test_other_scopes_preprocessing_and_machines() -> None:
    answer = migrated(
        *("--model_name=resnet_v2_50", "--trainable_scopes=resnet_v2_50/logits,resnet_v2_50/block4"),
        *("--num_clones=2", "--rmsprop_decay=0.95", "--dataset_dir=d", "--max_number_of_steps=10"),
    )
    found = settings(answer["command"])
    assert found["freeze"] == ["resnet_v2_50/block4*=train", "*"]
    assert found["preprocess"] == "vgg"  # slim's own choice for ResNet v2
    assert (found["image_size"], found["distribute"]) == ("224", "mirrored")
    assert "epochs" not in found
    assert any(note.startswith("rmsprop_decay: it is 0.9 here, not 0.95") for note in answer["notes"])


def test_the_evaluation_script() -> None:
    command = migrated("eval_image_classifier.py", "--model_name=mobilenet_v1_1.0", "--checkpoint_path=t")["command"]
    assert command[:2] == ["finetune", "evaluate"]
    assert settings(command)["eval_recipe"] == "published"


@pytest.mark.parametrize(
    ("flag", "words"),
    [
        ("--modelname=x", "unknown flag --modelname: did you mean model_name?"),
        ("--model_name=resnet_v9", "unknown backbone 'resnet_v9'"),
        ("--num_clones=two", "--num_clones=two: expected a number"),
        ("--learning_rate_decay_type=cosine", "expected one of fixed, exponential, polynomial"),
        ("--checkpoint_exclude_scopes=InceptionV3/Mixed_7c", "everything but the head is loaded"),
    ],
)
def test_wrong_flags_get_one_error(flag: str, words: str) -> None:
    result = CliRunner().invoke(main, ["migrate", flag])
    assert result.exit_code in (1, 2)
    assert words in result.output


def test_a_run_takes_the_same_flags_and_says_what_they_mean() -> None:
    words = ["run", "--trainable-scopes", "resnet_v1_50/block4", "--freeze", "*", "--backbone", "resnet_v1_50"]
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 2
    assert "--trainable-scopes and --freeze both say what trains" in result.output
    result = CliRunner().invoke(main, ["run", "--trainable-scopes", "x", "--config", "c.json"])
    assert result.exit_code in (1, 2)
