"""Whatever is wrong: one message with the value and the way out, the right exit code, nothing left behind."""

import pytest

from tests.commands.bad_places import DEMO, FIRST_UNIT
from tests.support.commands import typed

NAMES = [
    ("run", 2, "--backbone", "finetune backbones list"),
    ("run --backbone resnet_v1_11", 2, "'resnet_v1_11'", "did you mean resnet_v1_101?", "finetune backbones list"),
    ("run --backbone ''", 2, "''", "finetune backbones list"),
    ("run --backbone mobilenet_v1_0.2", 2, "'mobilenet_v1_0.2'", "did you mean mobilenet_v1_0.25?"),
    ("run SMALL --data demo-taget", 2, "'demo-taget'", "did you mean demo-target?", "cifar10"),
    ("run SMALL --preprocess incepton", 2, "'incepton'", "did you mean inception?"),
    ("run SMALL --preprocess ''", 2, "''", "inception"),
    ("run SMALL --optimizer sdg", 2, "--optimizer 'sdg'", "did you mean sgd?", "adamw"),
    ("run SMALL --schedule linear", 2, "--schedule 'linear'", "cosine, constant"),
    ("run SMALL --augment flop", 2, "--augment 'flop'", "did you mean flip?"),
    ("run SMALL --bn-updates maybe", 2, "--bn-updates 'maybe'", "on, off"),
    ("run SMALL --bn trian", 2, "'trian'", "did you mean train?", "freeze|affine|stats"),
    ("run SMALL --bn 'block1='", 2, "''", "train|freeze|affine|stats"),
    ("run SMALL --bn '=train'", 2, "'=train'", "no pattern", "POLICY"),
    ("run SMALL --bn 'blok1/*=train'", 2, "'blok1/*'", "matches no BN layer", "block1, block2"),
    ("run SMALL --freeze nothing", 2, "'nothing'", "matches no layer", "block1, block2"),
    ("run SMALL --freeze ''", 2, "''", "matches no layer"),
    ("run SMALL --freeze '*=maybe'", 2, "'maybe'", "PATTERN=train"),
    ("run SMALL --freeze '=train'", 2, "no pattern", "PATTERN"),
    ("run SMALL --freeze-until block9", 2, "'block9'", "conv1, block1, block2, block3"),
    ("run --bogus 3", 2, "--bogus", "finetune run --help"),
    ("run SMALL more", 2, "more", "finetune run --help"),
    ("rum SMALL", 2, "rum", "'run'", "finetune --help"),
    ("backbones show resnet_v1_5", 2, "did you mean resnet_v1_50?"),
    ("run SMALL --tta flop", 2, "--tta 'flop'", "did you mean flip?"),
    ("run SMALL --rand-augment 2", 2, "--rand-augment 2", "0.01 to 1"),
    ("run SMALL --rotate 181", 2, "--rotate 181", "0.01 to 180"),
    ("run SMALL --color-jitter 1.5", 2, "--color-jitter 1.5", "0.01 to 1"),
    ("run SMALL --erase 0", 2, "--erase 0", "0.01 to 1"),
    ("run SMALL --trivial-augment --rand-augment", 2, "--rand-augment 0.5 and --trivial-augment", "give one of them"),
    ("run SMALL --mixup 0", 2, "--mixup 0", "0.01 to 10"),
    ("run --backbone x --lr atuo", 2, "'atuo'", "or 'auto'"),
    ("run --backbone x --lr 0", 2, "--learning-rate 0.0", "or 'auto'"),
    ("run SMALL --preset linear-probe --unfreeze-epochs 2", 2, "only the head trains", "--unfreeze-epochs"),
    ("run SMALL --preset gradual --epochs 1", 2, "1 of 1 epoch", "--epochs"),
    ("run SMALL --ema 1", 2, "--ema 1", "inside (0, 1)"),
    ("run SMALL --patience 2 --validation 0", 2, "--patience 2", "no validation images", "--validation"),
    ("run SMALL --distribute mirrored --ema 0.9", 2, "--distribute mirrored and --ema", "give one of them"),
    ("run SMALL --distribute mirrored --unfreeze-epochs 1", 2, "--distribute mirrored and --unfreeze-epochs"),
    ("run SMALL --preset finetune", 2, "--preset 'finetune'", "did you mean fine-tune?"),
    ("evaluate run --tta flop", 2, "'flop'", "'flip'"),
    ("run SMALL --few-shot 2", 2, "and --few-shot 2 contradict", "--examples", "give one of them"),
    ("run --backbone resnet_v1_demo --data demo-target --few-shot 9999", 2, "--few-shot 9999", "200 training images"),
    ("evaluate run --split tset", 2, "'tset'", "'validation'"),
]

NOT_NUMBERS = [
    (f"run SMALL --{option} {value}", 2, f"--{option}", value.strip("'"))
    for option in (
        *("bn-decay", "bn-epsilon", "validation", "dropout", "learning-rate", "weight-decay", "warmup"),
        *("label-smoothing", "clip-norm", "examples", "image-size", "crop-padding", "hidden", "epochs"),
        *("batch-size", "patience", "seed", "few-shot", "mixup", "cutmix", "layer-decay", "rotate"),
    )
    for value in ("abc", "''", "0,5", "nan", "inf", "-1")
]

NUMBERS = [
    *((f"run SMALL --bn-decay {value}", 2, value, "inside (0, 1)", "auto") for value in ("0", "1", "1.5", "-0.5")),
    *(
        (f"run SMALL --{option} 0", 2, f"--{option} 0", "expected")
        for option in (
            "examples",
            "few-shot",
            "hidden",
            "epochs",
            "batch-size",
            "patience",
            "learning-rate",
        )
    ),
    *((f"run SMALL --{option} 1", 2, f"--{option} 1", "not including 1") for option in ("validation", "dropout")),
    ("run SMALL --seed 99999999999", 2, "99999999999", "2^31 - 1"),
    ("run SMALL --learning-rate 1e40", 2, "1e+40", "1e+06"),
    ("run SMALL --bn-epsilon 1e300", 2, "1e+300"),
    ("run SMALL --image-size 4", 2, "4 px", "at least 8 px", "--image-size 8"),
    ("run --backbone resnet_v1_50 --image-size 31", 2, "31 px", "at least 32 px"),
    ("run SMALL --crop-padding 32", 2, "--crop-padding 32", "0 to 31"),
    ("run SMALL --examples 9", 2, "9 examples", "10 classes", "--examples"),
    ("run SMALL --examples 2001", 2, "2001 examples", "2000", "--examples"),
    ("run SMALL --examples 10", 2, "0.05", "--validation", "--examples"),
    ("run SMALL --validation 0.999", 2, "0.999", "--validation", "--examples"),
    ("diagnose-bn run --images 0", 2, "--images", "0", "x>=1"),
    ("diagnose-bn run --images few", 2, "'few'", "whole number"),
    ("diagnose-bn run --images 3", 2, "--images 3", "10 classes"),
    ("recalibrate-bn run --images 3", 2, "--images 3", "10 classes"),
]

FILES = [
    ("run SMALL --checkpoint nowhere", 1, "nowhere", "expected a TF-slim checkpoint"),
    ("run SMALL --checkpoint ''", 2, "--checkpoint", "empty"),
    ("run SMALL --checkpoint file", 1, "/file", "not a checkpoint"),
    ("run SMALL --checkpoint folder", 1, "/folder", "without a checkpoint"),
    ("run SMALL --checkpoint ckpt/text.h5", 1, "text.h5", "not a checkpoint"),
    ("run SMALL --checkpoint ckpt/cut", 1, "ckpt/cut", "cut off"),
    ("run SMALL --checkpoint ckpt/cut-index", 1, "cut-index.index", "cut off"),
    (
        *("run SMALL --checkpoint ckpt/other", 1, "only in the file: resnet_v1_demo/stage1/", "nothing was assigned"),
        "only in the network: resnet_v1_demo/block1/",
    ),
    ("run SMALL --checkpoint ckpt/shape", 1, f"{FIRST_UNIT}/conv1/weights", "[1, 1, 16, 3]", "[1, 1, 16, 16]"),
    ("run SMALL --checkpoint ckpt/nan", 1, "NaN", f"{FIRST_UNIT}/conv1/weights"),
    (f"run --backbone keras/resnet50 --data demo-target --checkpoint {DEMO}", 1, "slim-v2", "keras/resnet50", ".h5"),
    ("run SMALL --checkpoint x --from-scratch", 2, "--from-scratch", "--checkpoint"),
    ("run --backbone resnet_v1_demo --data-dir nowhere", 1, "/nowhere", "does not exist", "cifar-10-batches-py"),
    ("run --backbone resnet_v1_demo --data-dir folder", 1, "/folder", "empty", "--data-dir"),
    ("run --backbone resnet_v1_demo --data-dir file", 1, "/file", "it is a file"),
    ("run SMALL --data-dir folder", 2, "demo-target", "/folder", "--data-dir"),
    ("run --backbone resnet_v1_demo --data-dir cifar/empty-class", 1, "class 3 (cat)", "no training images"),
    ("run --backbone resnet_v1_demo --data-dir cifar/label", 1, "label 99", "0 to 9"),
    ("run --backbone resnet_v1_demo --data-dir cifar/corrupt", 1, "cifar/corrupt/", "data_batch_1", "damaged"),
    ("run --backbone resnet_v1_demo --data-dir cifar/evil", 1, "refused", "data_batch_1", "mkdir", "expected arrays"),
    ("run --config nowhere.json", 1, "nowhere.json", "missing"),
    ("run --config folder", 1, "folder", "directory"),
    ("run --config file", 1, "file", "not JSON"),
    ("run --config cut.json", 1, "cut.json", "not JSON"),
    ("run --config list.json", 1, "list.json", "a JSON list", "object"),
    ("run --config newer.json", 1, "newer.json", "format_version 99", "upgrade"),
    ("run --config headless.json", 2, "headless.json", "--backbone"),
    ("run --config run/result.json", 2, "run/result.json", "unknown key"),
]

PLACES = [
    ("run SMALL --run-dir run", 2, "run is already there", "finished run", "another --run-dir"),
    ("run SMALL --run-dir 'stopped run'", 2, "already there", "finetune run --resume 'stopped run'"),
    ("run SMALL --run-dir folder", 2, "folder is already there", "another --run-dir"),
    ("run SMALL --run-dir file/inside", 2, "file is a file", "--run-dir"),
    ("run SMALL --run-dir ''", 2, "--run-dir", "empty"),
    ("run SMALL --runs-dir file", 2, "file is a file", "--runs-dir"),
    ("demo --runs-dir file", 2, "file is a file", "--runs-dir"),
    ("run --resume nowhere", 1, "nowhere", "config.json", "nothing of that name"),
    ("run --resume folder", 1, "folder", "config.json"),
    ("run --resume 'stopped run' --epochs 9", 2, "--epochs", "config.json"),
    ("run --resume 'stopped run' --run-dir x", 2, "--run-dir", "config.json"),
    ("evaluate nowhere", 1, "nowhere", "nothing of that name"),
    ("evaluate file", 1, "file cannot be examined", "config.json"),
    ("evaluate run/nope.keras", 1, "run/nope.keras is missing"),
    *(
        (f"{command} 'stopped run'", 1, "stopped run/model.keras is missing", "finetune run --resume 'stopped run'")
        for command in ("evaluate", "diagnose-bn", "recalibrate-bn")
    ),
    ("evaluate of/lambda", 1, "refused", "of/lambda/model.keras", "Lambda"),
    ("evaluate of/classes", 1, "3 outputs", "10 classes"),
    ("evaluate of/two", 1, "of/two/model.keras", "one output"),
    ("evaluate of/size", 1, "[None, 8, 8, 3]", "16 px"),
    ("diagnose-bn of/plain", 1, "no BatchNormalization layer", "finetune evaluate"),
    ("recalibrate-bn of/plain", 1, "no BatchNormalization layer"),
    ("recalibrate-bn run --out x.h5", 2, "x.h5", ".keras"),
    ("recalibrate-bn run --out nowhere/x.keras", 2, "nowhere/x.keras", "no directory"),
    ("recalibrate-bn run --out run/model.keras", 2, "run/model.keras is already there", "--out"),
    ("run SMALL --image-size 0", 2, "--image-size", "'0' is not valid", "expected"),
    ("backbones verify resnet_v1_demo --photos folder", 2, "resnet_v1_demo", "ImageNet's classes"),
]


# They load a network before they fail. In make test, one of each kind does.
LONG = (
    "recalibrate-bn run --out x.h5",
    "recalibrate-bn run --out run/model.keras",
    "recalibrate-bn run --images 3",
    "run SMALL --preset gradual --epochs 1",
    "run SMALL --freeze ''",
    "run SMALL --freeze-until block9",
    "run SMALL --bn 'blok1/*=train'",
    "run SMALL --checkpoint ckpt/shape",
)
CASES = [*NAMES, *NOT_NUMBERS, *NUMBERS, *FILES, *PLACES]


@pytest.mark.parametrize(
    "case",
    [pytest.param(case, marks=[pytest.mark.slow] if case[0] in LONG else [], id=case[0]) for case in CASES],
)
def test_one_message_and_nothing_left_behind(case, refused):
    refused(*case)


def test_what_fails_at_the_first_step_leaves_no_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = typed("run TINY --quiet --learning-rate 1e6 --optimizer sgd --warmup 0 --bn freeze --run-dir runs/x")
    assert result.exit_code == 1
    assert "the loss is" in result.stderr
    assert "--learning-rate" in result.stderr
    assert not list(tmp_path.iterdir())


def test_an_unexpected_exception_is_one_message_too(monkeypatch):
    monkeypatch.setattr("finetune.backbone.find_backbone", lambda name: 1 / 0)
    result = typed("backbones show resnet_v1_50")
    assert result.exit_code == 1
    assert result.stderr.startswith("Error: unexpected ZeroDivisionError: division by zero. This is a defect")
    monkeypatch.setenv("FINETUNE_TRACEBACK", "1")
    assert isinstance(typed("backbones show resnet_v1_50").exception, ZeroDivisionError)
